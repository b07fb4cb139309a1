"""Loading a bundle's network into torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparserve.models.bundle.bundle import write_bundle
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.bundle.manifest import Calibration
from sparserve.models.encoders.checkpoint import save_classifier
from sparserve.models.encoders.squeezing import squeeze
from sparserve.models.encoders.structure import STRUCTURE, Structure
from sparserve.models.errors import BundleError, CheckpointError
from sparserve.models.export.reload import load_bundle_model
from sparserve.models.export.temperature import divide_logits
from sparserve.models.export.token_table import shrink_embeddings
from sparserve.models.recipes.schema import Embeddings
from tests.support.models.exporting import LABELS, Exported, classifier
from tests.support.tiny_bundles import graph, manifest, tokenizer_json


@pytest.fixture(scope="module")
def squeezed(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return a squeezed network and the folder of its checkpoint."""
    model, folder = classifier(make_checkpoint("bert")), tmp_path_factory.mktemp("squeezed")
    squeeze(model, Structure(heads=((0, 3), (1,)), units=((7, 9), (0, 1, 2))))
    save_classifier(model, folder)
    return model, folder


def bundle(parent: Path, folder: Path | None, *, model: Path | None = None, **changes: Any) -> Path:
    files = {"model.onnx": model or graph(), "tokenizer.json": tokenizer_json()}
    checkpoint = {f"checkpoint/{path.name}": path for path in folder.iterdir()} if folder else {}
    return write_bundle(parent, manifest(**{"labels": LABELS, **changes}), files | checkpoint).folder


def test_load_bundle_model_returns_the_network(squeezed: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = squeezed
    loaded = load_bundle_model(bundle(tmp_path, folder, problem_type="multi_label_classification"))
    ids = torch.randint(5, 40, (2, 7))
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert not loaded.training
    assert loaded.config.problem_type == "multi_label_classification"
    assert tuple(loaded.config.id2label.values()) == LABELS


@pytest.mark.parametrize(
    "settings", [{"vocabulary": "training"}, {"rank": 8}, {"vocabulary": "training", "rank": 8}], ids=str
)
def test_load_bundle_model_applies_a_smaller_token_table(
    bert: Exported, tmp_path: Path, settings: dict[str, Any]
) -> None:
    save_classifier(bert.model, tmp_path / "checkpoint")
    counts = np.zeros(bert.model.config.vocab_size, np.int64)
    counts[5:45:2] = 1
    target = tmp_path / "model.onnx"
    table = shrink_embeddings(bert.path, target, Embeddings(**settings), counts=counts, always_keep=(0, 2, 3))
    loaded = load_bundle_model(bundle(tmp_path, tmp_path / "checkpoint", model=target, token_table=table))
    ids = torch.arange(5, 45).reshape(4, 10)
    graphs = OnnxClassifier(target, pad_token_id=0, threads=1)
    inputs = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    logits = torch.from_numpy(graphs.run({name: values.numpy() for name, values in inputs.items()}))
    torch.testing.assert_close(loaded(**inputs).logits.detach(), logits, atol=1e-5, rtol=0)
    assert (bert.model(**inputs).logits.detach() - logits).abs().max() > 1e-3


def test_load_bundle_model_applies_the_temperature(bert: Exported, tmp_path: Path) -> None:
    save_classifier(bert.model, tmp_path / "checkpoint")
    target = tmp_path / "model.onnx"
    target.write_bytes(bert.path.read_bytes())
    divide_logits(target, 4.0)
    figures = {"error_before": 0.1, "error_after": 0.1, "nll_before": 1, "nll_after": 1}
    calibration = Calibration(temperature=4.0, rows=9, **figures)
    loaded = load_bundle_model(bundle(tmp_path, tmp_path / "checkpoint", model=target, calibration=calibration))
    ids = torch.arange(5, 45).reshape(4, 10)
    torch.testing.assert_close(loaded(ids).logits, bert.model(ids).logits / 4)


def test_load_bundle_model_refuses_a_bundle_without_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'dense-int8' has no checkpoint\. Use the fp32 variant"):
        load_bundle_model(bundle(tmp_path, None, variant="dense-int8"))


def test_load_bundle_model_refuses_other_labels(squeezed: tuple[Any, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="predicts 3 labels, but the manifest has 2"):
        load_bundle_model(bundle(tmp_path, squeezed[1], labels=("no", "yes")))


def test_load_bundle_model_refuses_a_changed_structure(squeezed: tuple[Any, Path], tmp_path: Path) -> None:
    folder = bundle(tmp_path, squeezed[1])
    Structure(heads=((0, 2), (1,)), units=((7, 9), (0, 1, 2))).save(folder / "checkpoint")
    with pytest.raises(BundleError, match=rf"checkpoint/{STRUCTURE}.*SHA-256"):
        load_bundle_model(folder)
