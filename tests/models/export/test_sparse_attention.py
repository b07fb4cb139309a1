"""The choice of a packed graph's attention, on a tiny BERT."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sparserve.kernels.library import Library
from sparserve.kernels.packing import pack_encoder
from sparserve.models.bundle.manifest import PackedAttention
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.models.errors import CheckpointError
from sparserve.models.export import sparse_attention
from sparserve.models.export.sparse_attention import choose_attention
from sparserve.models.export.sparse_graph import BLOB, write_sparse_graph
from tests.support.kernels.blob_seeds import tiny_modern_encoder
from tests.support.models.exporting import Exported

Choose = Callable[..., PackedAttention]


@pytest.fixture
def graph(exported_encoder: Callable[[str], Exported], tmp_path: Path) -> Path:
    encoder = exported_encoder("bert")
    path = tmp_path / "model.sparse.onnx"
    write_sparse_graph(encoder.path, path, config=encoder.model.config, values="int8", embeddings_int8=True)
    return path


@pytest.fixture
def choose(graph: Path, sparse_runtime: Library) -> Choose:
    generator = np.random.default_rng(0)
    tokens = [Tokens(generator.integers(5, 40, length).tolist(), None, False) for length in (1, 9, 40)]

    def make(choice: str, **changes: Any) -> PackedAttention:
        options: dict[str, Any] = {"head_size": 8, "tokens": tokens, "pad_token_id": 0, "library": sparse_runtime.path}
        return choose_attention(graph, choice, **(options | changes))

    return make


def is_int8(graph: Path) -> bool:
    (encoder,) = (node for node in onnx.load(graph).graph.node if node.op_type == "SparseEncoder")
    return any(attribute.name == "int8_attention" and attribute.i == 1 for attribute in encoder.attribute)


def test_choose_attention_takes_int8_if_logits_hardly_change(graph: Path, choose: Choose) -> None:
    record = choose("auto")
    assert (record.values, record.rows) == ("int8", 3)
    assert record.largest_change is not None
    assert 0 < record.largest_change <= sparse_attention.TOLERANCE
    assert is_int8(graph)
    assert [file.name for file in graph.parent.iterdir()] == [graph.name]


def test_choose_attention_keeps_fp32_if_logits_change(
    graph: Path, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = graph.read_bytes()
    monkeypatch.setattr(sparse_attention, "TOLERANCE", 0.0)
    record = choose("auto")
    assert (record.values, record.rows) == ("fp32", 3)
    assert record.largest_change
    assert graph.read_bytes() == before
    assert choose("int8").largest_change == record.largest_change
    assert is_int8(graph)


@pytest.mark.parametrize(("choice", "values"), [("auto", "fp32"), ("fp32", "fp32"), ("int8", "int8")])
def test_choose_attention_without_library_does_not_compare(
    graph: Path, choose: Choose, choice: str, values: str
) -> None:
    assert choose(choice, library=None) == PackedAttention(values=values, rows=0, largest_change=None)
    assert is_int8(graph) == (values == "int8")


@pytest.mark.parametrize("choice", ["auto", "int8"])
def test_choose_attention_records_fp32_if_no_layer_can_be_int8(graph: Path, choose: Choose, choice: str) -> None:
    model = onnx.load(graph)
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == BLOB)
    blob = np.frombuffer(pack_encoder(tiny_modern_encoder(bands=(1,))), np.uint8)
    weights.CopyFrom(numpy_helper.from_array(blob, BLOB))
    onnx.save(model, graph)
    assert choose(choice) == PackedAttention(values="fp32", rows=0, largest_change=None)
    assert not is_int8(graph)


def test_choose_attention_in_int8_needs_heads_in_fours(choose: Choose) -> None:
    assert choose("auto", head_size=6).values == "fp32"
    with pytest.raises(CheckpointError, match=r"multiple of 4 features, not 6: set packing\.attention"):
        choose("int8", head_size=6)
