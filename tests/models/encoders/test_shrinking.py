"""Small dense students cut out of a start network."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparserve.models.encoders.checkpoint import load_classifier, save_classifier
from sparserve.models.encoders.layer_mapping import uniform_choice
from sparserve.models.encoders.layers import encoder_layers, transformer_layers
from sparserve.models.encoders.shrinking import check_shape, kept_dimensions, shrink
from sparserve.models.encoders.squeezing import squeeze
from sparserve.models.encoders.structure import Structure
from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import Student
from sparserve.models.training.distillation import hidden_loss, make_projection
from sparserve.models.training.teacher_outputs import RequiredOutputs, run_network
from tests.support.models.exporting import ENCODERS, classifier
from tests.support.models.squeezed import silence

# The tiny networks have 2 layers, width 32, 48 units and 4 heads of 8 features.
NARROW = Student(hidden_size=16, intermediate_size=24, heads=2)
HIDDEN = RequiredOutputs(hidden=True, attention=False)


@pytest.fixture(scope="module")
def make_start(make_checkpoint: Callable[..., Path]) -> Callable[..., Any]:
    loaded: dict[str, Any] = {}

    def make(model_type: str = "bert") -> Any:
        if model_type not in loaded:
            loaded[model_type] = classifier(make_checkpoint(model_type))
        return copy.deepcopy(loaded[model_type])

    return make


def inputs(rows: int = 8, length: int = 12) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 30, (rows, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    values: torch.Tensor = model(**inputs()).logits
    return values


@torch.no_grad()
def double(model: Any, heads: int) -> None:
    """Make half of a network redundant, so that shrinking it to half changes nothing.

    The second half of the hidden dimensions copies the first half and is never read; half of the units, and half of the
    heads or of each head's features, are zero.
    """
    layers = encoder_layers(model)
    places = (0, 2, 4, 6) if layers[0].rotary else (0, 1, 2, 3)  # pairs of features with the frequencies of heads of 4
    kept_features = [f for f in range(32) if (f // 8 in uniform_choice(4, 2) if heads == 2 else f % 8 in places)]
    idle = [f for f in range(32) if f not in kept_features]
    inner = {id(rows.linear) for layer in layers for rows in (layer.query, layer.key, layer.value, layer.intermediate)}
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.embedding_dim == 32:
            module.weight[:, 16:] = module.weight[:, :16]
        elif isinstance(module, nn.LayerNorm):
            module.weight[:] = 1  # equal gains: the first dimensions are kept
            if module.bias is not None:
                module.bias[16:] = module.bias[:16]
        elif isinstance(module, nn.Linear):
            if module.in_features == 32:
                module.weight[:, 16:] = 0
            if module.out_features == 32 and id(module) not in inner:
                module.weight[16:] = module.weight[:16]
                if module.bias is not None:
                    module.bias[16:] = module.bias[:16]
    for layer in layers:
        for rows in (layer.query, layer.key, layer.value):
            silence(rows, idle)
        layer.attention_output.weight[:16] = torch.randn(16, 32, generator=torch.Generator().manual_seed(2))
        layer.attention_output.weight[16:] = layer.attention_output.weight[:16]
        layer.attention_output.weight[:, idle] = 0
        for rows in layer.unit_rows:
            silence(rows, slice(1, None, 2))
        layer.output.weight[:, 1::2] = 0


def test_shrink_without_changes_returns_the_start(make_start: Callable[..., Any]) -> None:
    start = make_start()
    assert shrink(start, Student()) is start
    assert shrink(start, Student(layers=2, hidden_size=32, intermediate_size=48, heads=4)) is start


@pytest.mark.parametrize("model_type", ENCODERS)
def test_shrink_copies_layers_of_the_start(make_start: Callable[..., Any], model_type: str) -> None:
    start = make_start(model_type)
    student: Any = shrink(start, Student(layers=1))
    assert student.config.num_hidden_layers == 1
    prefix, stack = transformer_layers(student)
    assert len(stack) == 1
    weights = start.state_dict()
    for name, weight in student.state_dict().items():
        assert torch.equal(weight, weights[name.replace(f"{prefix}.0.", f"{prefix}.1.")])
    assert len(run_network(student, inputs(), HIDDEN).hidden) == 2


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("model_type", ENCODERS)
def test_shrink_keeps_logits_if_only_kept_parts_are_used(
    make_start: Callable[..., Any], model_type: str, heads: int
) -> None:
    start = make_start(model_type)
    double(start, heads)
    student: Any = shrink(start, Student(hidden_size=16, intermediate_size=24, heads=heads))
    with torch.no_grad():
        for layer in encoder_layers(student):
            for rows in (layer.query.weight, layer.query.bias):
                if rows is not None:
                    rows.mul_((layer.head_size / 8) ** 0.5)  # scores are divided by the root of the head's size
    assert kept_dimensions(student, 32) == tuple(range(16))
    assert (logits(student) - logits(start)).abs().max().item() < 1e-4


@pytest.mark.parametrize("model_type", ENCODERS)
def test_shrunk_network_is_saved_and_loaded(make_start: Callable[..., Any], model_type: str, tmp_path: Path) -> None:
    student: Any = shrink(make_start(model_type), Student(layers=1, hidden_size=24, intermediate_size=20, heads=3))
    save_classifier(student, tmp_path)
    expected = logits(student)
    labels = tuple(student.config.id2label.values())
    assert torch.allclose(logits(load_classifier(tmp_path, labels, "single_label_classification")), expected, atol=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.allclose(logits(plain), expected, atol=1e-5)
    assert plain.config.hidden_size == 24 and plain.config.num_attention_heads == 3


@pytest.mark.parametrize("model_type", ENCODERS)
def test_shrunk_network_imitates_better_than_a_random_one(make_start: Callable[..., Any], model_type: str) -> None:
    start = make_start(model_type)
    student: Any = shrink(start, Student(hidden_size=16, intermediate_size=24))
    torch.manual_seed(0)
    random = AutoModelForSequenceClassification.from_config(student.config).eval()

    def loss(network: Any) -> float:
        projection = make_projection(16, 32, dimensions=kept_dimensions(student, 32))
        with torch.no_grad():
            outputs, teacher = run_network(network, inputs(), HIDDEN), run_network(start, inputs(), HIDDEN)
            return hidden_loss(outputs.hidden, teacher.hidden, inputs()["attention_mask"], projection).item()

    assert loss(student) < 0.9 * loss(random)


def test_shrink_keeps_dimensions_with_the_largest_gains(make_start: Callable[..., Any]) -> None:
    start = make_start()
    with torch.no_grad():
        for norm in (module for module in start.modules() if isinstance(module, nn.LayerNorm)):
            norm.weight[[3, 8, 20, 31]] = 4.0
    student: Any = shrink(start, Student(hidden_size=4))
    assert kept_dimensions(student, 32) == (3, 8, 20, 31)
    assert kept_dimensions(student, 16) is kept_dimensions(student, 64) is None, (
        "unknown for a teacher of another width"
    )


def test_shrink_merges_neighbouring_heads(make_start: Callable[..., Any]) -> None:
    start = make_start()
    student: Any = shrink(start, Student(heads=2))
    assert encoder_layers(student)[0].head_size == 16
    assert torch.equal(encoder_layers(student)[0].query.weight, encoder_layers(start)[0].query.weight)
    assert logits(student).shape == (8, 3)


def test_shrink_keeps_labels_mode_and_attention(make_start: Callable[..., Any]) -> None:
    start = make_start().train()
    student: Any = shrink(start, NARROW)
    assert student.training
    assert student.config.id2label == start.config.id2label
    assert student.config.problem_type == start.config.problem_type
    assert student.config._attn_implementation == start.config._attn_implementation == "eager"
    assert start.config.hidden_size == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, "student.layers is 3, but .* has 2"),
        ({"hidden_size": 64}, "student.hidden_size is 64, but .* has 32"),
        ({"intermediate_size": 49}, "student.intermediate_size is 49, but .* has 48"),
        ({"heads": 8}, "student.heads is 8, but .* has 4"),
        ({"hidden_size": 18}, "student.hidden_size 18 is not divisible by 4 heads"),
        ({"heads": 3}, "student.hidden_size 32 is not divisible by 3 heads"),
    ],
)
@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_check_shape_refuses_impossible_shapes(
    make_checkpoint: Callable[..., Path], model_type: str, changes: dict[str, int], message: str
) -> None:
    config = AutoConfig.from_pretrained(make_checkpoint(model_type))
    with pytest.raises(RecipeError, match=message):
        check_shape(config, Student(**changes))


def test_check_shape_keeps_the_width_of_projected_embeddings() -> None:
    config = AutoConfig.for_model("electra", embedding_size=16, hidden_size=32, num_attention_heads=4)
    assert check_shape(config, Student(hidden_size=24)) == {"hidden_size": 24}
    with pytest.raises(RecipeError, match="is the width of the embeddings"):
        check_shape(config, Student(hidden_size=16))


def test_shrink_refuses_a_squeezed_start(make_start: Callable[..., Any]) -> None:
    start = make_start()
    squeeze(start, Structure(heads=((0,), (1, 2)), units=((0, 1), (2,)), hidden=(1, 5, 6)))
    with pytest.raises(RecipeError, match="squeezed"):
        shrink(start, Student(layers=1))
    assert kept_dimensions(start, 32) == (1, 5, 6)
    assert kept_dimensions(start, 64) is None
