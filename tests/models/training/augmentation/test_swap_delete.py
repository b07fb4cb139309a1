from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserve.models.training.augmentation import swap_delete
from sparserve.models.training.augmentation.swap_delete import swap_and_delete
from sparserve.models.training.augmentation.word_candidates import find_words

TEXTS = st.text(alphabet=st.sampled_from("abcä ,.!7'\n"), max_size=40)


def words(text: str) -> list[str]:
    return [text[slice(*span)] for span in find_words(text)]


@given(text=TEXTS, seed=st.integers(0, 99), probability=st.floats(0.05, 1), variants=st.integers(1, 4))
def test_no_word_is_new_and_one_is_left(text: str, seed: int, probability: float, variants: int) -> None:
    made = swap_and_delete(text, variants, probability, np.random.default_rng(seed))
    assert made == swap_and_delete(text, variants, probability, np.random.default_rng(seed))
    assert len(made) == variants
    for new in made:
        # Punctuation and digits stay, in their order.
        assert [sign for sign in new if sign in ",.!7"] == [sign for sign in text if sign in ",.!7"]
        letters = sorted(new.replace(" ", "").replace("\n", ""))
        assert all(letters.count(letter) <= text.count(letter) for letter in letters)
        if words(text):
            assert any(word in new for word in words(text))


@given(parts=st.lists(st.sampled_from(["good", "film", "the", "Ähre", "don't"]), min_size=1), seed=st.integers(0, 99))
def test_words_stay_whole(parts: list[str], seed: int) -> None:
    for new in swap_and_delete(" ".join(parts), 3, 0.5, np.random.default_rng(seed)):
        assert new and not Counter(new.split(" ")) - Counter(parts)


@pytest.mark.parametrize(
    ("deleted", "expected"),
    [(0.0, "film good, was the very dull!"), (1.0, "good , !")],
)
def test_every_word_is_changed_at_probability_1(monkeypatch: pytest.MonkeyPatch, deleted: float, expected: str) -> None:
    monkeypatch.setattr(swap_delete, "DELETED_FRACTION", deleted)
    (made,) = swap_and_delete("good film, the was dull very!", 1, 1.0, np.random.default_rng(0))
    assert made == expected


def test_deleted_words_leave_no_space_behind() -> None:
    class Draws:
        """Changes the words 1 and 3 and deletes both."""

        def __init__(self) -> None:
            self.answers = [[[0.9, 0.1, 0.9, 0.1]], [[0.0] * 4]]

        def random(self, shape: Any) -> Any:
            return np.array(self.answers.pop(0))

    made = swap_and_delete("not very good really", 1, 0.5, Draws())
    assert made == ["not good"]


def test_half_of_the_changed_words_are_deleted() -> None:
    text = " ".join(["good", "film"] * 50)
    made = swap_and_delete(text, 40, 0.2, np.random.default_rng(0))
    dropped = [100 - len(new.split()) for new in made]
    assert 8 <= np.mean(dropped) <= 12
    assert len(set(made)) == 40
