from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserve.models.training.augmentation import word_order
from sparserve.models.training.augmentation.word_candidates import find_words
from sparserve.models.training.augmentation.word_order import reordered

TEXTS = st.text(alphabet=st.sampled_from("abcä ,.!7'\n"), max_size=40)


def words(text: str) -> list[str]:
    return [text[slice(*span)] for span in find_words(text)]


@given(text=TEXTS, seed=st.integers(0, 99), probability=st.floats(0.05, 1), variants=st.integers(1, 4))
def test_no_word_is_new_and_one_is_left(text: str, seed: int, probability: float, variants: int) -> None:
    made = reordered(text, variants, probability, np.random.default_rng(seed))
    assert made == reordered(text, variants, probability, np.random.default_rng(seed))
    assert len(made) == variants
    for new in made:
        # Punctuation and digits stay, in their order.
        assert [sign for sign in new if sign in ",.!7"] == [sign for sign in text if sign in ",.!7"]
        letters = sorted(new.replace(" ", "").replace("\n", ""))
        assert all(letters.count(letter) <= text.count(letter) for letter in letters)
        if words(text):
            assert any(word in new for word in words(text))


@pytest.mark.parametrize(
    ("dropped", "expected"),
    [(0.0, "film good, was the very dull!"), (1.0, "good")],
)
def test_every_word_is_changed_at_probability_1(monkeypatch: pytest.MonkeyPatch, dropped: float, expected: str) -> None:
    monkeypatch.setattr(word_order, "DROPPED", dropped)
    (made,) = reordered("good film, the was dull very!", 1, 1.0, np.random.default_rng(0))
    if dropped:
        assert words(made) == [expected]
    else:
        assert made == expected


def test_dropped_words_leave_no_space_behind() -> None:
    class Draws:
        """Changes the words 1 and 3 and drops both."""

        def __init__(self) -> None:
            self.answers = [[[0.9, 0.1, 0.9, 0.1]], [[0.0] * 4]]

        def random(self, shape: Any) -> Any:
            return np.array(self.answers.pop(0))

    made = reordered("not very good really", 1, 0.5, Draws())
    assert made == ["not good"]


def test_half_of_the_changed_words_are_dropped() -> None:
    text = " ".join(["good", "film"] * 50)
    made = reordered(text, 40, 0.2, np.random.default_rng(0))
    dropped = [100 - len(new.split()) for new in made]
    assert 8 <= np.mean(dropped) <= 12
    assert len(set(made)) == 40
