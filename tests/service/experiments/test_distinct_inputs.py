"""Distinct inputs: copies are not new, and the memory is bounded."""

from hypothesis import given
from hypothesis import strategies as st

from sparserve.service.experiments.experiment import DistinctInputs, input_digest
from sparserve.service.types import TextInput

KEY = b"key"


def digests(*texts: str) -> list[int]:
    return [input_digest(TextInput(text=text), KEY) for text in texts]


def new(known: DistinctInputs, *texts: str) -> list[bool]:
    return [known.add(digest) for digest in digests(*texts)]


def test_distinct_inputs_copies_are_not_new() -> None:
    known = DistinctInputs()
    assert new(known, "a", "a", "b", "a") == [True, False, True, False]
    assert new(known, "b", "c") == [False, True]


def test_distinct_inputs_pairs_differ_from_texts() -> None:
    pairs = [TextInput(text=text, text_pair=pair) for text, pair in [("ab", None), ("ab", ""), ("a", "b"), ("", "ab")]]
    assert len({input_digest(pair, KEY) for pair in pairs}) == len(pairs)


def test_input_digest_depends_on_the_key() -> None:
    item = TextInput(text="a")
    assert input_digest(item, b"one") != input_digest(item, b"other")


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(1, 5))
def test_distinct_inputs_capacity(sent: list[str], most: int) -> None:
    known, remembered = DistinctInputs(most), list[str]()
    for text in sent:
        assert new(known, text) == [text not in remembered]
        if text not in remembered:
            remembered = [*remembered, text][-most:]
