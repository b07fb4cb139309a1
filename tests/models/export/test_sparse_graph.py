"""Graphs with a packed encoder against the graphs that they were made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from transformers import BertConfig

from sparserve.kernels.library import Library
from sparserve.kernels.packing import Values
from sparserve.kernels.unpacking import unpack_encoder
from sparserve.kernels.weights import EncoderWeights
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.bundle.manifest import Packed
from sparserve.models.errors import CheckpointError
from sparserve.models.export.quantization import quantize
from sparserve.models.export.sparse_graph import BLOB, write_sparse_graph
from sparserve.models.recipes.schema import Quantization
from tests.support.models.exporting import TRACED, Exported
from tests.support.tiny_bundles import graph as tiny_graph


@pytest.fixture(scope="module")
def library(sparse_runtime: Library) -> Path:
    return sparse_runtime.path


def logits(path: Path, model: Any, library: Path | None = None) -> np.ndarray:
    """Return the logits of texts of several lengths, padded together."""
    classifier = OnnxClassifier(path, pad_token_id=model.config.pad_token_id, threads=1, library=library)
    generator = np.random.default_rng(0)
    mask = (np.arange(40) < np.array([[40], [1], [17], [33]])).astype(np.int64)
    ids = np.where(mask, generator.integers(5, model.config.vocab_size, (4, 40)), model.config.pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return classifier.run({name: value for name, value in inputs.items() if name in classifier.input_names})


def pack(model: Any, folder: Path, values: Values = "fp32", source: str = "model.onnx") -> tuple[Path, Packed]:
    target = folder / f"{values}.onnx"
    packed = write_sparse_graph(
        folder / source, target, config=model.config, values=values, embeddings_int8=values == "int8"
    )
    return target, packed


def encoder_in(path: Path) -> EncoderWeights:
    """Return the packed encoder of a graph."""
    (blob,) = (tensor for tensor in onnx.load(path).graph.initializer if tensor.name == BLOB)
    return unpack_encoder(numpy_helper.to_array(blob).tobytes())


@pytest.fixture(scope="module", params=TRACED)
def exported(
    request: pytest.FixtureRequest, exported_encoder: Callable[[str], Exported]
) -> tuple[Any, Path, np.ndarray]:
    """Return for every encoder a sparse model, the folder of its graph, and the graph's logits."""
    encoder = exported_encoder(request.param)
    return encoder.model, encoder.path.parent, logits(encoder.path, encoder.model)


def test_sparse_graph_matches_onnxruntime_for_every_encoder(
    library: Path, exported: tuple[Any, Path, np.ndarray]
) -> None:
    model, folder, expected = exported
    target, packed = pack(model, folder)
    # Two architectures have gates, DeBERTa a dense table of distances.
    dense = {"dense": 1} if model.config.model_type == "deberta-v2" else {}
    gated = model.config.model_type in ("modernbert", "nomic_bert")
    assert packed.layouts == {**dense, "unstructured": 14 if gated else 12}
    assert packed.first_token_only
    assert packed.bytes == target.stat().st_size
    assert np.abs(logits(target, model, library) - expected).max() < 1e-5


def test_sparse_graph_int8_error_is_like_onnxruntimes(library: Path, exported: tuple[Any, Path, np.ndarray]) -> None:
    model, folder, expected = exported
    quantize(folder / "model.onnx", folder / "stock.onnx", Quantization())
    stock = np.abs(logits(folder / "stock.onnx", model) - expected).mean()
    target, packed = pack(model, folder, "int8")
    assert packed.values == "int8"
    # Random weights five times their usual size make a chaotic network: means over few logits scatter widely.
    assert np.abs(logits(target, model, library) - expected).mean() < 2 * stock + 0.02


@pytest.fixture(scope="module")
def bert(exported_encoder: Callable[[str], Exported]) -> tuple[Any, Path]:
    """Return a sparse BERT and the folder of its graph."""
    encoder = exported_encoder("bert")
    return encoder.model, encoder.path.parent


def with_activation(bert: tuple[Any, Path], folder: Path, operator: str, **attributes: Any) -> Any:
    """Write BERT's graph with another activation to `folder` and return the model."""
    model, exported = bert
    graph = onnx.load(exported / "model.onnx")
    for node in graph.graph.node:
        if node.op_type == "Gelu":
            node.op_type = operator
            del node.attribute[:]
            node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
    onnx.save(graph, folder / "model.onnx")
    return model


@pytest.mark.parametrize(
    ("operator", "attributes", "packed_as"),
    [("Relu", {}, "relu"), ("Gelu", {"approximate": "tanh"}, "gelu_tanh"), ("Gelu", {"approximate": "none"}, "gelu")],
)
def test_sparse_graph_supports_gelu_and_relu(
    library: Path, bert: tuple[Any, Path], tmp_path: Path, operator: str, attributes: Any, packed_as: str
) -> None:
    model = with_activation(bert, tmp_path, operator, **attributes)
    target, _ = pack(model, tmp_path)
    assert encoder_in(target).activation == packed_as
    expected = logits(tmp_path / "model.onnx", model)
    assert np.abs(logits(target, model, library) - expected).max() < 1e-5


