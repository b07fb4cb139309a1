"""Teacher outputs for the training rows: computed once and read from disk, or computed at every step.

The cache is ragged, without padding: row `i` has `lengths[i]` tokens. Hidden states are stored as
[tokens, layers + 1, hidden] and attention scores as [layers, heads, length, length] row after row, both in fp16.
Writing it can be interrupted: it resumes after the last recorded block of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sparserve.models.data.tokenization import Collator, TokenizedSplit
from sparserve.models.encoders.attention_scores import attention_scores
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.files import write_atomically
from sparserve.models.training.distillation import NetworkOutputs
from sparserve.models.types import Progress

HALF_MAX = float(np.finfo(np.float16).max)
BATCH_ROWS = 64
RECORDED_ROWS = 2048  # a multiple of the batch
LOGITS = "logits.npy"
DONE = "rows.done"  # of a cache that is not complete: the number of rows that are
Mode = Literal["r+", "w+"]


class TeacherSource(Protocol):
    """Source of teacher outputs for a batch."""

    def outputs(self, rows: torch.Tensor, inputs: dict[str, torch.Tensor]) -> NetworkOutputs:
        """Return the outputs for these rows [batch], padded like `inputs` [batch, length]."""


@dataclass(frozen=True)
class RequiredOutputs:
    """Outputs, besides the logits, that the losses need."""

    hidden: bool
    attention: bool


def run_network(model: nn.Module, inputs: dict[str, torch.Tensor], required: RequiredOutputs) -> NetworkOutputs:
    """Run one forward pass and return the required outputs. Gradients flow unless the caller disables them."""
    inputs = {name: value for name, value in inputs.items() if name != "labels"}
    if not required.attention:
        outputs = model(**inputs, output_hidden_states=required.hidden)
        return NetworkOutputs(outputs.logits, outputs.hidden_states if required.hidden else ())
    with attention_scores(model) as scores:
        outputs = model(**inputs, output_hidden_states=required.hidden)
        return NetworkOutputs(outputs.logits, outputs.hidden_states if required.hidden else (), tuple(scores))


class LiveTeacher:
    """Teacher that runs at every step, for data that is too large to cache."""

    def __init__(self, model: nn.Module, required: RequiredOutputs) -> None:
        self.model = model.eval()
        self.required = required

    @torch.no_grad()
    def outputs(self, rows: torch.Tensor, inputs: dict[str, torch.Tensor]) -> NetworkOutputs:
        """Run the teacher on this batch."""
        return run_network(self.model.to(rows.device), inputs, self.required)


class CachedTeacher:
    """Teacher outputs from the files of `write_cache`. The files are memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self._logits = torch.from_numpy(np.load(folder / LOGITS))
        self._lengths: npt.NDArray[np.int64] = np.load(folder / "lengths.npy")
        self._token_offsets = np.concatenate([[0], np.cumsum(self._lengths)])
        self._hidden = _map(folder / "hidden.npy")
        self._attention = _map(folder / "attention.npy")
        if self._attention is not None:
            layers, heads = np.load(folder / "attention_shape.npy").tolist()
            self._attention_shape = (layers, heads)
            self._attention_offsets = np.concatenate([[0], np.cumsum(layers * heads * self._lengths**2)])

    def outputs(self, rows: torch.Tensor, inputs: dict[str, torch.Tensor]) -> NetworkOutputs:
        """Return the cached outputs for these rows, with 0 at padding."""
        length = inputs["input_ids"].shape[1]
        device = rows.device
        numbers = rows.tolist()
        hidden: Sequence[torch.Tensor] = ()
        attention: Sequence[torch.Tensor] = ()
        if self._hidden is not None:
            padded = np.zeros((len(numbers), length, *self._hidden.shape[1:]), dtype=np.float16)
            for index, row in enumerate(numbers):
                begin, end = self._token_offsets[row : row + 2]
                padded[index, : end - begin] = self._hidden[begin:end]
            hidden = torch.from_numpy(padded).to(device).float().unbind(2)
        if self._attention is not None:
            layers, heads = self._attention_shape
            scores = np.zeros((len(numbers), layers, heads, length, length), dtype=np.float16)
            for index, row in enumerate(numbers):
                begin, end = self._attention_offsets[row : row + 2]
                used = int(self._lengths[row])
                block = self._attention[begin:end].reshape(layers, heads, used, used)
                scores[index, :, :, :used, :used] = block
            attention = torch.from_numpy(scores).to(device).float().unbind(1)
        return NetworkOutputs(self._logits[rows.cpu()].to(device), hidden, attention)


