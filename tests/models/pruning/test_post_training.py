import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from sparserve.models.encoders.layers import encoder_layers, encoder_linears
from sparserve.models.encoders.squeezing import squeeze as squeeze_network
from sparserve.models.encoders.structure import Structure
from sparserve.models.errors import RecipeError, TrainingError
from sparserve.models.pruning.masks import Masks
from sparserve.models.pruning.registry import make_unit_method
from sparserve.models.pruning.units.budget import Operations, most_important, operations, search
from sparserve.models.pruning.units.mask_gradients import mask_gradients, rearrange
from sparserve.models.pruning.units.moments import JointMoments
from sparserve.models.pruning.units.mutual_information import MutualInformation
from sparserve.models.pruning.units.post_training import PostTraining
from sparserve.models.pruning.units.reconstruction import refit, solve
from sparserve.models.recipes.schema import Squeeze
from tests.support.models.calibration_rows import calibration, classifier

HALF = Structure(heads=((0, 2), (1, 3)), units=(tuple(range(0, 48, 2)), tuple(range(24))))


def logits(model: Any, batches: Any) -> Any:
    with torch.no_grad():
        return torch.cat(
            [model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits for batch in batches]
        )


@pytest.mark.parametrize(
    ("model_type", "problem_type"),
    [("modernbert", "single_label_classification"), ("mpnet", "single_label_classification"),
     ("bert", "multi_label_classification")],
)  # fmt: skip
def test_mask_gradients_match_single_rows(
    make_checkpoint: Callable[[str], Path], model_type: str, problem_type: str
) -> None:
    model = classifier(make_checkpoint(model_type), problem_type)
    batches = calibration(8, problem_type)
    found = mask_gradients(model, batches)
    assert all(parameter.grad is None for parameter in model.parameters())
    (batch,) = batches
    for row in range(8):
        model.zero_grad()
        model(**{name: value[row : row + 1] for name, value in batch.items() if name != "row"}).loss.backward()
        for layer, gradients in zip(encoder_layers(model), found, strict=True):
            # A mask scales the columns that read its head or unit.
            for linear, expected in ((layer.attention_output, gradients.heads), (layer.output, gradients.units)):
                of_columns = (linear.weight.grad * linear.weight).sum(0)  # type: ignore[operator]
                alone = of_columns.unflatten(0, (expected.shape[1], -1)).sum(-1)  # type: ignore[no-untyped-call]
                torch.testing.assert_close(alone, expected[row], atol=1e-5, rtol=1e-3)


def test_mask_gradients_reject_nan_loss(tiny_checkpoint: Path) -> None:
    model = classifier(tiny_checkpoint)
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(TrainingError, match="calibration batch"):
        mask_gradients(model, calibration())


