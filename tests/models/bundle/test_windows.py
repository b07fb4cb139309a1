"""Windows of long texts: their positions, their tokens, and the answers that are merged."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sparserve.models.bundle.inference import probabilities
from sparserve.models.bundle.long_texts import (
    OverlongText,
    TooManyWindows,
    UnsuitableForWindows,
    WindowedTokens,
    WindowLimits,
    encode,
)
from sparserve.models.bundle.text_tokenizer import TextTokenizer
from sparserve.models.bundle.windows import Aggregate, LongTexts, WindowFrame, merge_windows
from tests.support.tiny_bundles import MAX_LENGTH, tokenizer_json

WINDOWS = LongTexts(overlong="windows", stride=4)
CONTENT = MAX_LENGTH - 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(tokenizer_json())
    return TextTokenizer(path, MAX_LENGTH, prefix_characters_per_token=1)


@given(st.integers(1, 200), st.integers(2, 20), st.none() | st.integers(0, 10))
def test_windows_cover_the_text_and_share_the_stride(tokens: int, capacity: int, stride: int | None) -> None:
    frame = WindowFrame(([], []), ([], []), 0, capacity)
    starts = frame.starts(tokens, stride)
    assert starts[0] == 0
    assert starts[-1] == max(tokens - capacity, 0)
    shared = [first + capacity - second for first, second in pairwise(starts)]
    expected = capacity // 4 if stride is None else min(stride, capacity // 2)
    assert all(overlap == expected for overlap in shared[:-1])
    assert all(expected <= overlap < capacity for overlap in shared[-1:])
    most = frame.most_tokens(len(starts), stride)
    assert tokens <= most
    assert len(frame.starts(most, stride)) == len(starts)
    assert len(frame.starts(most + 1, stride)) == len(starts) + 1


def test_windows_have_the_tokens_of_the_whole_text(tokenizer: TextTokenizer) -> None:
    text = "good film the bad a dull was fun " * 7
    whole = Tokenizer.from_str(tokenizer_json().decode()).encode(text, add_special_tokens=False).ids
    windows = tokenizer.windows(text, 4)
    assert windows is not None
    assert [window.ids[1:-1] for window in windows] == [
        whole[start : start + CONTENT] for start in (0, 10, 20, 30, 40, 42)
    ]
    assert windows[0].ids == tokenizer.encode([text])[0].ids
    assert {(window.ids[0], window.ids[-1]) for window in windows} == {(2, 3)}


def test_long_texts_that_fit_are_not_split(tokenizer: TextTokenizer) -> None:
    texts = ["good", "good " * CONTENT, "good " * (CONTENT + 1)]
    short, full, long = encode(tokenizer, texts, None, WINDOWS, model="m")
    assert [short, full] == tokenizer.encode(texts[:2])
    assert isinstance(long, WindowedTokens)
    assert (len(long.windows), len(long), long.truncated) == (2, 2 * MAX_LENGTH, False)


def test_long_texts_of_the_first_window_are_truncated(tokenizer: TextTokenizer) -> None:
    treatment = LongTexts(overlong="windows", aggregate="first")
    assert encode(tokenizer, ["good " * 99], None, treatment, model="m") == tokenizer.encode(["good " * 99])


@pytest.mark.parametrize(
    ("texts", "pair", "treatment", "kind", "message"),
    [
        (["good " * 99], None, LongTexts(overlong="error"), OverlongText, "item 3 has more than the 16 tokens that m"),
        (["good " * 9], "bad " * 9, WINDOWS, UnsuitableForWindows, "item 3 .* a pair of texts: .*truncate"),
        (["good " * 45], None, WINDOWS, TooManyWindows, "item 3 has more than 4 windows .*max_windows"),
        (["good " * 999], None, WINDOWS, TooManyWindows, "item 3 has more than 4 windows .*max_windows"),
        (["good " * 44] * 3, None, WINDOWS, TooManyWindows, "more than 9 inputs and windows .*max_items"),
    ],
)
def test_long_texts_are_refused_with_the_way_out(
    tokenizer: TextTokenizer,
    texts: list[str],
    pair: str | None,
    treatment: LongTexts,
    kind: type[OverlongText],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        encode(
            tokenizer, texts, [pair] * len(texts), treatment, model="m", limits=WindowLimits(text=4, request=9), first=3
        )


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
@pytest.mark.parametrize("aggregate", ["mean", "max", "first"])
def test_merged_windows_have_the_aggregate_of_their_probabilities(problem_type: str, aggregate: Aggregate) -> None:
    logits = np.random.default_rng(0).normal(scale=5, size=(6, 3)).astype(np.float32)
    merged = merge_windows(logits, [1, 4, 1], problem_type, aggregate)
    np.testing.assert_array_equal(merged[[0, 2]], logits[[0, 5]])
    windows = probabilities(logits[1:5], problem_type)
    expected = {"mean": windows.mean(axis=0), "max": windows.max(axis=0), "first": windows[0]}[aggregate]
    if aggregate == "max" and problem_type == "single_label_classification":
        expected = expected / expected.sum()
    np.testing.assert_allclose(probabilities(merged, problem_type)[1], expected, rtol=1e-5)


def test_merged_windows_of_extreme_logits_are_finite() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype=np.float32)
    for problem_type in ("single_label_classification", "multi_label_classification"):
        merged = merge_windows(logits, [2], problem_type, "mean")
        np.testing.assert_allclose(probabilities(merged, problem_type), [[0.5, 0.5]])
