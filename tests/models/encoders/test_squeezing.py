"""Squeezed networks against masked ones, in torch and as exported graphs."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sparserve.kernels.library import Library
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.encoders.attention_scores import attention_scores
from sparserve.models.encoders.layers import encoder_layers
from sparserve.models.encoders.squeezing import squeeze, structure_of
from sparserve.models.encoders.structure import Structure
from sparserve.models.errors import CheckpointError
from sparserve.models.export.quantization import quantize
from sparserve.models.export.sparse_graph import write_sparse_graph
from sparserve.models.export.statistics import flops, sparsity
from sparserve.models.recipes.schema import Quantization
from tests.support.models.exporting import ENCODERS, export
from tests.support.models.squeezed import HEADS, HIDDEN, NARROW, UNEVEN, UNITS, logits, network_of, silence, texts


@pytest.fixture(scope="module")
def network(make_checkpoint: Callable[..., Path]) -> Callable[[str], Any]:
    """Return a maker of whole classifiers by name."""
    return partial(network_of, make_checkpoint)


@torch.no_grad()
def masked(model: Any, structure: Structure) -> Any:
    """Return a copy whose removed heads and units have zero weights."""
    model = copy.deepcopy(model)
    for layer, heads, units in zip(encoder_layers(model), structure.heads, structure.units, strict=True):
        removed = [f for f in range(layer.query.out_features) if f // layer.head_size not in heads]
        for rows in (layer.query, layer.key, layer.value):
            silence(rows, removed)
        layer.attention_output.weight[:, removed] = 0
        removed = [unit for unit in range(layer.units) if unit not in units]
        for rows in layer.unit_rows:
            silence(rows, removed)
        layer.output.weight[:, removed] = 0
    return model


@pytest.mark.parametrize("name", ENCODERS)
def test_squeeze_equals_masking_heads_and_units(network: Callable[[str], Any], name: str) -> None:
    model = network(name)
    whole, expected = logits(model), logits(masked(model, UNEVEN))
    squeeze(model, UNEVEN)
    assert [(layer.heads, layer.units) for layer in encoder_layers(model)] == [(3, 16), (1, 1)]
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    assert (whole - expected).abs().max() > 1e-3


def subsets(size: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.integers(0, size - 1), min_size=1).map(lambda kept: tuple(sorted(kept)))


@given(heads=st.tuples(subsets(HEADS), subsets(HEADS)), units=st.tuples(subsets(UNITS), subsets(UNITS)))
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_squeeze_removes_any_heads_and_units(
    bert: Any, heads: tuple[tuple[int, ...], tuple[int, ...]], units: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    structure, model = Structure(heads=heads, units=units), copy.deepcopy(bert)
    squeeze(model, structure)
    torch.testing.assert_close(logits(model), logits(masked(bert, structure)), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def bert(network: Callable[[str], Any]) -> Any:
    return network("bert")


@torch.no_grad()
def make_equal_pairs(model: Any) -> None:
    """Make each odd hidden dimension equal to the one before it, and unread."""
    base = model.base_model
    project = getattr(base, "embeddings_project", None)
    writers = [project] if project is not None else []
    norms = [m for m in base.modules() if isinstance(m, nn.LayerNorm) and m.weight.shape == (HIDDEN,)]
    readers: list[Any] = [m for n, m in model.named_modules() if n.endswith(architecture_of(model.config).head_readers)]
    for layer in encoder_layers(model):
        writers += [layer.attention_output, layer.output]
        readers += [layer.query, layer.key, layer.value, *layer.unit_rows]
    for module in (*writers, *norms):
        module.weight[1::2] = module.weight[::2]
        if module.bias is not None:
            module.bias[1::2] = module.bias[::2]
    for module in base.modules():
        if isinstance(module, nn.Embedding) and module.embedding_dim == HIDDEN:
            module.weight[:, 1::2] = module.weight[:, ::2]
    for module in readers:
        module.weight[:, 1::2] = 0


@pytest.mark.parametrize("name", [*ENCODERS, "electra-projected"])
def test_squeeze_keeps_logits_if_mean_and_variance_stay(network: Callable[[str], Any], name: str) -> None:
    model = network(name)
    make_equal_pairs(model)
    structure = UNEVEN.model_copy(update={"hidden": tuple(range(0, HIDDEN, 2))})
    expected = logits(masked(model, structure))
    squeeze(model, structure)
    assert {layer.output.out_features for layer in encoder_layers(model)} == {HIDDEN // 2}
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert", "mpnet"])
def test_squeeze_twice_equals_the_composition(network: Callable[[str], Any], name: str) -> None:
    twice, once = network(name), network(name)
    squeeze(twice, NARROW)
    squeeze(twice, Structure(heads=((1, 2), (0,)), units=((2, 3), (0,)), hidden=(0, 5, 6, 26)))
    assert structure_of(twice) == Structure(heads=((2, 3), (1,)), units=((6, 9), (5,)), hidden=(1, 6, 7, 27))
    structure = structure_of(twice)
    assert structure is not None
    squeeze(once, structure)
    assert torch.equal(logits(once), logits(twice))


@pytest.mark.parametrize("structure", [UNEVEN.model_copy(update={"units": ((0,), (48,))}), NARROW])
def test_squeeze_leaves_the_network_unchanged_on_error(network: Callable[[str], Any], structure: Structure) -> None:
    model = network("bert")
    if structure is NARROW:
        model.bert.pooler = None
    before = {name: value.shape for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"units of layer 1: index 48 is out of range|reads hidden states"):
        squeeze(model, structure)
    assert before == {name: value.shape for name, value in model.state_dict().items()}
    assert structure_of(model) is None


def test_squeeze_refuses_an_unknown_architecture(bert: Any) -> None:
    model = copy.deepcopy(bert)
    model.bert.encoder.layer[1].attention.self.query = nn.Identity()
    with pytest.raises(CheckpointError, match=r"BertLayer has no linear attention\.self\.query"):
        squeeze(model, UNEVEN)


@pytest.mark.parametrize("name", ENCODERS)
def test_squeezed_network_can_be_trained(network: Callable[[str], Any], name: str) -> None:
    model = network(name)
    model.get_input_embeddings().weight.requires_grad_(False)
    squeeze(model, NARROW)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss = model(**texts(), labels=torch.tensor([0, 1, 2])).loss
    loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.grad is not None}
    frozen = set(dict(model.named_parameters())) - set(trained)
    assert frozen == {f"{model.base_model_prefix}.{architecture_of(model.config).token_table}.weight"}
    if name == "mpnet":
        used = trained["mpnet.encoder.relative_attention_bias.weight"].grad.abs().sum(0) > 0
        assert used.all()  # each head is kept in one of the two layers
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer.step()
    assert not any(torch.equal(before[name], parameter) for name, parameter in trained.items())


def test_attention_scores_of_a_squeezed_network(network: Callable[[str], Any]) -> None:
    model = network("bert")
    squeeze(model, UNEVEN)
    with torch.no_grad(), attention_scores(model) as scores:
        attentions = model(**texts(), output_attentions=True).attentions
    assert [score.shape[1] for score in scores] == [3, 1]
    padding = texts()["attention_mask"][:, None, None] == 0
    for score, attention in zip(scores, attentions, strict=True):
        torch.testing.assert_close(score.masked_fill(padding, -torch.inf).softmax(-1), attention)


def answers(path: Path, inputs: Mapping[str, np.ndarray], library: Path | None = None) -> np.ndarray:
    model = OnnxClassifier(path, pad_token_id=0, threads=1, library=library)
    return model.run({name: value for name, value in inputs.items() if name in model.input_names})


def graph_inputs() -> dict[str, np.ndarray]:
    inputs = {name: value.numpy() for name, value in texts().items()}
    return {**inputs, "token_type_ids": np.zeros_like(inputs["input_ids"])}


@pytest.fixture(scope="module")
def exported(network: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A BERT with uneven layers and a narrow residual stream, and its graph."""
    model, path = network("bert"), tmp_path_factory.mktemp("squeezed") / "model.onnx"
    squeeze(model, NARROW)
    assert export(model, path) < 1e-4
    return model, path


