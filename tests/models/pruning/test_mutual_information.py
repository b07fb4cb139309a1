from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from sparserve.models.encoders.layers import encoder_layers
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.pruning.registry import make_unit_method
from sparserve.models.pruning.units.moments import JointMoments
from sparserve.models.pruning.units.mutual_information import MutualInformation, mutual_information
from sparserve.models.recipes.schema import Squeeze
from tests.support.models.calibration_rows import calibration, classifier
from tests.support.models.squeezed import silence


def gaussian(seed: int, vectors: Any = 400, features: Any = 6) -> Any:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator, dtype=torch.float64)
    return torch.randn(vectors, features, generator=generator, dtype=torch.float64) @ mixing + 3


def moments_of(x: Any, y: Any, block: Any = 1, parts: int = 3) -> Any:
    moments = JointMoments(block)
    for some_x, some_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
        moments.add(some_x, some_y)
    return moments


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), parts=st.integers(1, 5), shift=st.sampled_from([0.0, 1000.0]))
def test_joint_moments_match_all_batches_together(seed: int, parts: int, shift: float) -> None:
    data = gaussian(seed) + shift
    moments = moments_of(data[:, :4], data[:, 4:], block=2, parts=parts)
    expected = np.cov(data.numpy().T, bias=True)
    tolerance = {"rtol": 1e-3, "atol": 1e-3 * expected.max()}
    np.testing.assert_allclose(moments.x_mean, data[:, :4].mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.y_mean, data[:, 4:].mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.xx[1], expected[2:4, 2:4], **tolerance)
    np.testing.assert_allclose(moments.xy, expected[:4, 4:], **tolerance)
    np.testing.assert_allclose(moments.yy, expected[4:, 4:], **tolerance)


def test_mutual_information_of_unit_matches_regression() -> None:
    data = gaussian(0)
    x, y = data[:, :3], data[:, 3:]
    fit = LinearRegression()
    determined = np.asarray([fit.fit(y, x[:, unit]).score(y, x[:, unit]) for unit in range(3)])
    found = mutual_information(moments_of(x, y), shrinkage=1e-9)
    np.testing.assert_allclose(found, -np.log1p(-determined) / 2, rtol=1e-3)


def test_mutual_information_of_head_is_entropy_difference() -> None:
    data = gaussian(1)
    covariance = np.cov(data.numpy().T, bias=True)

    def entropy(*features: Any) -> Any:
        return np.linalg.slogdet(covariance[np.ix_(features, features)])[1] / 2

    found = mutual_information(moments_of(data[:, :4], data[:, 4:], block=2), shrinkage=1e-9)
    expected = [
        entropy(0, 1) + entropy(4, 5) - entropy(0, 1, 4, 5),
        entropy(2, 3) + entropy(4, 5) - entropy(2, 3, 4, 5),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000))
def test_mutual_information_of_head_is_basis_independent(seed: int) -> None:
    data = gaussian(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    before = mutual_information(moments_of(data[:, :3], data[:, 3:], block=3), shrinkage=0.1)
    after = mutual_information(moments_of(data[:, :3] @ rotation, data[:, 3:], block=3), shrinkage=0.1)
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)


def test_mutual_information_ranks_copy_first_and_noise_last() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2000, 3, generator=generator)
    noise = torch.randn(2000, 3, generator=generator)
    constant = torch.full((2000,), 5.0)
    units = torch.stack([noise[:, 0], y[:, 1] + noise[:, 1], y[:, 0], y[:, 2] + 0.3 * noise[:, 2], constant], dim=1)
    information = mutual_information(moments_of(units, y), shrinkage=0.01)
    assert information.argsort(descending=True).tolist() == [2, 3, 1, 0, 4]
    assert information[0] < 0.01
    assert information[4] == pytest.approx(0, abs=1e-9)


def test_mutual_information_noise_scales_with_targets() -> None:
    y = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, 100.0):
        information = mutual_information(moments_of(y, scale * y), shrinkage=0.1)
        assert information.item() == pytest.approx(-np.log(1 - 1 / 1.1) / 2, rel=1e-3)


def test_mutual_information_uses_kept_features_only() -> None:
    y = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    information = mutual_information(moments_of(y, y), shrinkage=0.01, kept=[1])
    assert information.argmax() == 1
    assert information[[0, 2]].max() < 0.01


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_mutual_information_method_removes_constant_units_first(
    make_checkpoint: Callable[[str], Path], model_type: str
) -> None:
    model = classifier(make_checkpoint(model_type))
    for layer in encoder_layers(model):
        with torch.no_grad():
            for rows, silent in ((layer.intermediate, slice(10, 22)), (layer.value, slice(8, 16))):
                silence(rows, silent)
    structure = MutualInformation().apply(model, calibration(), Squeeze(heads=0.75, units=0.75))
    assert structure.heads == ((0, 2, 3),) * 2
    assert structure.units == (tuple(unit for unit in range(48) if not 10 <= unit < 22),) * 2
    assert [(layer.heads, layer.units) for layer in encoder_layers(model)] == [(3, 36)] * 2
    assert structure.hidden is None


