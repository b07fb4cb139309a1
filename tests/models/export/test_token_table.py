"""Smaller token tables in exported graphs."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.metrics.pairwise import cosine_similarity

from sparserve.kernels.library import Library
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.bundle.manifest import TokenTable
from sparserve.models.data.loading import load_dataset
from sparserve.models.data.tokenization import RaggedRows, TokenizedDataset, TokenizedSplit
from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.export.quantization import quantize
from sparserve.models.export.sparse_graph import write_sparse_graph
from sparserve.models.export.statistics import flops, sparsity
from sparserve.models.export.token_table import (
    EMBEDDINGS,
    count_tokens,
    factorize,
    nearest_kept,
    shrink_embeddings,
    token_lookup,
)
from sparserve.models.pipeline.stages.export import shrink_tables
from sparserve.models.recipes.schema import Embeddings, Quantization
from sparserve.models.report.schema import token_bits
from tests.support.models.exporting import TYPED, Exported

PAD = 0
FIRST = 2
# Without 1, the padding id of MPNet: the row of FIRST is 1, so a remap that reached the positions would show.
SPECIAL = frozenset({PAD, FIRST, 3})


@pytest.fixture(scope="module", params=["bert", pytest.param("mpnet", marks=pytest.mark.slow)])
def encoder(request: pytest.FixtureRequest, exported_encoder: Callable[[str], Exported]) -> Exported:
    exported: Exported = exported_encoder(request.param)
    return exported


def texts(encoder: Exported, tokens: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Return inputs [4, 12]: texts of several lengths, with FIRST and then random ones of `tokens`."""
    generator = np.random.default_rng(1)
    mask = (np.arange(12) < np.array([[12], [3], [7], [1]])).astype(np.int64)
    ids = np.where(mask, generator.choice(tokens, (4, 12)), PAD)
    ids[:, 0] = FIRST
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs | ({"token_type_ids": np.zeros_like(ids)} if encoder.model.config.model_type in TYPED else {})


