"""Fixtures for tests of the offline job: tiny networks and their exported graphs."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparserve.models.encoders.checkpoint import Checkpoint, resolve_checkpoint
from tests.support.models.exporting import LABELS, Exported, classifier, export
from tests.support.shared_folders import made_once


@pytest.fixture(scope="session", autouse=True)
def shared_templates(templates: Path) -> None:
    """Trace each network once for all processes."""


@pytest.fixture(scope="session")
def exported_encoder(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exported]:
    """Return a maker of exported classifiers; each model type is exported once per session."""

    @cache
    def make(model_type: str) -> Exported:
        model = classifier(make_checkpoint(model_type))
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if (".layer." in name or ".layers." in name) and parameter.ndim == 2:
                    parameter.mul_(5 * (torch.rand_like(parameter) < 0.2))

        def build(folder: Path) -> None:
            difference = export(model, folder / "model.onnx")
            (folder / "difference").write_text(repr(difference))

        folder = made_once(tmp_path_factory, f"exported-{model_type}", build)
        return Exported(model, folder / "model.onnx", float((folder / "difference").read_text()))

    return make


@pytest.fixture
def changed_bert(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Return a maker of a random BERT with changed settings, which returns its graph and the model."""

    def make(**changes: Any) -> tuple[Path, Any]:
        # The project's loader refuses some of these settings, and transformers does not.
        config = AutoConfig.from_pretrained(
            make_checkpoint("bert"), num_labels=len(LABELS), attn_implementation="eager", **changes
        )
        model = AutoModelForSequenceClassification.from_config(config).eval()
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
def bert(exported_encoder: Callable[[str], Exported]) -> Exported:
    """A random sparse BERT and its graph."""
    return exported_encoder("bert")


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path) -> Checkpoint:
    """The tiny checkpoint, resolved."""
    return resolve_checkpoint(str(tiny_checkpoint))


@pytest.fixture(scope="module")
def network(tiny_checkpoint: Path) -> Any:
    """The tiny checkpoint as a classifier of two labels, with a random head."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint, num_labels=2)