@pytest.mark.parametrize(("index", "part"), [(0, "intermediate"), (1, "intermediate"), (0, "value"), (1, "value")])
def test_mutual_information_method_handles_constant_layer(tiny_checkpoint: Path, index: Any, part: Any) -> None:
    model = classifier(tiny_checkpoint)
    with torch.no_grad():
        getattr(encoder_layers(model)[index], part).weight.zero_()  # its bias stays: a constant, up to rounding
    structure = MutualInformation().choose(model, calibration(64), Squeeze(heads=0.5, units=0.5))
    assert [(len(heads), len(units)) for heads, units in zip(structure.heads, structure.units, strict=True)] == [
        (2, 24)
    ] * 2


def test_mutual_information_method_rejects_nan_features(tiny_checkpoint: Path) -> None:
    model = classifier(tiny_checkpoint)
    with torch.no_grad():
        encoder_layers(model)[0].value.weight[0] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        MutualInformation().apply(model, calibration(), Squeeze(units=0.5))


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "mpnet"])
def test_mutual_information_method_squeezes_hidden_dimensions(
    make_checkpoint: Callable[[str], Path], model_type: str
) -> None:
    model = classifier(make_checkpoint(model_type))
    batches = calibration()
    structure = MutualInformation().apply(model, batches, Squeeze(hidden=0.5, units=0.5))
    assert len(structure.hidden) == 16
    assert all(layer.query.in_features == 16 for layer in encoder_layers(model))
    logits = model(input_ids=batches[0]["input_ids"], attention_mask=batches[0]["attention_mask"]).logits
    assert logits.shape == (8, 3)


def test_mutual_information_method_refit_restores_logits(tiny_checkpoint: Path) -> None:
    def change(tune: Any) -> Any:
        model = classifier(tiny_checkpoint)
        inputs = {name: calibration()[0][name] for name in ("input_ids", "attention_mask")}
        before = model(**inputs).logits
        MutualInformation(tune=tune).apply(model, calibration(rows=64), Squeeze(units=0.5))
        return (model(**inputs).logits - before).square().mean()

    assert change(tune=True) < 0.5 * change(tune=False)


def test_mutual_information_method_rejects_refit_with_fewer_hidden(tiny_checkpoint: Path) -> None:
    model = classifier(tiny_checkpoint)
    with pytest.raises(RecipeError, match=r"squeeze\.options\.tune"):
        MutualInformation(tune=True).apply(model, calibration(), Squeeze(hidden=0.5))


def test_mutual_information_method_ignores_padding(tiny_checkpoint: Path) -> None:
    model = classifier(tiny_checkpoint)
    squeeze = Squeeze(heads=0.5, units=0.5, hidden=0.5)
    narrow = MutualInformation().choose(model, calibration(), squeeze)
    assert MutualInformation().choose(model, calibration(padding=9), squeeze) == narrow


def test_mutual_information_method_keeps_budget_in_every_layer(tiny_checkpoint: Path) -> None:
    model = classifier(tiny_checkpoint)
    structure = MutualInformation().choose(model, calibration(), Squeeze(flops=0.7))
    assert [len(heads) for heads in structure.heads] == [2, 2]
    assert [len(units) for units in structure.units] == [33, 33]


def test_mutual_information_method_rejects_too_few_rows(tiny_checkpoint: Path) -> None:
    model = classifier(tiny_checkpoint)
    batches = calibration(rows=5)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert tokens < 48
    with pytest.raises(RecipeError, match=rf"calibration: the rows give {tokens} vectors.* 56 features.* Raise it"):
        MutualInformation().apply(model, batches, Squeeze(units=0.5))


@pytest.mark.parametrize("tokens", [48, 52, 56, 57])
def test_mutual_information_method_check_agrees_with_choice(tiny_checkpoint: Path, tokens: Any) -> None:
    model, squeeze = classifier(tiny_checkpoint), Squeeze(heads=0.5, units=1.0)
    ids = torch.randint(5, 40, (tokens,), generator=torch.Generator().manual_seed(0)).split(4)  # type: ignore[no-untyped-call]
    batches = [
        {"input_ids": row[None], "attention_mask": torch.ones(1, len(row), dtype=torch.long), "row": torch.tensor([0])}
        for row in ids
    ]
    try:
        MutualInformation().check(model, squeeze, [len(row) for row in ids])
    except RecipeError:
        assert tokens <= 56
        return
    assert MutualInformation().choose(model, batches, squeeze).units == (tuple(range(48)),) * 2


@pytest.mark.parametrize("squeeze", [Squeeze(heads=0.1), Squeeze(flops=0.1)])
def test_mutual_information_method_rejects_zero_heads(tiny_checkpoint: Path, squeeze: Any) -> None:
    model = classifier(tiny_checkpoint)
    with pytest.raises(RecipeError, match=r"zero heads.*smallest fraction is 0\.25"):
        MutualInformation().apply(model, calibration(), squeeze)


def test_make_unit_method_passes_options() -> None:
    method = make_unit_method(Squeeze(options={"shrinkage": 0.5}))
    assert isinstance(method, MutualInformation)
    assert method.shrinkage == 0.5
    with pytest.raises(RecipeError, match=r"squeeze.options of mutual-information: shrinkage is 0; it must be above 0"):
        make_unit_method(Squeeze(options={"shrinkage": 0}))