def counted(encoder: Exported, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    counts = np.zeros(encoder.model.config.vocab_size, np.int64)
    counts[tokens] = 1 + np.arange(len(tokens))
    return counts


def shrunk(
    encoder: Exported, folder: Path, tokens: Sequence[int] = range(5, 45, 2), **settings: Any
) -> tuple[Path, TokenTable]:
    """Return a graph with smaller embeddings and the report; `tokens` occur in the training texts."""
    target = folder / "model.onnx"
    report = shrink_embeddings(
        encoder.path, target, Embeddings(**settings), counts=counted(encoder, list(tokens)), always_keep=SPECIAL
    )
    return target, report


def logits(path: Path, inputs: Mapping[str, np.ndarray], library: Path | None = None) -> np.ndarray:
    return OnnxClassifier(path, pad_token_id=PAD, threads=1, library=library).run(dict(inputs))


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def word_table(encoder: Exported) -> tuple[str, np.ndarray]:
    table = encoder.model.get_input_embeddings().weight.detach().numpy()
    name = next(n for n, p in encoder.model.named_parameters() if p is encoder.model.get_input_embeddings().weight)
    return name, table


def test_shrink_embeddings_keeps_logits_of_training_texts_exactly(encoder: Exported, tmp_path: Path) -> None:
    tokens = list(range(5, 45, 2))
    target, report = shrunk(encoder, tmp_path, tokens, vocabulary="training")
    inputs = texts(encoder, tokens)
    assert np.array_equal(logits(target, inputs), logits(encoder.path, inputs))
    name, table = word_table(encoder)
    stored = tensors(target)
    assert np.array_equal(stored[name], table[sorted({*tokens, *SPECIAL})])
    assert stored[f"{name}.remap"].dtype == np.uint16
    assert (report.tokens, report.rows) == (len(table), len(tokens) + len(SPECIAL))
    assert (report.rank, report.energy_kept) == (None, 1)


def test_shrink_embeddings_maps_other_tokens_to_the_nearest(encoder: Exported, tmp_path: Path) -> None:
    kept = np.array(sorted({*range(5, 45, 2), *SPECIAL}))
    target, _ = shrunk(encoder, tmp_path, vocabulary="training")
    _, table = word_table(encoder)
    nearest = kept[cosine_similarity(table, table[kept]).argmax(axis=1)]
    unseen = texts(encoder, np.arange(6, 46, 2))
    read = unseen | {"input_ids": np.where(unseen["attention_mask"], nearest[unseen["input_ids"]], PAD)}
    assert np.array_equal(logits(target, unseen), logits(encoder.path, read))


def test_shrink_embeddings_with_full_rank_keeps_logits(encoder: Exported, tmp_path: Path) -> None:
    target, report = shrunk(encoder, tmp_path, rank=32)
    inputs = texts(encoder, np.arange(5, 45))
    assert np.abs(logits(target, inputs) - logits(encoder.path, inputs)).max() < 1e-5
    assert report.energy_kept == pytest.approx(1)


def test_shrink_embeddings_with_low_rank_is_quantised_by_rows(encoder: Exported, tmp_path: Path) -> None:
    target, report = shrunk(encoder, tmp_path, vocabulary="training", rank=16)
    name, table = word_table(encoder)
    assert tensors(target)[f"{name}.factor"].shape == (report.rows, 16)
    assert tensors(target)[f"{name}.basis"].shape == (16, table.shape[1])
    assert 0 < report.energy_kept < 1
    quantize(target, tmp_path / "int8.onnx", Quantization())
    stored = tensors(tmp_path / "int8.onnx")
    assert stored[f"{name}.factor_quantized"].dtype == stored[f"{name}.basis_quantized"].dtype == np.int8
    assert stored[f"{name}.factor_scale"].shape == (report.rows, 1)
    assert not {name, f"{name}.factor", f"{name}.basis"} & set(stored)
    inputs = texts(encoder, np.arange(5, 45))
    expected = logits(target, inputs)
    # A width of 32 averages little, and the random network is chaotic.
    assert np.abs(logits(tmp_path / "int8.onnx", inputs) - expected).mean() < 0.1 * np.abs(expected).max()


def test_quantize_without_embeddings_keeps_the_basis(bert: Exported, tmp_path: Path) -> None:
    target, _ = shrunk(bert, tmp_path, rank=16)
    quantize(target, tmp_path / "int8.onnx", Quantization(embeddings=False))
    name, _ = word_table(bert)
    assert np.array_equal(tensors(tmp_path / "int8.onnx")[f"{name}.basis"], tensors(target)[f"{name}.basis"])


@pytest.mark.parametrize("bits", ["fp32", "int8"])
def test_sparsity_counts_rows_and_basis_but_no_remap(bert: Exported, tmp_path: Path, bits: str) -> None:
    path, report = shrunk(bert, tmp_path, vocabulary="training", rank=16)
    if bits == "int8":
        quantize(path, tmp_path / "int8.onnx", Quantization())
        path = tmp_path / "int8.onnx"
    name, table = word_table(bert)
    statistics = sparsity(path)
    named = {tensor.name: (tensor.group, tensor.shape) for tensor in statistics.tensors}
    assert named[f"{name}.factor"] == ("embedding", (report.rows, 16))
    assert named[f"{name}.basis"] == ("other_linear", (16, table.shape[1]))
    assert not [key for key in named if key.endswith("remap")]
    whole = flops(sparsity(bert.path), bert.model.config, length=10)
    assert flops(statistics, bert.model.config, length=10).dense - whole.dense == 2 * 16 * table.shape[1] * 10


def test_sparse_graph_keeps_smaller_tables(bert: Exported, sparse_runtime: Library, tmp_path: Path) -> None:
    path, _ = shrunk(bert, tmp_path, vocabulary="training", rank=16)
    target = tmp_path / "sparse.onnx"
    write_sparse_graph(path, target, config=bert.model.config, values="fp32", embeddings_int8=False)
    inputs = texts(bert, np.arange(5, 45))
    assert np.abs(logits(target, inputs, sparse_runtime.path) - logits(path, inputs)).max() < 1e-5


@pytest.mark.slow
def test_shrink_embeddings_of_a_multilingual_vocabulary(
    exported_encoder: Callable[[str], Exported], sparse_runtime: Library, tmp_path: Path
) -> None:
    """A ModernBERT of 256,000 tokens, as mmBERT is: nearly the whole file is its table."""
    encoder, vocabulary = exported_encoder("modernbert"), 256_000
    graph = onnx.load(encoder.path)
    name = token_lookup(graph.graph).input[0]
    table = np.random.default_rng(0).standard_normal((vocabulary, 32)).astype(np.float32)
    stored = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    stored.CopyFrom(numpy_helper.from_array(table, name))
    whole, target, sparse = (tmp_path / f"{file}.onnx" for file in ("whole", "model", "sparse"))
    onnx.save(graph, whole)
    tokens = np.arange(5, vocabulary, 499)
    counts = np.bincount(tokens, minlength=vocabulary)
    settings = Embeddings(vocabulary="training")
    report = shrink_embeddings(whole, target, settings, counts=counts, always_keep=SPECIAL)
    assert (report.tokens, report.rows) == (vocabulary, len(tokens) + len(SPECIAL))
    assert target.stat().st_size < 0.05 * whole.stat().st_size
    inputs = texts(encoder, tokens)
    expected = logits(whole, inputs)
    assert np.array_equal(logits(target, inputs), expected)
    write_sparse_graph(target, sparse, config=encoder.model.config, values="fp32", embeddings_int8=True, token_bits=4)
    assert tensors(sparse)[f"{name}_nibbles"].shape == (report.rows, 1, 16)
    write_sparse_graph(target, sparse, config=encoder.model.config, values="fp32", embeddings_int8=False)
    assert np.abs(logits(sparse, inputs, sparse_runtime.path) - expected).max() < 1e-4 * np.abs(expected).max()


def test_shrink_tables_writes_a_summary_beside_the_graph(
    bert: Exported, make_checkpoint: Callable[..., Path], sentiment_csv: Path, tmp_path: Path
) -> None:
    checkpoint, dataset = resolve_checkpoint(str(make_checkpoint("bert"))), load_dataset(sentiment_csv)
    path = tmp_path / "model.onnx"
    shutil.copyfile(bert.path, path)
    rows = TokenizedDataset(dataset, checkpoint.tokenizer, 32)
    shrink_tables(path, Embeddings(vocabulary="training"), checkpoint=checkpoint, rows=rows)
    table = TokenTable.model_validate_json((tmp_path / EMBEDDINGS).read_bytes())
    name, words = word_table(bert)
    assert (table.tokens, table.rows) == (len(words), len(tensors(path)[name]))
    tokenizer = checkpoint.tokenizer
    seen = {token for row in tokenizer(list(dataset.train.texts))["input_ids"] for token in row}
    assert table.rows == len(seen | set(tokenizer.all_special_ids)) < table.tokens
    assert sorted(file.name for file in tmp_path.iterdir()) == [EMBEDDINGS, "model.onnx"]


def test_token_bits_of_a_4_bit_table(bert: Exported, tmp_path: Path) -> None:
    target, _ = shrunk(bert, tmp_path, vocabulary="training")
    quantize(target, tmp_path / "int8.onnx", Quantization(embedding_bits=4))
    assert [token_bits(sparsity(path)) for path in (target, tmp_path / "int8.onnx")] == [32, 4]


@given(seed=st.integers(0, 1000), rows=st.integers(1, 60), data=st.data())
def test_nearest_kept_has_the_largest_cosine(seed: int, rows: int, data: st.DataObject) -> None:
    generator = np.random.default_rng(seed)
    table = generator.normal(size=(rows, 4)).astype(np.float32) * generator.choice([0.01, 1, 100], (rows, 1))
    table = np.where(generator.random((rows, 1)) < 0.1, 0, table).astype(np.float32)
    kept = np.array(sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1))))
    nearest = nearest_kept(table, kept)
    assert nearest[kept].tolist() == list(range(len(kept)))
    cosines = cosine_similarity(table, table[kept])
    others = np.setdiff1d(np.arange(rows), kept)
    assert np.allclose(cosines[others, nearest[others]], cosines[others].max(axis=1), atol=1e-5)


