"""Saving and loading of squeezed networks."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparserve.models.encoders.checkpoint import load_classifier, resolve_checkpoint, save_classifier
from sparserve.models.encoders.squeezing import squeeze, structure_of
from sparserve.models.encoders.structure import STRUCTURE, Structure
from sparserve.models.errors import CheckpointError
from tests.support.models.exporting import ENCODERS, LABELS
from tests.support.models.squeezed import HIDDEN, NARROW, logits, network_of

PROBLEM = "single_label_classification"


@pytest.fixture(scope="module")
def bert(make_checkpoint: Callable[..., Path]) -> Any:
    return network_of(make_checkpoint, "bert")


@pytest.mark.parametrize("name", ENCODERS)
def test_squeezed_checkpoint_loads_as_it_was_saved(
    make_checkpoint: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    model = network_of(make_checkpoint, name)
    squeeze(model, NARROW)
    save_classifier(model, tmp_path)
    loaded = load_classifier(tmp_path, LABELS, PROBLEM, attention="eager")
    assert structure_of(loaded) == NARROW
    assert not loaded.training
    state = model.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert torch.equal(logits(loaded), logits(model))


@pytest.fixture
def saved(bert: Any, tmp_path: Path) -> Path:
    """The folder of a squeezed BERT."""
    model = copy.deepcopy(bert)
    squeeze(model, NARROW)
    save_classifier(model, tmp_path / "squeezed")
    return tmp_path / "squeezed"


def test_squeezed_checkpoint_gets_a_new_head_for_other_labels(saved: Path) -> None:
    models: list[Any] = [
        load_classifier(saved, names, PROBLEM, seed=seed)
        for names, seed in ((LABELS, 0), ("ab", 1), ("ab", 1), ("ab", 2))
    ]
    same, first, again, other = models
    assert first.classifier.weight.shape == (2, HIDDEN)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.bert.pooler.dense.weight, same.bert.pooler.dense.weight)
    assert first.config.label2id == {"a": 0, "b": 1}


def test_checkpoint_digest_covers_the_structure(saved: Path) -> None:
    digest = resolve_checkpoint(str(saved)).digest
    Structure(heads=((0, 1, 3), (1,)), units=NARROW.units, hidden=NARROW.hidden).save(saved)
    assert resolve_checkpoint(str(saved)).digest != digest


def test_save_classifier_removes_an_earlier_structure(saved: Path, bert: Any) -> None:
    save_classifier(bert, saved)
    assert torch.equal(logits(load_classifier(saved, LABELS, PROBLEM, attention="eager")), logits(bert))


def test_load_classifier_refuses_squeezed_weights_without_structure(saved: Path) -> None:
    (saved / STRUCTURE).unlink()
    with pytest.raises(CheckpointError, match=r"encoder's weights have another shape.*structure\.json"):
        load_classifier(saved, LABELS, PROBLEM)


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        ({"heads": ((0, 2, 3), (1, 4))}, "heads of layer 1: index 4 is out of range"),
        ({"hidden": (0, 32)}, "hidden dimensions: index 32 is out of range"),
        ({"heads": ((0, 2), (1,))}, r"have another shape.*structure\.json"),
        ({"hidden": None}, r"have another shape.*structure\.json"),
        ({"heads": ((0,),), "units": ((0,),)}, "1 layers, but the network has 2 layers"),
    ],
)
def test_load_classifier_refuses_a_forged_structure(saved: Path, structure: dict[str, Any], reason: str) -> None:
    Structure(**{**NARROW.model_dump(), **structure}).save(saved)
    with pytest.raises(CheckpointError, match=reason):
        load_classifier(saved, LABELS, PROBLEM)


@pytest.mark.parametrize(
    "change", [{"num_attention_heads": 2}, {"hidden_size": 64}, {"num_hidden_layers": 3}, {"hidden_size": 33}]
)
def test_load_classifier_refuses_a_configuration_that_does_not_fit(saved: Path, change: dict[str, int]) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError):
        load_classifier(saved, LABELS, PROBLEM)
