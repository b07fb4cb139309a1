"""One-shot pruning of a tiny random network."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from sparserve.models.data.dataset import Split
from sparserve.models.data.tokenization import Collator, tokenize
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.errors import TrainingError
from sparserve.models.pruning.one_shot import prune_once
from sparserve.models.recipes.schema import Pruning

BATCHES = 6
OBERT = {"method": "obert", "options": {"fisher_block": 16, "gradients": 4}}


@pytest.fixture(scope="module")
def batches(tiny_checkpoint: Path) -> Any:
    texts = [f"the {'good' if row % 2 else 'bad'} movie {'very ' * (row % 7)}{row}" for row in range(8 * BATCHES)]
    split = Split(texts, None, [row % 2 for row in range(len(texts))])
    rows = tokenize(split, AutoTokenizer.from_pretrained(tiny_checkpoint), 32, multi_label=False)
    return [Collator(0)([rows[8 * batch + row] for row in range(8)]) for batch in range(BATCHES)]


def label_loss(model: Any, inputs: Any, rows: Any) -> Any:
    return model(**inputs).loss


def prune(network: Any, batches: Any, pruning: Any, loss: Any = label_loss, progress: Any = lambda *_: None) -> Any:
    model = copy.deepcopy(network)
    return model, prune_once(model, pruning, batches, len(batches), loss=loss, progress=progress)


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("method", [{}, OBERT])
def test_prune_once_meets_sparsity_and_changes_nothing_else(
    network: Any, batches: Any, method: Any, updates: int
) -> None:
    seen = []
    pruning = Pruning(**method, sparsity=0.6, updates=updates, begin=0.5, end=1.0)
    model, _ = prune(network, batches, pruning, progress=lambda *said: seen.append(said))
    linears = encoder_linears(model)
    for name, linear in linears.items():
        assert int((linear.weight == 0).sum()) == round(0.6 * linear.weight.numel()), name
    pruned = {f"{name}.weight" for name in linears}
    for (name, before), after in zip(network.named_parameters(), model.parameters(), strict=True):
        assert name in pruned or torch.equal(before, after)
        assert after.grad is None
    assert not model.training
    assert [said[:2] for said in seen] == [(step, BATCHES) for step in range(1, BATCHES + 1)]
    assert seen[-1][2] == "sparsity 0.600"


def test_prune_once_obert_beats_magnitude(network: Any, batches: Any) -> None:
    def difference(model: Any) -> Any:
        return sum(
            float((model(**inputs).logits - network(**inputs).logits).square().sum())
            for inputs in ({key: value for key, value in batch.items() if key != "row"} for batch in batches)
        )

    network.eval()
    by_magnitude, _ = prune(network, batches, Pruning(sparsity=0.3, begin=1.0, end=1.0))
    options = {"fisher_block": 64, "gradients": BATCHES, "damping": 0.01}
    by_obert, _ = prune(network, batches, Pruning(method="obert", options=options, sparsity=0.3, begin=1.0, end=1.0))
    with torch.no_grad():
        assert difference(by_obert) < difference(by_magnitude)


def test_prune_once_names_batch_of_nan_loss(network: Any, batches: Any) -> None:
    def loss(model: Any, inputs: Any, rows: Any) -> Any:
        return label_loss(model, inputs, rows) * float("nan")

    with pytest.raises(TrainingError, match="nan at batch 1"):
        prune(network, batches, Pruning(), loss=loss)


def test_prune_once_names_batch_of_nan_gradient(network: Any, batches: Any) -> None:
    def loss(model: Any, inputs: Any, rows: Any) -> Any:
        # Finite, but the derivative of the root of 0 is not.
        return label_loss(model, inputs, rows) + (0 * model.classifier.weight).sum().sqrt()

    with pytest.raises(TrainingError, match="norm is nan at batch 1"):
        prune(network, batches, Pruning(), loss=loss)
