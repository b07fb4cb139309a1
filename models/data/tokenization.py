"""Tokenised text for training: ragged rows, padding, and batches of similar length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from sparserve.models.bundle.windows import TRUNCATE, LongTexts, WindowFrame
from sparserve.models.data import dataset as labelled
from sparserve.models.data.dataset import Split

TOKENIZE_BATCH_ROWS = 1024


@dataclass(frozen=True)
class RaggedRows:
    """Rows of different lengths in one array. Row `i` is `values[offsets[i] : offsets[i + 1]]`."""

    values: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[np.int32]:
        row = range(len(self))[row]
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[np.int32]]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True)
class TokenizedSplit(Dataset[dict[str, Any]]):
    """A split as token ids. Each item carries its row number, which is its index in cached teacher outputs."""

    encodings: Mapping[str, RaggedRows]
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**{name: rows[row] for name, rows in self.encodings.items()}, "labels": self.labels[row], "row": row}

    @cached_property
    def lengths(self) -> list[int]:
        """Number of tokens of each row."""
        return [len(ids) for ids in self.encodings["input_ids"]]


def tokenize(
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    multi_label: bool,
    long_texts: LongTexts = TRUNCATE,
) -> TokenizedSplit:
    """Tokenise a split, truncated to `max_length` tokens.

    If long texts have windows, each window of a single text is a row, with the label of its text.
    """
    parts: dict[str, list[npt.NDArray[np.int32]]] = {}
    sizes: list[int] = []
    counts: list[int] = []
    # In parts: the tokenizer returns lists, which take 200 bytes per token.
    for begin in range(0, len(split), TOKENIZE_BATCH_ROWS):
        rows = slice(begin, begin + TOKENIZE_BATCH_ROWS)
        encodings = tokenizer(
            list(split.texts[rows]),
            list(split.text_pairs[rows]) if split.text_pairs is not None else None,
            truncation="longest_first",
            max_length=max_length,
            padding=False,
        )
        columns = {name: encodings[name] for name in tokenizer.model_input_names if name in encodings}
        if long_texts.windowed and split.text_pairs is None:
            overflowing = [bool(encoding.overflowing) for encoding in encodings.encodings or ()]
            columns, windows = _split_into_windows(
                columns, overflowing, split.texts[rows], tokenizer, max_length, long_texts.stride
            )
            counts.extend(windows)
        sizes.extend(map(len, columns["input_ids"]))
        for name, values in columns.items():
            parts.setdefault(name, []).append(np.fromiter(chain.from_iterable(values), np.int32))
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    numbers = multi_label or isinstance(split.labels[0], float)
    labels = torch.tensor(split.labels, dtype=torch.float32 if numbers else torch.int64)
    if counts:
        labels = labels.repeat_interleave(torch.tensor(counts), dim=0)
    return TokenizedSplit({name: RaggedRows(np.concatenate(part), offsets) for name, part in parts.items()}, labels)


def _split_into_windows(
    columns: Mapping[str, Sequence[list[int]]],
    overflowing: Sequence[bool],
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int | None,
) -> tuple[dict[str, list[list[int]]], list[int]]:
    """Return encodings with windows in place of each text that overflows, and the number of rows of each text."""
    split: dict[str, list[list[int]]] = {name: [] for name in columns}
    counts: list[int] = []
    backend: Tokenizer = tokenizer.backend_tokenizer
    frame = WindowFrame.of(backend, max_length) if any(overflowing) else None
    for row, text in enumerate(texts):
        if frame is None or not overflowing[row]:
            counts.append(1)
            for name, values in columns.items():
                split[name].append(values[row])
            continue
        content = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        windows = frame.windows(content, stride)
        counts.append(len(windows))
        for ids, types in windows:
            made = {"input_ids": ids, "token_type_ids": types, "attention_mask": [1] * len(ids)}
            for name in split:
                split[name].append(made[name])
    return split, counts


@dataclass(frozen=True)
class TokenizedDataset:
    """A dataset as the tokens of one tokenizer. Each split is tokenised when it is first used."""

    dataset: labelled.Dataset
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    long_texts: LongTexts = TRUNCATE

    @cached_property
    def train(self) -> TokenizedSplit:
        """The training split."""
        return self._tokenize(self.dataset.train)

    @cached_property
    def validation(self) -> TokenizedSplit:
        """The validation split."""
        return self._tokenize(self.dataset.validation)

    @cached_property
    def test(self) -> TokenizedSplit:
        """The test split."""
        return self._tokenize(self.dataset.test)

    def _tokenize(self, split: Split) -> TokenizedSplit:
        multi_label = self.dataset.multi_label
        return tokenize(split, self.tokenizer, self.max_length, multi_label=multi_label, long_texts=self.long_texts)


class Collator:
    """Stack rows into tensors [batch, length], padded to the longest row.

    `pad_token_id` fills `input_ids`; 0 fills the other inputs.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch, with `row` [batch] and `labels` beside the inputs."""
        batch = {"labels": torch.stack([row["labels"] for row in rows])}
        batch["row"] = torch.tensor([row["row"] for row in rows])
        for name in rows[0].keys() - {"labels", "row"}:
            padding = self.pad_token_id if name == "input_ids" else 0
            tensors = [torch.tensor(row[name], dtype=torch.int64) for row in rows]
            batch[name] = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=padding)
        return batch


class LengthBucketSampler(Sampler[int]):
    """Order of rows that puts rows of similar length into a batch and shuffles the batches.

    The order depends only on the seed and the epoch, never on the global random state, so that a resumed run sees the
    same rows as an uninterrupted one.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, *, bucket_batches: int = 50) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.bucket = batch_size * bucket_batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        buckets = [order[i : i + self.bucket] for i in range(0, len(order), self.bucket)]
        rows = [row for bucket in buckets for row in sorted(bucket, key=lambda row: self.lengths[row], reverse=True)]
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        # An incomplete batch must stay last, or the batch sampler would shift the borders of the others.
        whole = len(rows) // self.batch_size
        for index in torch.randperm(whole, generator=generator).tolist():
            yield from batches[index]
        for batch in batches[whole:]:
            yield from batch
