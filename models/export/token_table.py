"""Smaller token embeddings in an exported graph: only the rows that the training texts use, and a low rank.

Token ids stay those of the task's tokenizer, so one tokenised text feeds all variants of a task.
"""

from collections.abc import Collection
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from scipy import linalg

from sparserve.models.bundle.manifest import TokenTable
from sparserve.models.data.tokenization import TokenizedSplit
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.recipes.schema import Embeddings

EMBEDDINGS: Final = "embeddings.json"  # the TokenTable of the graph beside it
REMAP: Final = ".remap"
FACTOR: Final = ".factor"
BASIS: Final = ".basis"
_BLOCK_BYTES: Final = 1 << 26
_WHOLE_NUMBERS: Final = frozenset({onnx.TensorProto.UINT16, onnx.TensorProto.INT32, onnx.TensorProto.INT64})


def count_tokens(rows: TokenizedSplit, vocabulary: int) -> npt.NDArray[np.int64]:
    """Occurrences of every token id in tokenised texts [vocabulary].

    Raises:
        CheckpointError: the tokenizer gives an id for which the model has no embedding.
    """
    ids = np.fromiter(chain.from_iterable(rows.encodings["input_ids"]), np.int64)
    counts = np.bincount(ids, minlength=vocabulary)
    if counts.size > vocabulary:
        raise CheckpointError(
            f"the tokenizer gives the id {counts.size - 1}, but the model has embeddings for {vocabulary} tokens only: "
            "take the tokenizer that the checkpoint was trained with"
        )
    return counts.astype(np.int64)


def shrink_embeddings(
    source: Path,
    target: Path,
    embeddings: Embeddings,
    *,
    counts: npt.NDArray[np.int64],
    always_keep: Collection[int],
) -> TokenTable:
    """Write the graph `source` (fp32, as `export` writes it) with a smaller token table to `target`.

    `counts` [vocabulary] are the occurrences of every token in the training texts, and `always_keep` the ids of the
    special tokens. With the vocabulary "training", the logits of the training texts stay the same to the last bit, and
    a token without a row takes the row that has the largest cosine with its own. With a rank, the table becomes the
    product of a table [rows, rank] and a basis [rank, width], see `factorize`.

    Raises:
        RecipeError: the rank is above what the table can have.
        CheckpointError: the graph has no table that is looked up by `input_ids`, or the counts are of another one.
    """
    graph = onnx.load(str(source))
    lookup = token_lookup(graph.graph)
    name, ids, output = lookup.input[0], lookup.input[1], lookup.output[0]
    stored = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    table: npt.NDArray[np.float32] = numpy_helper.to_array(stored)
    if counts.shape != (len(table),) or max(always_keep, default=0) >= len(table):
        raise CheckpointError(
            f"{name} has {len(table)} rows, but {counts.size} tokens were counted and the last special one is "
            f"{max(always_keep, default=0)}: take the tokenizer that the checkpoint was trained with"
        )
    tensors: dict[str, npt.NDArray[Any]] = {}
    nodes: list[onnx.NodeProto] = []
    rows, frequencies = table, counts
    if embeddings.vocabulary == "training":
        kept = np.union1d(np.flatnonzero(counts), np.fromiter(always_keep, np.int64))
        rows, frequencies = table[kept], counts[kept]
        # Numbers of 8 bits would be taken for int8 parameters.
        smallest = np.uint16 if len(kept) <= np.iinfo(np.uint16).max + 1 else np.int32
        tensors[f"{name}{REMAP}"] = nearest_kept(table, kept).astype(smallest)
        own, row = f"{output}_own", f"{output}_row"
        nodes.append(helper.make_node("Gather", [f"{name}{REMAP}", ids], [own], name=f"{output}/remap", axis=0))
        nodes.append(helper.make_node("Cast", [own], [row], name=f"{output}/row", to=onnx.TensorProto.INT64))
        ids = row
    energy = 1.0
    if embeddings.rank is None:
        tensors[name] = rows
        nodes.append(helper.make_node("Gather", [name, ids], [output], name=lookup.name, axis=0))
    else:
        factor, basis, energy = factorize(rows, embeddings.rank, frequencies + 1)
        tensors[f"{name}{FACTOR}"], tensors[f"{name}{BASIS}"] = factor, basis
        coordinates = f"{output}_coordinates"
        nodes.append(helper.make_node("Gather", [f"{name}{FACTOR}", ids], [coordinates], name=lookup.name, axis=0))
        nodes.append(
            helper.make_node("MatMul", [coordinates, f"{name}{BASIS}"], [output], name=f"{output}/reconstruct")
        )
    graph.graph.initializer.remove(stored)
    graph.graph.initializer.extend(numpy_helper.from_array(values, key) for key, values in tensors.items())
    replace_node(graph.graph, lookup, nodes)
    onnx.save(graph, str(target))
    return TokenTable(tokens=len(table), rows=len(rows), rank=embeddings.rank, energy_kept=energy)


