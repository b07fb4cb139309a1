"""What the teacher says about every training row: computed once and read from disk, or computed at every step.

The cache is ragged, without padding: row `i` owns `lengths[i]` tokens. Hidden states lie as
[tokens, layers + 1, hidden], attention scores as [layers, heads, length, length] row after row, both in fp16.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sparserve.models.data.tokenization import Collator, TokenizedSplit
from sparserve.models.encoders.attention_scores import attention_scores
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.training.distillation import NetworkOutputs
from sparserve.models.types import Progress

HALF_MAX = float(np.finfo(np.float16).max)


class TeacherSource(Protocol):
    """Gives the teacher's outputs for a batch."""

    def outputs(self, rows: torch.Tensor, inputs: dict[str, torch.Tensor]) -> NetworkOutputs:
        """Outputs for these rows [batch], padded like `inputs` [batch, length]."""


@dataclass(frozen=True)
class Wanted:
    """Which outputs the losses need."""

    hidden: bool
    attention: bool


def run_network(model: nn.Module, inputs: dict[str, torch.Tensor], wanted: Wanted) -> NetworkOutputs:
    """One forward pass with the outputs that are wanted; gradients flow unless the caller forbids them."""
    inputs = {name: value for name, value in inputs.items() if name != "labels"}
    if not wanted.attention:
        outputs = model(**inputs, output_hidden_states=wanted.hidden)
        return NetworkOutputs(outputs.logits, outputs.hidden_states if wanted.hidden else ())
    with attention_scores(model, model.config.num_attention_heads) as scores:  # type: ignore[union-attr,arg-type]
        outputs = model(**inputs, output_hidden_states=wanted.hidden)
        return NetworkOutputs(outputs.logits, outputs.hidden_states if wanted.hidden else (), tuple(scores))


class LiveTeacher:
    """Runs the teacher at every step: for data too large to cache."""

    def __init__(self, model: nn.Module, wanted: Wanted) -> None:
        self.model = model.eval()
        self.wanted = wanted

    @torch.no_grad()
    def outputs(self, rows: torch.Tensor, inputs: dict[str, torch.Tensor]) -> NetworkOutputs:
        """Outputs for this batch."""
        return run_network(self.model.to(rows.device), inputs, self.wanted)


class CachedTeacher:
    """Reads what `write_cache` wrote; the files are mapped, so memory holds only what is in use."""

    def __init__(self, folder: Path) -> None:
        self._logits = torch.from_numpy(np.load(folder / "logits.npy"))
        self._lengths: npt.NDArray[np.int64] = np.load(folder / "lengths.npy")
        self._token_offsets = np.concatenate([[0], np.cumsum(self._lengths)])
        self._hidden = _map(folder / "hidden.npy")
        self._attention = _map(folder / "attention.npy")
        if self._attention is not None:
            layers, heads = np.load(folder / "attention_shape.npy").tolist()
            self._attention_shape = (layers, heads)
            self._attention_offsets = np.concatenate([[0], np.cumsum(layers * heads * self._lengths**2)])

    def outputs(self, rows: torch.Tensor, inputs: dict[str, torch.Tensor]) -> NetworkOutputs:
        """Outputs for these rows, zero where there is padding."""
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


def cache_bytes(rows: TokenizedSplit, wanted: Wanted, *, layers: int, hidden: int, heads: int) -> int:
    """Bytes that a cache of these rows takes."""
    lengths = np.asarray(rows.lengths, dtype=np.int64)
    tokens = int(lengths.sum())
    attention = int((lengths**2).sum()) * layers * heads
    return 2 * (wanted.hidden * tokens * (layers + 1) * hidden + wanted.attention * attention)


@torch.no_grad()
def write_cache(
    folder: Path, model: nn.Module, rows: TokenizedSplit, wanted: Wanted, *, pad_token_id: int, progress: Progress
) -> None:
    """Run the teacher in eval mode over every row and write what it says into `folder`."""
    model.eval()
    device = next(model.parameters()).device
    config: Any = model.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    width = next(iter(encoder_linears(model).values())).in_features  # of a squeezed network, less than configured
    lengths = np.asarray(rows.lengths, dtype=np.int64)
    tokens = np.concatenate([[0], np.cumsum(lengths)])
    squares = np.concatenate([[0], np.cumsum(layers * heads * lengths**2)])
    logits = np.zeros((len(rows), config.num_labels), dtype=np.float32)
    hidden = _create(folder / "hidden.npy", (int(tokens[-1]), layers + 1, width)) if wanted.hidden else None
    attention = _create(folder / "attention.npy", (int(squares[-1]),)) if wanted.attention else None
    collate = Collator(pad_token_id)
    order = sorted(range(len(rows)), key=lambda row: (lengths[row], row))
    done = 0
    for begin in range(0, len(order), 64):
        numbers = order[begin : begin + 64]
        batch = collate([rows[row] for row in numbers])
        batch.pop("row")
        outputs = run_network(model, {name: value.to(device) for name, value in batch.items()}, wanted)
        logits[numbers] = outputs.logits.float().cpu().numpy()
        stacked = _half(torch.stack(tuple(outputs.hidden), dim=2)) if hidden is not None else None
        scores = _half(torch.stack(tuple(outputs.attention), dim=1)) if attention is not None else None
        for index, row in enumerate(numbers):
            used = int(lengths[row])
            if hidden is not None and stacked is not None:
                hidden[tokens[row] : tokens[row + 1]] = stacked[index, :used]
            if attention is not None and scores is not None:
                attention[squares[row] : squares[row + 1]] = scores[index, :, :, :used, :used].ravel()
        done += len(numbers)
        progress(done, len(order), "rows")
    np.save(folder / "logits.npy", logits)
    np.save(folder / "lengths.npy", lengths)
    np.save(folder / "attention_shape.npy", np.asarray([layers, heads]))
    for mapped in (hidden, attention):
        if mapped is not None:
            mapped.flush()


def _half(values: torch.Tensor) -> npt.NDArray[np.float16]:
    result: npt.NDArray[np.float16] = values.float().clamp(-HALF_MAX, HALF_MAX).half().cpu().numpy()
    return result


def _create(path: Path, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


def _map(path: Path) -> np.memmap | None:
    return np.lib.format.open_memmap(path, mode="r") if path.exists() else None
