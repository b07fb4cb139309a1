"""Distinct inputs: copies are not new, and the memory is bounded."""

from hypothesis import given
from hypothesis import strategies as st

from sparserve.service.experiments.experiment import DistinctInputs
from sparserve.service.types import TextInput


def inputs(*texts: str) -> list[TextInput]:
    return [TextInput(text=text) for text in texts]


def test_distinct_inputs_copies_are_not_new() -> None:
    known = DistinctInputs()
    assert known.add(inputs("a", "a", "b", "a")).tolist() == [True, False, True, False]
    assert known.add(inputs("b", "c")).tolist() == [False, True]


def test_distinct_inputs_pairs_differ_from_texts() -> None:
    pairs = [TextInput(text=text, text_pair=pair) for text, pair in [("ab", None), ("ab", ""), ("a", "b"), ("", "ab")]]
    assert DistinctInputs().add(pairs).all()


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(1, 5))
def test_distinct_inputs_capacity(sent: list[str], most: int) -> None:
    known, remembered = DistinctInputs(most), list[str]()
    for text in sent:
        assert known.add(inputs(text)).tolist() == [text not in remembered]
        if text not in remembered:
            remembered = [*remembered, text][-most:]