def cache_bytes(rows: TokenizedSplit, required: RequiredOutputs, *, layers: int, hidden: int, heads: int) -> int:
    """Return the size in bytes of a cache of these rows."""
    lengths = np.asarray(rows.lengths, dtype=np.int64)
    tokens = int(lengths.sum())
    attention = int((lengths**2).sum()) * layers * heads
    return 2 * (required.hidden * tokens * (layers + 1) * hidden + required.attention * attention)


@torch.no_grad()
def write_cache(
    folder: Path,
    model: nn.Module,
    rows: TokenizedSplit,
    required: RequiredOutputs,
    *,
    pad_token_id: int,
    progress: Progress,
) -> None:
    """Run the teacher in eval mode over every row and write its outputs to `folder`; resume what a kill has left."""
    model.eval()
    device = next(model.parameters()).device
    config: Any = model.config
    layers = heads = width = 0
    if required.hidden or required.attention:  # a teacher whose logits alone are needed may have no such layers
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        width = next(
            iter(encoder_linears(model).values())
        ).in_features  # a squeezed network is narrower than its config
    lengths = np.asarray(rows.lengths, dtype=np.int64)
    tokens = np.concatenate([[0], np.cumsum(lengths)])
    squares = np.concatenate([[0], np.cumsum(layers * heads * lengths**2)])
    record = folder / DONE
    done = int(record.read_text()) if record.is_file() else 0
    mode: Mode = "r+" if done else "w+"
    logits = _open(folder / LOGITS, (len(rows), config.num_labels), mode, np.float32)
    hidden = _open(folder / "hidden.npy", (int(tokens[-1]), layers + 1, width), mode) if required.hidden else None
    attention = _open(folder / "attention.npy", (int(squares[-1]),), mode) if required.attention else None
    written = [mapped for mapped in (logits, hidden, attention) if mapped is not None]
    collate = Collator(pad_token_id)
    order = sorted(range(len(rows)), key=lambda row: (lengths[row], row))
    for begin in range(done, len(order), BATCH_ROWS):
        numbers = order[begin : begin + BATCH_ROWS]
        batch = collate([rows[row] for row in numbers])
        batch.pop("row")
        outputs = run_network(model, {name: value.to(device) for name, value in batch.items()}, required)
        logits[numbers] = outputs.logits.float().cpu().numpy()
        stacked = _half(torch.stack(tuple(outputs.hidden), dim=2)) if hidden is not None else None
        scores = _half(torch.stack(tuple(outputs.attention), dim=1)) if attention is not None else None
        for index, row in enumerate(numbers):
            used = int(lengths[row])
            if hidden is not None and stacked is not None:
                hidden[tokens[row] : tokens[row + 1]] = stacked[index, :used]
            if attention is not None and scores is not None:
                attention[squares[row] : squares[row + 1]] = scores[index, :, :, :used, :used].ravel()
        done = begin + len(numbers)
        progress(done, len(order), "rows")
        if done % RECORDED_ROWS == 0:
            for mapped in written:
                mapped.flush()
            write_atomically(record, str(done))
    np.save(folder / "lengths.npy", lengths)
    np.save(folder / "attention_shape.npy", np.asarray([layers, heads]))
    for mapped in written:
        mapped.flush()
    record.unlink(missing_ok=True)


def _half(values: torch.Tensor) -> npt.NDArray[np.float16]:
    result: npt.NDArray[np.float16] = values.float().clamp(-HALF_MAX, HALF_MAX).half().cpu().numpy()
    return result


def _open(path: Path, shape: tuple[int, ...], mode: Mode, dtype: type[np.floating[Any]] = np.float16) -> np.memmap:
    return np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)


def _map(path: Path) -> np.memmap | None:
    return np.lib.format.open_memmap(path, mode="r") if path.exists() else None
