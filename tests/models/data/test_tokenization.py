"""Tokenised splits, their padding and the order of their batches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparserve.models.bundle.text_tokenizer import TextTokenizer
from sparserve.models.bundle.windows import LongTexts
from sparserve.models.data.dataset import Split
from sparserve.models.data.tokenization import TOKENIZE_BATCH_ROWS, Collator, LengthBucketSampler, RaggedRows, tokenize
from sparserve.models.encoders.checkpoint import Checkpoint

WINDOWS = LongTexts(overlong="windows", stride=4)
lengths = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@given(lengths=lengths, batch=st.integers(1, 40), epoch=st.integers(0, 5))
def test_sampler_yields_every_row_once_by_seed_and_epoch(lengths: list[int], batch: int, epoch: int) -> None:
    def order(random_state: int) -> list[int]:
        torch.manual_seed(random_state)
        sampler = LengthBucketSampler(lengths, batch, seed=3)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0)) == list(range(len(lengths)))
    assert order(0) == order(1)


def test_sampler_batches_rows_of_similar_length() -> None:
    lengths = [1 + (i * 37) % 100 for i in range(640)]
    rows = list(LengthBucketSampler(lengths, 32, seed=0))
    batches = [[lengths[row] for row in rows[i : i + 32]] for i in range(0, 640, 32)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded / sum(lengths) < 1.1


def test_collator_pads_to_the_longest_row() -> None:
    rows = [
        {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": torch.tensor(1), "row": 8},
        {"input_ids": [5], "attention_mask": [1], "labels": torch.tensor(0), "row": 2},
    ]
    batch = Collator(pad_token_id=9)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["row"].tolist() == [8, 2]
    assert batch["labels"].tolist() == [1, 0]


@pytest.mark.parametrize("pairs", [False, True])
def test_tokenize_in_parts_equals_tokenizing_all_rows(whole: Checkpoint, pairs: bool) -> None:
    tokenizer = whole.tokenizer
    texts = ["the good film was bright " * (1 + row % 5) + "x" * (row % 3) for row in range(TOKENIZE_BATCH_ROWS + 7)]
    split = Split(texts, texts[::-1] if pairs else None, [row % 2 for row in range(len(texts))])
    rows = tokenize(split, tokenizer, 16, multi_label=False)
    expected = tokenizer(texts, split.text_pairs, truncation="longest_first", max_length=16)
    assert set(rows.encodings) == {"input_ids", "token_type_ids", "attention_mask"}
    for name, encoded in rows.encodings.items():
        assert [row.tolist() for row in encoded] == expected[name]
    assert rows.lengths == [len(ids) for ids in expected["input_ids"]]
    picked = [len(texts) - 1, 3, 19]
    lists = [
        {**{n: expected[n][row] for n in rows.encodings}, "labels": rows.labels[row], "row": row} for row in picked
    ]
    batch, same = Collator(0)([rows[row] for row in picked]), Collator(0)(lists)
    assert batch.keys() == same.keys()
    assert all(torch.equal(batch[name], same[name]) and batch[name].dtype == torch.int64 for name in batch)


def test_tokenize_makes_a_row_of_each_window(whole: Checkpoint) -> None:
    texts = ["the good film", "the good film was bright " * 9, "bright"]
    rows = tokenize(Split(texts, None, [0, 1, 0]), whole.tokenizer, 16, multi_label=False, long_texts=WINDOWS)
    windows = TextTokenizer(whole.folder / "tokenizer.json", 16).windows(texts[1], 4)
    assert windows is not None
    assert len(windows) > 2
    short = [whole.tokenizer(text)["input_ids"] for text in texts]
    expected = [short[0], *[window.ids for window in windows], short[2]]
    assert [row.tolist() for row in rows.encodings["input_ids"]] == expected
    assert [sum(row.tolist()) for row in rows.encodings["attention_mask"]] == rows.lengths
    assert rows.labels.tolist() == [0, *[1] * len(windows), 0]


def test_tokenize_stores_four_bytes_per_token(whole: Checkpoint) -> None:
    rows = tokenize(Split(["the good film"] * 50, None, [0] * 50), whole.tokenizer, 16, multi_label=False)
    assert {encoded.values.nbytes for encoded in rows.encodings.values()} == {4 * sum(rows.lengths)}


def test_ragged_rows_index_from_both_ends() -> None:
    rows = RaggedRows(np.arange(5, dtype=np.int32), np.asarray([0, 2, 2, 5]))
    assert [row.tolist() for row in rows] == [[0, 1], [], [2, 3, 4]]
    assert rows[-1].tolist() == [2, 3, 4]
    for outside in (3, -4):
        with pytest.raises(IndexError):
            rows[outside]