@pytest.mark.slow
def test_squeezed_graph_is_packed_and_quantized(
    exported: tuple[Any, Path], sparse_runtime: Library, tmp_path: Path
) -> None:
    model, path = exported
    expected = logits(model).numpy()
    packed = write_sparse_graph(path, tmp_path / "s.onnx", config=model.config, values="fp32", embeddings_int8=False)
    assert sum(packed.layouts.values()) == 12
    assert np.abs(answers(tmp_path / "s.onnx", graph_inputs(), sparse_runtime.path) - expected).max() < 1e-5
    quantize(path, tmp_path / "int8.onnx", Quantization())
    assert np.abs(answers(tmp_path / "int8.onnx", graph_inputs()) - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.slow
def test_flops_count_the_remaining_heads(exported: tuple[Any, Path]) -> None:
    model, path = exported
    counted = flops(sparsity(path), model.config, length=10)
    size = HIDDEN // HEADS
    linears = sum(
        linear.weight.numel()
        for layer in encoder_layers(model)
        for linear in (layer.query, layer.key, layer.value, layer.attention_output, layer.intermediate, layer.output)
    )
    head = model.bert.pooler.dense.weight.numel() + model.classifier.weight.numel()
    assert counted.dense == 4 * 10**2 * (3 + 1) * size + 2 * 10 * linears + 2 * head


@pytest.mark.slow
def test_squeezed_mpnet_exports_position_bias_and_is_not_packed(network: Callable[[str], Any], tmp_path: Path) -> None:
    model = network("mpnet")
    squeeze(model, NARROW)
    assert export(model, tmp_path / "model.onnx") < 1e-4
    outputs = answers(tmp_path / "model.onnx", graph_inputs())
    assert np.abs(outputs - logits(model).numpy()).max() < 1e-4
    with pytest.raises(CheckpointError, match="keep all heads to have it packed"):
        write_sparse_graph(
            tmp_path / "model.onnx",
            tmp_path / "s.onnx",
            config=model.config,
            values="fp32",
            embeddings_int8=False,
        )
    assert not (tmp_path / "s.onnx").exists()