def token_lookup(graph: onnx.GraphProto) -> onnx.NodeProto:
    """The node that looks up the token embeddings [vocabulary, width] by `input_ids`, perhaps through a remap.

    Raises:
        CheckpointError: there is none, or its table has other uses as well.
    """
    tables = {tensor.name: tensor for tensor in graph.initializer}
    ids = {"input_ids"}
    for node in graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in ids:
            ids.add(node.output[0])
        if node.op_type != "Gather" or node.input[1] not in ids or node.input[0] not in tables:
            continue
        table = tables[node.input[0]]
        if len(table.dims) == 1 and table.data_type in _WHOLE_NUMBERS:
            ids.add(node.output[0])
        elif len(table.dims) == 2 and table.data_type == onnx.TensorProto.FLOAT:
            if sum(table.name in other.input for other in graph.node) > 1:
                raise CheckpointError(
                    f"{table.name} has other uses than one look-up: leave `embeddings` out of the recipe"
                )
            return node
    raise CheckpointError("the graph looks up no table of float embeddings by input_ids")


def restored_table(graph: onnx.GraphProto) -> npt.NDArray[np.float32]:
    """The token embeddings [vocabulary, width] that a graph computes with, whatever it stores of them.

    Raises:
        CheckpointError: the graph looks up no table of float embeddings by input_ids.
    """
    lookup = token_lookup(graph)
    tables = {tensor.name: tensor for tensor in graph.initializer}
    name = lookup.input[0]
    table: npt.NDArray[np.float32] = numpy_helper.to_array(tables[name])
    whole = name.removesuffix(FACTOR)
    if whole + REMAP in tables:
        table = table[numpy_helper.to_array(tables[whole + REMAP])]
    return table @ numpy_helper.to_array(tables[whole + BASIS]) if name.endswith(FACTOR) else table


def nearest_kept(table: npt.NDArray[np.float32], kept: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For every row of `table` [n, width], the position in `kept` [m] of the row with the largest cosine to it.

    A kept row's is its own. Memory beyond the table's: the kept rows and 64 MiB.
    """
    rows = table[kept]
    norms = np.linalg.norm(rows, axis=1)
    norms[norms == 0] = np.inf  # a padding row of zeros has the cosine 0
    nearest = np.empty(len(table), np.int64)
    nearest[kept] = np.arange(len(kept))
    others = np.setdiff1d(np.arange(len(table)), kept)
    block = max(1, _BLOCK_BYTES // rows[:, 0].nbytes)
    for begin in range(0, len(others), block):
        some = others[begin : begin + block]
        # A row's own norm does not change which of its cosines is the largest.
        cosines = table[some] @ rows.T
        cosines /= norms
        nearest[some] = cosines.argmax(axis=1)
    return nearest


def factorize(
    table: npt.NDArray[np.float32], rank: int, weights: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]:
    """The table [n, width] as factor [n, rank] times basis [rank, width], and the fraction of its energy kept.

    The product has the least sum over rows of weight times squared distance (Eckart & Young 1936, for the table with
    each row times the root of its weight): with a token's occurrences as weight, the least error a token of text.

    Raises:
        RecipeError: `rank` is above min(n, width).
    """
    if rank > min(table.shape):
        raise RecipeError(
            f"embeddings.rank is {rank}, but the token table of {table.shape[0]} rows and {table.shape[1]} columns "
            f"has at most the rank {min(table.shape)}: give a smaller one or none"
        )
    width = table.shape[1]
    # Right singular vectors from the small matrix [width, width]: the table may have 250,000 rows.
    moments = np.zeros((width, width))
    block = max(1, _BLOCK_BYTES // (16 * width))
    for begin in range(0, len(table), block):
        weighted = table[begin : begin + block] * np.sqrt(weights[begin : begin + block, None], dtype=np.float64)
        moments += weighted.T @ weighted
    energies, vectors = linalg.eigh(moments)
    basis = np.ascontiguousarray(vectors[:, : -rank - 1 : -1].T, np.float32)
    lost, total = energies[:-rank].clip(0).sum(), energies.clip(0).sum()
    return table @ basis.T, basis, float(1 - lost / total) if total > 0 else 1.0


def replace_node(graph: onnx.GraphProto, node: onnx.NodeProto, by: list[onnx.NodeProto]) -> None:
    """Put nodes in the place of one."""
    nodes = list(graph.node)
    position = next(index for index, other in enumerate(nodes) if other is node or other == node)
    nodes[position : position + 1] = by
    del graph.node[:]
    graph.node.extend(nodes)
