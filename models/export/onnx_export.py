"""torch -> ONNX: one file with named dimensions, torch's parameter names, and a proof that it computes the same."""

import contextlib
import io
import json
import logging
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
from sparserve.models.export.initializers import name_initializers, told_apart
from sparserve.models.files import machine_fault

# batch x length, of which the last rows are partly padding: batch 1, odd lengths, one token, the longest
PARITY_SHAPES = ((1, 1), (1, 7), (3, 33), (2, 64), (8, 16))
METADATA_KEY = "sparserve"


class _Logits(nn.Module):
    """A classifier as a function of its named inputs to logits [batch, labels]."""

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
    """Write `model` as ONNX and return the largest difference of a logit between torch and onnxruntime.

    The graph takes int64 inputs [batch, length] of these names and gives `logits` [batch, labels]. Initializers have
    the names of torch's parameters, also of those that are equal; a linear's weight is stored transposed, [in, out].

    Raises:
        CheckpointError: the model cannot be traced.
        ParityError: onnxruntime's logits differ from torch's by more than `tolerance`; the file is removed.
    """
    wrapper = _Logits(model, input_names).eval()
    # Traced with batch 2: a batch of 1 would be taken for a constant.
    example = tuple(random_inputs(2, min(16, max_length), vocabulary, pad_token_id, input_names, seed=0).values())
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    length = torch.export.Dim("length", min=1, max=max_length)
    with told_apart(model) as held:
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
        name_initializers(graph, model.state_dict(), held, prefix="model.")
    onnx.save(graph, str(path))
    difference = parity(wrapper, path, max_length=max_length, vocabulary=vocabulary, pad_token_id=pad_token_id)
    if not difference <= tolerance:
        path.unlink()
        raise ParityError(
            f"the exported graph's logits differ from torch's by {difference:.2g}, more than the tolerance of "
            f"{tolerance:g}; raise export.tolerance in the recipe only if you know why"
        )
    return difference


@torch.no_grad()
def parity(wrapper: _Logits, path: Path, *, max_length: int, vocabulary: int, pad_token_id: int) -> float:
    """Largest absolute difference of a logit between torch and onnxruntime over several shapes."""
    classifier = OnnxClassifier(path, pad_token_id=pad_token_id, threads=1)
    worst = 0.0
    for seed, (batch, length) in enumerate((*PARITY_SHAPES, (2, max_length))):
        shape = (batch, min(length, max_length))
        inputs = random_inputs(*shape, vocabulary, pad_token_id, wrapper.input_names, seed=seed)
        expected = wrapper(*inputs.values()).float().numpy()
        actual = classifier.run({name: value.numpy() for name, value in inputs.items()})
        worst = max(worst, float(np.abs(expected - actual).max()))
    return worst


def tidy(graph: onnx.ModelProto) -> None:
    """Make a graph reproducible and readable: no trace of the exporting machine."""
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    # Shapes inferred while tracing break onnxruntime's quantiser, and every runtime infers its own.
    del graph.graph.value_info[:]
    del graph.metadata_props[:]


def set_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Store a summary in a file's metadata_props, as JSON under the key "sparserve": it goes wherever the file goes."""
    graph = onnx.load(str(path))
    del graph.metadata_props[:]
    graph.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata, sort_keys=True))
    onnx.save(graph, str(path))


def random_inputs(
    batch: int, length: int, vocabulary: int, pad_token_id: int, names: tuple[str, ...], *, seed: int
) -> dict[str, torch.Tensor]:
    """The named inputs [batch, length] of a BERT-like graph; the last row of several is half padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
    # No padding token inside a text: RoBERTa counts positions by it.
    ids = torch.where(ids == pad_token_id, (pad_token_id + 1) % vocabulary, ids)
    mask = torch.ones_like(ids)
    if batch > 1 and length > 1:
        mask[-1, length // 2 :] = 0
        ids = torch.where(mask == 1, ids, pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: inputs[name] for name in names}


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter warns of its own internals and of packages that are not needed; its errors still come through."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