def test_sparse_graph_refuses_an_unsupported_activation(bert: tuple[Any, Path], tmp_path: Path) -> None:
    model = with_activation(bert, tmp_path, "Mish")
    with pytest.raises(CheckpointError, match="does not support the encoder's activation"):
        pack(model, tmp_path)


def test_sparse_graph_packs_a_shared_bias_for_every_linear(
    library: Path, bert: tuple[Any, Path], tmp_path: Path
) -> None:
    model, folder = bert
    graph = onnx.load(folder / "model.onnx")
    own, shared = (f"bert.encoder.layer.{index}.attention.self.query.bias" for index in (1, 0))
    (node,) = (node for node in graph.graph.node if own in node.input)
    node.input[list(node.input).index(own)] = shared
    graph.graph.initializer.remove(next(tensor for tensor in graph.graph.initializer if tensor.name == own))
    onnx.save(graph, tmp_path / "model.onnx")
    target, _ = pack(model, tmp_path)
    first, second = (layer.query.bias for layer in encoder_in(target).layers)
    assert first is not None and second is not None and np.array_equal(first, second)
    expected = logits(tmp_path / "model.onnx", model)
    assert np.abs(logits(target, model, library) - expected).max() < 1e-5


@pytest.mark.parametrize("name", ["intermediate.dense.weight", "output.LayerNorm.bias"])
def test_sparse_graph_refuses_a_renamed_weight(bert: tuple[Any, Path], tmp_path: Path, name: str) -> None:
    model, folder = bert
    graph = onnx.load(folder / "model.onnx")
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == f"bert.encoder.layer.1.{name}")
    for node in graph.graph.node:
        node.input[:] = ["val_126" if read == tensor.name else read for read in node.input]
    tensor.name = "val_126"
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=rf"no tensor bert\.encoder\.layer\.1\.{name}; an equal one .*Export"):
        pack(model, tmp_path)


def test_sparse_graph_has_an_old_ir_version(bert: tuple[Any, Path]) -> None:
    model, folder = bert
    target, _ = pack(model, folder)
    assert onnx.load(target).ir_version <= 9  # that of ONNX 1.15, which ONNX Runtime 1.17 reads


def test_sparse_graph_packs_the_weights_of_the_checkpoint(bert: tuple[Any, Path]) -> None:
    model, tmp_path = bert
    target, _ = pack(model, tmp_path)
    unpacked = encoder_in(target)
    for packed, layer in zip(unpacked.layers, model.bert.encoder.layer, strict=True):
        assert np.array_equal(packed.query.weight, layer.attention.self.query.weight.detach().numpy())
        assert np.array_equal(packed.output.weight, layer.output.dense.weight.detach().numpy())
        assert np.array_equal(packed.output_norm.bias, layer.output.LayerNorm.bias.detach().numpy())
    assert unpacked.activation == "gelu"


def test_sparse_graph_drops_unused_tensors_and_nodes(bert: tuple[Any, Path]) -> None:
    model, tmp_path = bert
    target, _ = pack(model, tmp_path)
    graph = onnx.load(target).graph
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read
    assert not [node for node in graph.node if node.op_type in ("Softmax", "MatMul")]


def test_sparse_graph_keeps_all_tokens_for_mean_pooling(library: Path, bert: tuple[Any, Path]) -> None:
    model, tmp_path = bert
    graph = onnx.load(tmp_path / "model.onnx")
    (gather,) = (
        n for n in graph.graph.node if n.op_type == "Gather" and any(a.name == "axis" and a.i for a in n.attribute)
    )
    gather.op_type = "ReduceMean"  # mean pooling in place of the first token
    del gather.attribute[:]
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1]), "second_axis"))
    gather.input[1] = "second_axis"
    gather.attribute.append(onnx.helper.make_attribute("keepdims", 0))
    onnx.save(graph, tmp_path / "mean.onnx")
    target, packed = pack(model, tmp_path, source="mean.onnx")
    assert not packed.first_token_only
    ids = np.random.default_rng(0).integers(5, model.config.vocab_size, (3, 21))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    expected = OnnxClassifier(tmp_path / "mean.onnx", pad_token_id=0, threads=1).run(inputs)
    sparse = OnnxClassifier(target, pad_token_id=0, threads=1, library=library).run(inputs)
    assert np.abs(sparse - expected).max() < 1e-5


def test_sparse_graph_refuses_a_graph_without_encoder(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(tiny_graph())
    with pytest.raises(CheckpointError, match="no BERT-like encoder"):
        write_sparse_graph(
            tmp_path / "model.onnx", tmp_path / "sparse.onnx", config=BertConfig(), values="fp32", embeddings_int8=False
        )
    assert not (tmp_path / "sparse.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu2", "gelu_10"])  # and quick_gelu, in pipeline/test_execution.py
def test_sparse_graph_refuses_activations_that_contain_a_known_one(
    changed_bert: Callable[..., tuple[Path, Any]], tmp_path: Path, activation: str
) -> None:
    path, model = changed_bert(hidden_act=activation)
    with pytest.raises(CheckpointError, match="does not support the encoder's activation"):
        write_sparse_graph(path, tmp_path / "sparse.onnx", config=model.config, values="fp32", embeddings_int8=False)
