"""Model files of the kernel benchmark: the fastest dense ONNX Runtime graphs, packed graphs, and graphs for peers."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
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
from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.inference import session_options
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import DENSE, Variant
from sparserve.models.export.onnx_export import export_onnx
from sparserve.models.export.quantization import quantize, quantize_embeddings
from sparserve.models.export.reload import load_bundle_model
from sparserve.models.export.sparse_attention import choose_attention
from sparserve.models.export.sparse_graph import pack_graph
from sparserve.models.recipes.schema import Quantization

FP32, INT8 = "ORT fp32 dense", "ORT int8 dense"
INT8_ATTENTION = ", int8 attention"
SPARSITIES = (0.8, 0.9, 0.95, 0.975)
NEARLY_DENSE = 0.55  # near the threshold between dense matrices and scattered nonzeros in the packer
PEER_SPARSITY = 0.95
MAX_LENGTH = 512


@dataclass(frozen=True)
class Model:
    """A model file and its properties: `packed` for the sparse runtime, and accuracy on a test split if it is known."""

    path: Path
    packed: bool
    sparsity: float
    encoder_bytes: int
    accuracy: float | None = None

    def session(self, threads: int, library: Path) -> onnxruntime.InferenceSession:
        """Return a session. Stock ONNX Runtime keeps its memory between runs, which is faster for equal shapes."""
        options = session_options(threads)
        if self.packed:
            options.register_custom_ops_library(str(library))
        else:
            options.enable_cpu_mem_arena = options.enable_mem_pattern = True
        return onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

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
    source: Path,
    target: Path,
    config: Any,
    sparsity: float,
    options: PackOptions,
    *,
    block: int = 1,
    attention: Values = "fp32",
    max_length: int = MAX_LENGTH,
) -> Model:
    """Write the graph of `source` with zeros in its encoder, packed; int8 weights come with int8 embeddings."""
    graph = onnx.load(str(source))
    for seed, tensor in enumerate(graph.graph.initializer):
        if sparsity and is_encoder_matrix(tensor):
            weight = with_zeros(numpy_helper.to_array(tensor).T, sparsity, seed, block=block).T
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight), tensor.name))
    packed = pack_graph(graph, config=config, options=options, max_length=max_length)
    if options.values == "int8":
        quantize_embeddings(graph)
    onnx.save(graph, str(target))
    if attention == "int8":
        head_size = config.hidden_size // config.num_attention_heads
        choose_attention(target, "int8", head_size=head_size, tokens=(), pad_token_id=0, library=None)
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
    """Write all arms of a shape to `folder` and yield them by name.

    Shapes other than BERT's have no fused graph: stock ONNX Runtime runs the exported one, which it optimises itself.
    """
    bert = shape.family == "bert"
    if bert:
        yield from fused_models(network, folder)
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
    both: tuple[Values, ...] = ("fp32", "int8") if bert else ("int8",)
    for values in both:
        yield f"dense {values}", packed_model(source, folder / f"dense-{values}.onnx", config, 0, PackOptions(values))
    for sparsity in (NEARLY_DENSE, *SPARSITIES) if bert else (0.9, 0.95):
        for values in both:
            path, options = folder / f"{sparsity}-{values}.onnx", PackOptions(values, dense_above=None)
            yield f"{100 * sparsity:g} % {values}", packed_model(source, path, config, sparsity, options)
    # With relative positions the products of attention stay in float.
    for sparsity in (0.9, 0.95) if shape.family != "deberta-v2" else ():
        path, options = folder / f"{sparsity}-attention.onnx", PackOptions("int8", dense_above=None)
        packed = packed_model(source, path, config, sparsity, options, attention="int8")
        yield f"{100 * sparsity:g} % int8{INT8_ATTENTION}", packed
    if not bert:
        return
    for sparsity in (0.9, 0.95):
        path, options = folder / f"{sparsity}-blocks.onnx", PackOptions("int8")
        yield f"{100 * sparsity:g} % 1x4 int8", packed_model(source, path, config, sparsity, options, block=4)
    export_fused(random_classifier(shape, 0, head_fraction=0.5, ffn_fraction=0.25), folder / "squeezed.onnx")
    quantize_fused(folder / "squeezed.onnx", folder / "squeezed-int8.onnx")
    yield "ORT int8 squeezed", Model.dense(folder / "squeezed-int8.onnx")


def fused_models(network: Any, folder: Path) -> Iterator[tuple[str, Model]]:
    """Write the fastest dense graphs of a BERT for stock ONNX Runtime, and yield them by name."""
    export_fused(network, folder / "fused.onnx")
    yield FP32, Model.dense(folder / "fused.onnx")
    quantize_fused(folder / "fused.onnx", folder / "fused-int8.onnx")
    yield INT8, Model.dense(folder / "fused-int8.onnx")


def trained_models(store: Path, task: str, folder: Path) -> Iterator[tuple[str, Model]]:
    """Yield every graph of a task's bundles with its accuracy, and the fastest dense graphs as baselines.

    The accuracy is the one that the job measured with the same file on the task's test split.
    """
    bundles = Store(store)
    dense = bundles.open(task, DENSE)
    network: Any = load_bundle_model(dense.folder)
    if network.config.model_type == "bert":
        for name, model in fused_models(network, folder):
            yield name, replace(model, accuracy=_accuracy(dense) if name == FP32 else None)
    else:
        yield FP32, _bundle_model(dense)
        yield INT8, _bundle_model(bundles.open(task, str(Variant(DENSE, "int8"))))
    for variant in bundles.variants(task):
        bundle = bundles.open(task, variant)
        if variant != DENSE:
            yield f"{variant} in ORT", _bundle_model(bundle)
        packed, measured = bundle.manifest.packed, bundle.manifest.measurement
        if packed:
            accuracy = measured.sparse.accuracy if measured and measured.sparse else None
            sparsity = bundle.manifest.sparsity.encoder_linear.sparsity
            yield (
                f"{variant}, attention {packed.attention.values if packed.attention else 'fp32'}",
                Model(bundle.sparse_model_path, True, sparsity, packed.encoder_bytes, accuracy),
            )


def _bundle_model(bundle: Bundle) -> Model:
    sparsity = bundle.manifest.sparsity.encoder_linear.sparsity
    return replace(Model.exported(bundle.model_path), sparsity=sparsity, accuracy=_accuracy(bundle))


def _accuracy(bundle: Bundle) -> float | None:
    evaluation = bundle.manifest.evaluation
    return evaluation.accuracy.value if evaluation else None