importances = st.lists(
    st.lists(st.floats(0, 100), min_size=1, max_size=4).map(np.asarray), min_size=2, max_size=2
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(heads=importances, units=importances, head=st.integers(1, 9), unit=st.integers(1, 3), fraction=st.floats(0, 1))
def test_search_finds_best_choice_within_budget(heads: Any, units: Any, head: Any, unit: Any, fraction: Any) -> None:
    cost = Operations(head, unit)
    whole = cost.of(sum(map(len, heads)), sum(map(len, units)))
    if fraction * whole < cost.of(2, 2):
        with pytest.raises(RecipeError, match=r"squeeze\.flops .* smallest fraction is"):
            search(heads, units, cost, fraction)
        return
    n, m = search(heads, units, cost, fraction)
    assert cost.of(n, m) <= fraction * whole * (1 + 1e-12)

    def kept(importance: Any, count: Any) -> Any:
        masks = most_important(importance, count)
        assert sum(mask.sum() for mask in masks) == count
        assert all(mask.any() for mask in masks)
        return sum(layer[mask].sum() for layer, mask in zip(importance, masks, strict=True))

    best = kept(heads, n) + kept(units, m)
    for other_n, other_m in itertools.product(range(2, sum(map(len, heads)) + 1), range(2, sum(map(len, units)) + 1)):
        if cost.of(other_n, other_m) <= fraction * whole:
            assert kept(heads, other_n) + kept(units, other_m) <= best + 1e-9


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), count=st.integers(1, 7))
def test_rearrange_leaves_no_improving_swap(seed: int, count: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(20, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    fisher = (gradients.T @ gradients / 20).numpy()

    def loss(mask: Any) -> Any:
        return fisher[np.ix_(~mask, ~mask)].sum()

    (start,) = most_important([fisher.diagonal()], count)
    result = rearrange(gradients, start)
    assert result.sum() == count
    assert loss(result) <= loss(start) * (1 + 1e-6)
    for gone, stays in itertools.product(np.flatnonzero(~result), np.flatnonzero(result)):
        other = result.copy()
        other[gone], other[stays] = True, False
        assert loss(other) >= loss(result) - 1e-4 * fisher.trace()


def test_rearrange_keeps_one_of_two_equal_units() -> None:
    same = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    other = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    gradients = torch.cat([same, same, 1.2 * other], dim=1)
    # By the diagonal alone both copies go; together they matter four times as much as one.
    assert rearrange(gradients, np.asarray([False, False, True, True])).tolist()[:2].count(True) == 1


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "distilbert", "modernbert", "mpnet"])
def test_refit_reduces_error_of_every_layer(make_checkpoint: Callable[[str], Path], model_type: str) -> None:
    dense = classifier(make_checkpoint(model_type))
    model = copy.deepcopy(dense)
    squeeze_network(model, HALF)
    batches = calibration(64)
    before = logits(model, batches)
    fits = refit(model, dense, batches, damping=0.01)
    assert len(fits) == 4
    assert all(0 <= fit.after < fit.before for fit in fits)
    wanted = logits(dense, batches)
    assert (logits(model, batches) - wanted).square().mean() < (before - wanted).square().mean()
    assert refit(model, dense, batches, damping=0.01)[0].before == pytest.approx(fits[0].after, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "options"), [(PostTraining, {"flops": 0.6}), (MutualInformation, {"heads": 0.75, "units": 0.75})]
)
def test_refit_improves_pruned_network_without_regrowth(tiny_checkpoint: Path, method: Any, options: Any) -> None:
    dense = classifier(tiny_checkpoint)
    linears = encoder_linears(dense)
    masks = Masks(linears)
    masks.raise_sparsity({name: linear.weight.detach().abs() for name, linear in linears.items()}, 0.7, "uniform")
    masks.apply()
    batches = calibration(64)
    wanted, apart = logits(dense, batches), {}
    networks = {tune: copy.deepcopy(dense) for tune in (False, True)}
    for tune, model in networks.items():
        method(tune=tune).apply(model, batches, Squeeze(**options))
        apart[tune] = (logits(model, batches) - wanted).square().mean()
    assert apart[True] < apart[False]
    changed = {}
    for name, linear in encoder_linears(networks[True]).items():
        as_squeezed = encoder_linears(networks[False])[name].weight
        assert torch.equal(linear.weight == 0, as_squeezed == 0), name
        changed[name] = not torch.equal(linear.weight, as_squeezed)
    assert {name for name, did in changed.items() if did} == {name for name in linears if "output.dense" in name}


