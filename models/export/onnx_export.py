"""Export from torch to one ONNX file with named dimensions and torch's parameter names, verified against torch."""

import contextlib
import io
import json
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.errors import CheckpointError, ParityError
from sparserve.models.export.initializers import distinct_parameters, name_initializers
from sparserve.models.export.templates import Templates
from sparserve.models.files import machine_fault

# Batch and length: batch 1, odd lengths, a single token, a long text. The last row of a batch is half padding.
PARITY_SHAPES = ((1, 1), (1, 7), (3, 33), (2, 64), (8, 16))
# Tokens of the longest text that is compared. Attention takes memory with the square of it: in torch, two texts of
# 8,192 tokens would take 20 GB with the 12 heads of a base model.
MAX_PARITY_LENGTH = 2048
METADATA_KEY = "sparserve"

templates = Templates()


class _Logits(nn.Module):
    """A classifier as a function from its named inputs to logits [batch, labels]."""

    def __init__(self, model: nn.Module, input_names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.input_names = input_names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.input_names, inputs, strict=True))).logits
        return logits


def export_onnx(
    model: nn.Module,
    path: Path,
    *,
    input_names: tuple[str, ...],
    max_length: int,
    vocabulary: int,
    pad_token_id: int,
    opset: int,
    tolerance: float,
) -> float:
    """Write `model` as ONNX and return the largest difference of a logit between torch and ONNX Runtime.

    The graph has int64 inputs [batch, length] with these names and the output `logits` [batch, labels]. Initializers
    have the names of torch's parameters, even if parameters are equal. Weights of linears are transposed, [in, out].

    Raises:
        CheckpointError: the model cannot be traced.
        ParityError: the logits differ from torch's by more than `tolerance`; the file is removed.
    """
    wrapper = _Logits(model, input_names).eval()
    options = [input_names, max_length, opset]
    difference = math.inf
    for reused in (True, False):
        graph = (
            templates.fill(model, options)
            if reused
            else _trace(wrapper, path, max_length, opset, vocabulary, pad_token_id)
        )
        if graph is None:
            continue
        onnx.save(graph, str(path))
        difference = parity(wrapper, path, max_length=max_length, vocabulary=vocabulary, pad_token_id=pad_token_id)
        if difference <= tolerance:
            if not reused:
                templates.keep(model, options, graph)
            return difference
        path.unlink()
    raise ParityError(
        f"The logits of the exported graph differ from torch's by {difference:.2g}, more than the tolerance of "
        f"{tolerance:g}. Raise export.tolerance in the recipe only if you know the reason."
    )


def _trace(
    wrapper: _Logits, path: Path, max_length: int, opset: int, vocabulary: int, pad_token_id: int
) -> onnx.ModelProto:
    model, input_names = wrapper.model, wrapper.input_names
    # Traced with batch 2: the exporter would treat a batch size of 1 as a constant.
    example = tuple(random_inputs(2, min(16, max_length), vocabulary, pad_token_id, input_names, seed=0).values())
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    length = torch.export.Dim("length", min=1, max=max_length)
    with distinct_parameters(model) as originals:
        try:
            with _quiet():
                program = torch.onnx.export(
                    wrapper,
                    example,
                    dynamo=True,
                    opset_version=opset,
                    input_names=list(input_names),
                    output_names=["logits"],
                    dynamic_shapes=(tuple({0: batch, 1: length} for _ in input_names),),
                    verbose=False,
                )
        except Exception as error:  # the exporter raises many kinds
            if fault := machine_fault(error, path.parent):
                raise fault from error
            raise CheckpointError(f"{type(model).__name__} cannot be exported to ONNX: {error}") from error
        assert program is not None
        graph = program.model_proto
        tidy(graph)
        name_initializers(graph, model.state_dict(), originals, prefix="model.")
    return graph


@torch.no_grad()
def parity(wrapper: _Logits, path: Path, *, max_length: int, vocabulary: int, pad_token_id: int) -> float:
    """Return the largest absolute difference of a logit between torch and ONNX Runtime over several shapes."""
    classifier = OnnxClassifier(path, pad_token_id=pad_token_id, threads=1)
    largest = 0.0
    for seed, (batch, length) in enumerate((*PARITY_SHAPES, (2, MAX_PARITY_LENGTH))):
        shape = (batch, min(length, max_length))
        inputs = random_inputs(*shape, vocabulary, pad_token_id, wrapper.input_names, seed=seed)
        expected = wrapper(*inputs.values()).float().numpy()
        actual = classifier.run({name: value.numpy() for name, value in inputs.items()})
        largest = max(largest, float(np.abs(expected - actual).max()))
    return largest


def tidy(graph: onnx.ModelProto) -> None:
    """Remove what the exporter says about its machine and code, so that the graph is reproducible."""
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    # Shapes inferred while tracing break ONNX Runtime's quantiser; every runtime infers shapes again.
    del graph.graph.value_info[:]
    del graph.metadata_props[:]


def set_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Store a summary in a file's metadata_props, as JSON under the key "sparserve"."""
    graph = onnx.load(str(path))
    del graph.metadata_props[:]
    graph.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata, sort_keys=True))
    onnx.save(graph, str(path))


def random_inputs(
    batch: int, length: int, vocabulary: int, pad_token_id: int, names: tuple[str, ...], *, seed: int
) -> dict[str, torch.Tensor]:
    """Return random named inputs [batch, length] of a BERT-like graph; the last of several rows is half padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
    # No padding token within a text: RoBERTa computes positions from it.
    ids = torch.where(ids == pad_token_id, (pad_token_id + 1) % vocabulary, ids)
    mask = torch.ones_like(ids)
    if batch > 1 and length > 1:
        mask[-1, length // 2 :] = 0
        ids = torch.where(mask == 1, ids, pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: inputs[name] for name in names}


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the exporter's output and its warnings about internals and optional packages, but not its errors."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
