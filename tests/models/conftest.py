import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sparserve.models.encoders.checkpoint import resolve_checkpoint
from tests.support.models.exporting import classifier, export
from tests.support.shared_folders import made_once


@dataclass(frozen=True)
class Exported:
    """A random classifier with 80 % zeros in its encoder, and its graph."""

    model: torch.nn.Module
    path: Path
    difference: float  # of a logit between the two


@pytest.fixture(scope="session")
def exported_encoder(make_checkpoint, tmp_path_factory):
    """Return a maker of exported classifiers, one a model type, made once a session."""

    @cache
    def make(model_type):
        model = classifier(make_checkpoint(model_type))
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".layer." in name and parameter.ndim == 2:
                    parameter.mul_(5 * (torch.rand_like(parameter) < 0.2))

        def build(folder):
            difference = export(model, folder / "model.onnx")
            (folder / "difference").write_text(repr(difference))

        folder = made_once(tmp_path_factory, f"exported-{model_type}", build)
        return Exported(model, folder / "model.onnx", float((folder / "difference").read_text()))

    return make


@pytest.fixture
def changed_bert(make_checkpoint, tmp_path):
    """Return a maker of the graph of a random BERT with other settings, and the model."""

    def make(**changes):
        checkpoint = shutil.copytree(make_checkpoint("bert"), tmp_path / "changed")
        config = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps({**config, **changes}))
        model = classifier(checkpoint)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".layer." in name and parameter.ndim == 2:
                    parameter.mul_(5)
        path = tmp_path / "graph" / "model.onnx"
        path.parent.mkdir()
        export(model, path)
        return path, model

    return make


@pytest.fixture(scope="module")
def bert(exported_encoder):
    """A random sparse BERT and its graph."""
    return exported_encoder("bert")


@pytest.fixture(scope="module")
def whole(tiny_checkpoint):
    """The tiny checkpoint, resolved."""
    return resolve_checkpoint(str(tiny_checkpoint))


@pytest.fixture(scope="module")
def network(tiny_checkpoint):
    """The tiny checkpoint as a classifier of two labels, with a random head."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint, num_labels=2)