@given(seed=st.integers(0, 1000), rank=st.integers(1, 6))
def test_factorize_has_the_least_weighted_error(seed: int, rank: int) -> None:
    generator = np.random.default_rng(seed)
    table = generator.normal(size=(20, 6)).astype(np.float32)
    weights = generator.integers(1, 1000, 20)
    factor, basis, kept = factorize(table, rank, weights)
    assert factor.dtype == basis.dtype == np.float32
    singular = np.linalg.svd(table * np.sqrt(weights)[:, None], compute_uv=False)
    error = (weights[:, None] * (table - factor @ basis) ** 2).sum()
    assert error == pytest.approx((singular[rank:] ** 2).sum(), rel=1e-3, abs=1e-4)
    assert kept == pytest.approx((singular[:rank] ** 2).sum() / (singular**2).sum())


def test_shrink_embeddings_refuses_an_impossible_rank(bert: Exported, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"rank is 33, .* at most the rank 32"):
        shrunk(bert, tmp_path, rank=33)
    with pytest.raises(RecipeError, match="at most the rank 5"):
        shrunk(bert, tmp_path, tokens=(5, 6), vocabulary="training", rank=6)


def test_shrink_embeddings_refuses_counts_of_another_vocabulary(bert: Exported, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the tokenizer has 7 tokens"):
        shrink_embeddings(
            bert.path, tmp_path / "m.onnx", Embeddings(), counts=np.ones(7, np.int64), always_keep=SPECIAL
        )
    with pytest.raises(CheckpointError, match="the special token 999"):
        shrink_embeddings(
            bert.path, tmp_path / "m.onnx", Embeddings(), counts=counted(bert, [5]), always_keep={PAD, 999}
        )


def test_shrink_embeddings_uses_32_bit_indices_for_many_rows(tmp_path: Path) -> None:
    counts = np.ones(70_000, np.int64)
    counts[3] = 0
    onnx.save(lookup_graph(rows=len(counts)), tmp_path / "wide.onnx")
    report = shrink_embeddings(
        tmp_path / "wide.onnx", tmp_path / "m.onnx", Embeddings(vocabulary="training"), counts=counts, always_keep=()
    )
    assert report.rows == len(counts) - 1
    assert tensors(tmp_path / "m.onnx")["table.remap"].dtype == np.int32
    (row,) = OnnxClassifier(tmp_path / "m.onnx", pad_token_id=0, threads=1).run({"input_ids": np.array([[69_999]])})
    assert row.tolist() == [[69_999, 1]]


def lookup_graph(*, rows: int = 5, shared: bool = False, index: str = "input_ids") -> onnx.ModelProto:
    """Return a graph that is one look-up: logits [batch, length, 2] are (id, 1)."""
    nodes = [helper.make_node("Gather", ["table", index], ["logits"], axis=0)]
    if shared:
        nodes.append(helper.make_node("Neg", ["table"], ["negative"]))
    table = np.stack([np.arange(rows), np.ones(rows)], axis=1).astype(np.float32)
    inputs = [helper.make_tensor_value_info(index, TensorProto.INT64, ["batch", "length"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "lookup", inputs, outputs, [numpy_helper.from_array(table, "table")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_token_lookup_refuses_a_graph_without_a_separate_table() -> None:
    with pytest.raises(CheckpointError, match="no table of float embeddings that is looked up"):
        token_lookup(lookup_graph(index="token_type_ids").graph)
    with pytest.raises(CheckpointError, match="more uses than one look-up"):
        token_lookup(lookup_graph(shared=True).graph)


def test_count_tokens_counts_ids_of_the_vocabulary() -> None:
    ids = RaggedRows(np.array([2, 5, 5, 3, 2, 3], np.int32), np.array([0, 4, 6]))
    rows = TokenizedSplit({"input_ids": ids}, torch.zeros(2))
    assert count_tokens(rows, 7).tolist() == [0, 0, 2, 2, 0, 2, 0]
    with pytest.raises(CheckpointError, match="returns the id 5, but the model has embeddings for only 5 tokens"):
        count_tokens(rows, 5)
