"""Smaller token embeddings in an exported graph: only the rows that the training texts use, or a low rank.

Token ids stay those of the task's tokenizer, so that all variants of a task accept the same tokenised text.
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

EMBEDDINGS: Final = "embeddings.json"  # file with the TokenTable of the graph in the same folder
REMAP: Final = ".remap"
FACTOR: Final = ".factor"
BASIS: Final = ".basis"
_BLOCK_BYTES: Final = 1 << 26
_INTEGERS: Final = frozenset({onnx.TensorProto.UINT16, onnx.TensorProto.INT32, onnx.TensorProto.INT64})


def count_tokens(rows: TokenizedSplit, vocabulary: int) -> npt.NDArray[np.int64]:
    """Return the number of occurrences of every token id in tokenised texts, [vocabulary].

    Raises:
        CheckpointError: the tokenizer returns an id for which the model has no embedding.
    """
    ids = np.fromiter(chain.from_iterable(rows.encodings["input_ids"]), np.int64)
    counts = np.bincount(ids, minlength=vocabulary)
    if counts.size > vocabulary:
        raise CheckpointError(
            f"The tokenizer returns the id {counts.size - 1}, but the model has embeddings for only {vocabulary} "
            "tokens. Use the tokenizer that the checkpoint was trained with."
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
    """Write the graph `source` (fp32, from `export_onnx`) with a smaller token table to `target`.

    `counts` [vocabulary] are the occurrences of every token in the training texts; `always_keep` are the ids of the
    special tokens. With the vocabulary "training", logits of the training texts stay bit-identical. A token without a
    row gets the row with the largest cosine to its own. With a rank, the table becomes the product of a table
    [rows, rank] and a basis [rank, width], see `factorize`.

    Raises:
        RecipeError: the rank is larger than the table's.
        CheckpointError: the graph has no table that is looked up by `input_ids`, or the counts do not match it.
    """
    graph = onnx.load(str(source))
    lookup = token_lookup(graph.graph)
    name, ids, output = lookup.input[0], lookup.input[1], lookup.output[0]
    stored = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    table: npt.NDArray[np.float32] = numpy_helper.to_array(stored)
    if counts.shape != (len(table),) or max(always_keep, default=0) >= len(table):
        raise CheckpointError(
            f"{name} has {len(table)} rows, but the tokenizer has {counts.size} tokens and the special token "
            f"{max(always_keep, default=0)}. Use the tokenizer that the checkpoint was trained with."
        )
    tensors: dict[str, npt.NDArray[Any]] = {}
    nodes: list[onnx.NodeProto] = []
    rows, frequencies = table, counts
    if embeddings.vocabulary == "training":
        kept = np.union1d(np.flatnonzero(counts), np.fromiter(always_keep, np.int64))
        rows, frequencies = table[kept], counts[kept]
        # Not 8 bits: such tensors count as int8 parameters.
        index_type = np.uint16 if len(kept) <= np.iinfo(np.uint16).max + 1 else np.int32
        tensors[f"{name}{REMAP}"] = nearest_kept(table, kept).astype(index_type)
        index, row = f"{output}_own", f"{output}_row"
        nodes.append(helper.make_node("Gather", [f"{name}{REMAP}", ids], [index], name=f"{output}/remap", axis=0))
        nodes.append(helper.make_node("Cast", [index], [row], name=f"{output}/row", to=onnx.TensorProto.INT64))
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
    """Return the node that looks up the token embeddings [vocabulary, width] by `input_ids`, directly or by a remap.

    Raises:
        CheckpointError: there is no such node, or its table has other uses.
    """
    tables = {tensor.name: tensor for tensor in graph.initializer}
    ids = {"input_ids"}
    for node in graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in ids:
            ids.add(node.output[0])
        if node.op_type != "Gather" or node.input[1] not in ids or node.input[0] not in tables:
            continue
        table = tables[node.input[0]]
        if len(table.dims) == 1 and table.data_type in _INTEGERS:
            ids.add(node.output[0])
        elif len(table.dims) == 2 and table.data_type == onnx.TensorProto.FLOAT:
            if sum(table.name in other.input for other in graph.node) > 1:
                raise CheckpointError(
                    f"The token table {table.name} cannot be changed: it has more uses than one look-up. Remove "
                    "`embeddings` from the recipe."
                )
            return node
    raise CheckpointError("The graph has no table of float embeddings that is looked up by input_ids.")


def restored_table(graph: onnx.GraphProto) -> npt.NDArray[np.float32]:
    """Return the token embeddings [vocabulary, width] that a graph computes with, from its possibly smaller table.

    Raises:
        CheckpointError: the graph has no table of float embeddings that is looked up by input_ids.
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
    """Return for every row of `table` [n, width] the position in `kept` [m] of the row with the largest cosine to it.

    A kept row maps to itself. Besides the table, this takes the memory of the kept rows and 64 MiB.
    """
    rows = table[kept]
    norms = np.linalg.norm(rows, axis=1)
    norms[norms == 0] = np.inf  # a padding row of zeros has the cosine 0
    nearest = np.empty(len(table), np.int64)
    nearest[kept] = np.arange(len(kept))
    others = np.setdiff1d(np.arange(len(table)), kept)
    block = max(1, _BLOCK_BYTES // rows[:, 0].nbytes)
    for begin in range(0, len(others), block):
        part = others[begin : begin + block]
        # Not divided by the norm of the row itself, which does not change the order of its cosines.
        cosines = table[part] @ rows.T
        cosines /= norms
        nearest[part] = cosines.argmax(axis=1)
    return nearest


def factorize(
    table: npt.NDArray[np.float32], rank: int, weights: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]:
    """Return a factor [n, rank] and a basis [rank, width] of the table [n, width], and the fraction of energy kept.

    The product minimises the sum over rows of weight times squared distance (Eckart & Young 1936, for the table with
    each row times the root of its weight). With a token's occurrences as weight, it has the least error per token of
    text.

    Raises:
        RecipeError: `rank` is larger than min(n, width).
    """
    if rank > min(table.shape):
        raise RecipeError(
            f"embeddings.rank is {rank}, but the token table of {table.shape[0]} rows and {table.shape[1]} columns "
            f"has at most the rank {min(table.shape)}. Set a smaller rank, or null."
        )
    width = table.shape[1]
    # Right singular vectors from the matrix [width, width], which is small: the table may have 250,000 rows.
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
    """Replace a node by others, in place."""
    nodes = list(graph.node)
    position = next(index for index, other in enumerate(nodes) if other is node or other == node)
    nodes[position : position + 1] = by
    del graph.node[:]
    graph.node.extend(nodes)
