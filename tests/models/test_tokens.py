import torch
from hypothesis import given
from hypothesis import strategies as st

from models.tokens import Collator, LengthBucketSampler

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@given(lengths=lengths, batch=st.integers(1, 40), epoch=st.integers(0, 5))
def test_every_row_comes_once_and_the_order_depends_on_seed_and_epoch_alone(lengths, batch, epoch):
    def order(random_state):
        torch.manual_seed(random_state)
        sampler = LengthBucketSampler(lengths, batch, seed=3)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0)) == list(range(len(lengths)))
    assert order(0) == order(1)


def test_neighbours_have_similar_lengths():
    lengths = [1 + (i * 37) % 100 for i in range(640)]
    rows = list(LengthBucketSampler(lengths, 32, seed=0))
    batches = [[lengths[row] for row in rows[i : i + 32]] for i in range(0, 640, 32)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded / sum(lengths) < 1.1


def test_rows_are_padded_to_the_longest():
    rows = [
        {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": torch.tensor(1), "row": 8},
        {"input_ids": [5], "attention_mask": [1], "labels": torch.tensor(0), "row": 2},
    ]
    batch = Collator(pad_token_id=9)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["row"].tolist() == [8, 2]
    assert batch["labels"].tolist() == [1, 0]
