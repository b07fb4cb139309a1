"""Model files of the kernel benchmark: the fastest dense ONNX Runtime graphs, packed graphs, and graphs for peers."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from benchmarks.kernels.dense_encoders import (
    EncoderShape,
    encoder_linears,
    export_fused,
    export_plain,
    quantize_fused,
    random_classifier,
)
from benchmarks.kernels.fused_graph import INPUT_NAMES
from benchmarks.kernels.modern_encoders import INPUT_NAMES as MODERN_INPUT_NAMES
from sparserve.kernels.packing import PackOptions, Values
from sparserve.models.export.onnx_export import export_onnx
from sparserve.models.export.quantization import quantize, quantize_embeddings
from sparserve.models.export.sparse_graph import pack_graph
from sparserve.models.recipes.schema import Quantization

FP32, INT8 = "ORT fp32 dense", "ORT int8 dense"
SPARSITIES = (0.8, 0.9, 0.95, 0.975)
NEARLY_DENSE = 0.55  # near the threshold between dense matrices and scattered nonzeros in the packer
PEER_SPARSITY = 0.95
MAX_LENGTH = 512


@dataclass(frozen=True)
class Model:
    """A model file and its properties."""

    path: Path
    packed: bool
    sparsity: float
    encoder_bytes: int

    @classmethod
    def dense(cls, path: Path) -> "Model":
        """Describe a fused graph, whose layer tensors are named `layer.N...`."""
        tensors = onnx.load(str(path)).graph.initializer
        return cls(path, False, 0, sum(numpy_helper.to_array(t).nbytes for t in tensors if t.name.startswith("layer.")))

    @classmethod
    def exported(cls, path: Path) -> "Model":
        """Describe a graph with torch's names, or its int8 version."""
        tensors = onnx.load(str(path)).graph.initializer
        return cls(path, False, 0, sum(numpy_helper.to_array(t).nbytes for t in tensors if is_encoder_matrix(t)))


def with_zeros(weight: npt.NDArray[np.float32], sparsity: float, seed: int, *, block: int = 1) -> Any:
    """Return a weight [out, in] with exactly this fraction of zeros, in blocks of `block` neighbouring inputs."""
    groups = weight.reshape(-1, block).copy()
    groups[np.random.default_rng(seed).permutation(len(groups))[: round(sparsity * len(groups))]] = 0
    return groups.reshape(weight.shape)


def is_encoder_matrix(tensor: onnx.TensorProto) -> bool:
    return len(tensor.dims) == 2 and any(stack in tensor.name for stack in ("encoder.layer.", "model.layers."))


def packed_model(
    source: Path, target: Path, config: Any, sparsity: float, options: PackOptions, *, block: int = 1
) -> Model:
    """Write the graph of `source` with zeros in its encoder, packed; int8 weights come with int8 embeddings."""
    graph = onnx.load(str(source))
    for seed, tensor in enumerate(graph.graph.initializer):
        if sparsity and is_encoder_matrix(tensor):
            weight = with_zeros(numpy_helper.to_array(tensor).T, sparsity, seed, block=block).T
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight), tensor.name))
    packed = pack_graph(graph, config=config, options=options, max_length=MAX_LENGTH)
    if options.values == "int8":
        quantize_embeddings(graph)
    onnx.save(graph, str(target))
    return Model(target, True, sparsity, packed.encoder_bytes)


def write_peers(network: Any, folder: Path) -> dict[str, Path]:
    """Write plain graphs for the peers: OpenVINO gets the dense weights, DeepSparse 95 % zeros."""
    paths = {kind: folder / f"{kind}.onnx" for kind in ("openvino", "deepsparse")}
    export_plain(network, paths["openvino"])
    sparse = copy.deepcopy(network)
    with torch.no_grad():
        for seed, (_, linear) in enumerate(encoder_linears(sparse)):
            linear.weight.copy_(torch.from_numpy(with_zeros(linear.weight.numpy(), PEER_SPARSITY, seed)))
    export_plain(sparse, paths["deepsparse"])
    return paths


def models(network: Any, shape: EncoderShape, folder: Path) -> Iterator[tuple[str, Model]]:
    """Write all arms of a shape to `folder` and yield them by name."""
    bert = shape.family == "bert"
    if bert:
        export_fused(network, folder / "fused.onnx")
        yield FP32, Model.dense(folder / "fused.onnx")
        quantize_fused(folder / "fused.onnx", folder / "fused-int8.onnx")
        yield INT8, Model.dense(folder / "fused-int8.onnx")
    source = folder / "plain.onnx"
    export_onnx(
        network,
        source,
        input_names=INPUT_NAMES if bert else MODERN_INPUT_NAMES,
        max_length=MAX_LENGTH,
        vocabulary=shape.vocabulary,
        pad_token_id=0,
        opset=20,
        tolerance=1e-3,
    )
    if not bert:
        yield FP32, Model.exported(source)
        quantize(source, folder / "int8.onnx", Quantization(embeddings=False))
        yield INT8, Model.exported(folder / "int8.onnx")
    config = network.config
    both: tuple[Values, ...] = ("fp32", "int8")
    for values in both:
        yield f"dense {values}", packed_model(source, folder / f"dense-{values}.onnx", config, 0, PackOptions(values))
    for sparsity in (NEARLY_DENSE, *SPARSITIES):
        for values in both:
            path, options = folder / f"{sparsity}-{values}.onnx", PackOptions(values, dense_above=None)
            yield f"{100 * sparsity:g} % {values}", packed_model(source, path, config, sparsity, options)
    for sparsity in (0.9, 0.95):
        path, options = folder / f"{sparsity}-blocks.onnx", PackOptions("int8")
        yield f"{100 * sparsity:g} % 1x4 int8", packed_model(source, path, config, sparsity, options, block=4)
    if not bert:
        return
    export_fused(random_classifier(shape, 0, head_fraction=0.5, ffn_fraction=0.25), folder / "squeezed.onnx")
    quantize_fused(folder / "squeezed.onnx", folder / "squeezed-int8.onnx")
    yield "ORT int8 squeezed", Model.dense(folder / "squeezed-int8.onnx")