@pytest.mark.parametrize("same", [True, False])
def test_solve_matches_least_squares_of_each_row(same: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, wanted = (torch.randn(500, width, generator=generator, dtype=torch.float64) for width in (6, 4))
    wanted = wanted + inputs @ torch.randn(6, 4, generator=generator, dtype=torch.float64)
    linear = torch.nn.Linear(6, 4, dtype=torch.float64)
    with torch.no_grad():
        linear.weight *= torch.tensor([[1, 0, 1, 1, 0, 1]] * 4) if same else torch.eye(6)[:4] + torch.eye(6)[2:]
    free = linear.weight != 0
    moments = JointMoments()
    with torch.no_grad():
        moments.add(wanted - linear(inputs), inputs)
    fit = solve(linear, moments, damping=1e-9)
    for row in range(4):
        expected = LinearRegression().fit(inputs[:, free[row]], wanted[:, row])
        np.testing.assert_allclose(linear.weight[row, free[row]].detach(), expected.coef_, rtol=1e-4)
        assert linear.bias[row].item() == pytest.approx(expected.intercept_, abs=1e-4)
    assert torch.equal(linear.weight != 0, free)
    assert fit.after == pytest.approx((wanted - linear(inputs)).square().mean(0).sum().item(), rel=1e-4)


def test_solve_changes_only_bias_of_zero_matrix() -> None:
    linear = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    moments = JointMoments()
    generator = torch.Generator().manual_seed(0)
    inputs, wanted = torch.randn(50, 3, generator=generator), torch.randn(50, 2, generator=generator) + 3
    moments.add(wanted, inputs)
    solve(linear, moments, damping=0.01)
    assert not linear.weight.any()
    torch.testing.assert_close(linear.bias.detach(), wanted.mean(0))


@pytest.mark.parametrize("size", [0.1, 1.0, 3.7, 100.0])
def test_solve_ignores_inputs_that_vary_by_rounding(size: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(4, 3)
    before = linear.weight.detach().clone()
    moments = JointMoments()
    for _ in range(4):
        rounding = 6e-8 * torch.randint(-1, 2, (50, 4), generator=generator)
        moments.add(torch.randn(50, 3, generator=generator), size * (1 + rounding))
    solve(linear, moments, damping=0.01)
    torch.testing.assert_close(linear.weight.detach(), before, atol=0.5 / size, rtol=0)


@pytest.mark.parametrize("model_type", ["bert", "mpnet"])
def test_post_training_keeps_budget(make_checkpoint: Callable[[str], Path], model_type: str) -> None:
    model = classifier(make_checkpoint(model_type))
    batches = calibration()
    lengths = [int(length) for batch in batches for length in batch["attention_mask"].sum(-1)]
    cost = operations(encoder_layers(model)[0], lengths)
    structure = PostTraining(rearrange=True).apply(model, batches, Squeeze(method="post-training", flops=0.5))
    layers = encoder_layers(model)
    assert [len(heads) for heads in structure.heads] == [layer.heads for layer in layers]
    assert [len(units) for units in structure.units] == [layer.units for layer in layers]
    spent = cost.of(sum(layer.heads for layer in layers), sum(layer.units for layer in layers))
    assert 0.45 * cost.of(8, 96) <= spent <= 0.5 * cost.of(8, 96)
    assert torch.isfinite(logits(model, batches)).all()


def test_post_training_fractions_hold_over_all_layers(tiny_checkpoint: Path) -> None:
    squeeze = Squeeze(method="post-training", heads=0.5, units=0.25)
    structure = PostTraining(tune=False).apply(classifier(tiny_checkpoint), calibration(), squeeze)
    assert sum(map(len, structure.heads)) == 4
    assert sum(map(len, structure.units)) == 24


def test_post_training_full_budget_changes_nothing(tiny_checkpoint: Path) -> None:
    model = classifier(tiny_checkpoint)
    batches = calibration()
    before = logits(model, batches)
    PostTraining().apply(model, batches, Squeeze(method="post-training", flops=1.0))
    torch.testing.assert_close(logits(model, batches), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("squeeze", "message"),
    [
        (Squeeze(method="post-training", hidden=0.5), r"squeeze\.hidden: post-training cannot remove hidden"),
        (Squeeze(method="post-training", heads=0.1), r"leaves zero heads.*smallest fraction is 0\.25"),
        (Squeeze(method="post-training", flops=0.01), r"too small for one head and one unit in each of 2 layers"),
    ],
)
def test_post_training_rejects_impossible_squeeze(tiny_checkpoint: Path, squeeze: Any, message: Any) -> None:
    with pytest.raises(RecipeError, match=message):
        make_unit_method(squeeze).apply(classifier(tiny_checkpoint), calibration(), squeeze)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("post-training", {"damping": 0}, "damping is 0; it must be above 0"),
        ("post-training", {"damp": 1}, r"Options: rearrange, tune, damping\."),
        ("fisher", {}, r"Methods: mutual-information, post-training\."),
    ],
)
def test_make_unit_method_rejects_invalid_settings(method: Any, options: Any, message: Any) -> None:
    with pytest.raises(RecipeError, match=message):
        make_unit_method(Squeeze(method=method, options=options))
