"""Random BERT encoders and their fastest dense ONNX graphs, the baselines of the sparse kernels."""

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.pytorch_utils import prune_linear_layer

from benchmarks.kernels.fused_graph import INPUT_NAMES, fused_graph
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.errors import ParityError

PARITY_SHAPES = ((1, 1), (1, 7), (3, 33), (2, 128))  # batch x length; the last row is half padding
TOLERANCE = 1e-4  # of a logit
WEIGHT_DEVIATION = 0.04  # linear layers of a trained BERT-base: 0.035-0.045


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of an encoder: `hidden` and `intermediate` are widths, `vocabulary` is a number of tokens.

    `family` is the architecture's `model_type`.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    family: str = "bert"


BERT_BASE = EncoderShape("BERT-base", 12, 768, 12, 3072, 30522)
MINILM_L6 = EncoderShape("MiniLM-L6", 6, 384, 12, 1536, 30522)


def random_classifier(shape: EncoderShape, seed: int, *, head_fraction: float = 1.0, ffn_fraction: float = 1.0) -> Any:
    """Return a BertForSequenceClassification of two labels with random weights, in evaluation mode.

    With fractions below 1 every layer keeps only a random fraction of its heads and of its FFN width, in smaller linear
    layers. The config still has the full widths.
    """
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate,
        num_labels=2,
        initializer_range=WEIGHT_DEVIATION,
        attn_implementation="eager",
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        # With biases of 0 and scales of 1, a graph that confuses them would not be noticed.
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * WEIGHT_DEVIATION)
    for layer in model.bert.encoder.layer:
        _keep_heads(layer, _draw(shape.heads, head_fraction))
        _keep_neurons(layer, _draw(shape.intermediate, ffn_fraction))
    return model


def encoder_linears(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    """Yield every linear layer of the encoder with its name: attention and FFN, not embeddings and classifier."""
    for name, module in model.bert.encoder.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def export_fused(model: Any, path: Path) -> float:
    """Write the graph that onnxruntime runs fastest in fp32 and return the largest logit difference from torch.

    The graph is built from the weights, node by node: onnxruntime's transformer optimiser does not recognise the
    attention of squeezed layers, and its SkipLayerNormalization costs more than it saves (see `fused_graph`).

    Raises:
        ValueError: the activation is not the exact (erf) GELU.
        ParityError: the difference exceeds `TOLERANCE`. The file is removed.
    """
    if model.config.hidden_act != "gelu":
        raise ValueError(f"the fused graph needs the exact GELU, but this model has {model.config.hidden_act}")
    onnx.save(fused_graph(model), str(path))
    return _checked(model, path)


def export_plain(model: Any, path: Path, *, opset: int = 14) -> float:
    """Write the graph with standard operators only, for runtimes with their own fusions.

    DeepSparse 1.8 supports opsets up to 14. Returns and raises the same as `export_fused`.
    """
    names = {name: {0: "batch", 1: "length"} for name in INPUT_NAMES} | {"logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tracing and the deprecated exporter
        torch.onnx.export(
            _Logits(model).eval(),
            tuple(_inputs(model.config, 2, 16, seed=0).values()),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=list(INPUT_NAMES),
            output_names=["logits"],
            dynamic_axes=names,
        )
    return _checked(model, path)


def quantize_fused(source: Path, target: Path) -> None:
    """Write a fused graph with int8 linear layers and attention. Activations are quantised at run time.

    These settings were the fastest on AVX2: unsigned weights took a quarter longer, and so did attention in fp32.
    Attention becomes QAttention, whose scores and softmax stay fp32.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a pre-processing that this graph does not need
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["Gemm", "MatMul", "Attention"],  # Gemm becomes MatMul before the selection
            per_channel=True,  # as fast as one scale per matrix, and more exact on trained weights
            reduce_range=True,  # as fast as 8 bits, which would saturate without VNNI
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},  # the output type of Attention cannot be inferred
        )
    finally:
        logging.disable(disabled)


class _Logits(nn.Module):
    """Wrapper of a classifier that returns the logits [batch, labels]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(INPUT_NAMES, inputs, strict=True))).logits
        return logits


@torch.no_grad()
def _checked(model: Any, path: Path) -> float:
    classifier = OnnxClassifier(path, pad_token_id=0, threads=1)
    worst = 0.0
    for seed, (batch, length) in enumerate(PARITY_SHAPES):
        inputs = _inputs(model.config, batch, min(length, model.config.max_position_embeddings), seed=seed)
        expected = model(**inputs).logits.numpy()
        actual = classifier.run({name: value.numpy() for name, value in inputs.items()})
        worst = max(worst, float(np.abs(expected - actual).max()))
    if not worst <= TOLERANCE:
        path.unlink()
        raise ParityError(f"the logits of the graph differ from torch by {worst:.2g}, more than {TOLERANCE:g}")
    return worst


def _inputs(config: Any, batch: int, length: int, *, seed: int) -> dict[str, torch.Tensor]:
    """Return random token and type ids [batch, length]; the second half of the last row is padding."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, (length + 1) // 2 :] = 0
    ids = torch.randint(1, config.vocab_size, (batch, length), generator=generator)
    types = torch.randint(0, config.type_vocab_size, (batch, length), generator=generator)
    return dict(zip(INPUT_NAMES, (ids * mask, mask, types * mask), strict=True))


def _draw(count: int, fraction: float) -> torch.Tensor:
    """Return sorted random indices of this fraction of `count`, at least one."""
    kept = max(round(count * fraction), 1)
    return torch.randperm(count)[:kept].sort().values


def _keep_heads(layer: Any, heads: torch.Tensor) -> None:
    attention = layer.attention
    width = attention.self.attention_head_size
    kept = (heads[:, None] * width + torch.arange(width)).flatten()
    for name in ("query", "key", "value"):
        setattr(attention.self, name, prune_linear_layer(getattr(attention.self, name), kept))
    attention.output.dense = prune_linear_layer(attention.output.dense, kept, dim=1)


def _keep_neurons(layer: Any, neurons: torch.Tensor) -> None:
    layer.intermediate.dense = prune_linear_layer(layer.intermediate.dense, neurons)
    layer.output.dense = prune_linear_layer(layer.output.dense, neurons, dim=1)
