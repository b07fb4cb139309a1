"""Tokenization of texts of any length, with the treatment of long ones that a task or a request asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparserve.models.bundle.text_tokenizer import TextTokenizer, Tokens
from sparserve.models.bundle.windows import LongTexts


@dataclass(frozen=True)
class WindowedTokens:
    """One input as the tokens of its windows, all of which the model sees."""

    windows: tuple[Tokens, ...]
    truncated: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.windows))


TokenizedInput = Tokens | WindowedTokens


@dataclass(frozen=True)
class WindowLimits:
    """Most windows of one text, and inputs and windows of one request."""

    text: int
    request: int


class OverlongText(ValueError):
    """A text has more tokens than the model takes and must not be truncated; the message names the way out."""


class UnsuitableForWindows(OverlongText):
    """It cannot be split into windows."""


class TooManyWindows(OverlongText):
    """It has more windows than a limit allows."""


def encode(
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    text_pairs: Sequence[str | None] | None,
    long_texts: LongTexts,
    *,
    model: str,
    limits: WindowLimits | None = None,
    first: int = 0,
) -> list[TokenizedInput]:
    """Tokenise texts or pairs of texts. In messages the model is called `model`, and the first text has number `first`.

    Raises:
        OverlongText: a text has too many tokens, or one of the errors above; the message names its position.
    """
    tokens: list[TokenizedInput] = list(tokenizer.encode(texts, text_pairs))
    if long_texts.overlong == "truncate" or (long_texts.overlong == "windows" and not long_texts.windowed):
        return tokens
    windows = len(tokens)
    for position, item in enumerate(tokens):
        if not item.truncated:
            continue
        if long_texts.overlong == "error":
            raise OverlongText(
                f"item {first + position} has more than the {tokenizer.max_length} tokens that {model} accepts: "
                'shorten it, or set "overlong" to "truncate" or "windows"'
            )
        is_pair = text_pairs is not None and text_pairs[position] is not None
        tokens[position] = found = _windowed(
            tokenizer, texts[position], is_pair, long_texts, first + position, model, limits
        )
        windows += len(found.windows) - 1
        if limits is not None and windows > limits.request:
            raise TooManyWindows(
                f"the request has more than {limits.request} inputs and windows (max_items): send it in parts"
            )
    return tokens


def _windowed(
    tokenizer: TextTokenizer,
    text: str,
    is_pair: bool,
    long_texts: LongTexts,
    position: int,
    model: str,
    limits: WindowLimits | None,
) -> WindowedTokens:
    if is_pair or tokenizer.window_frame is None:
        reason = "it is a pair of texts" if is_pair else f"the tokenizer of {model} does not mark special tokens"
        raise UnsuitableForWindows(
            f"item {position} has more than the {tokenizer.max_length} tokens that {model} accepts, and windows cannot "
            f'split it, because {reason}: shorten it, or set "overlong" to "truncate"'
        )
    windows = tokenizer.windows(text, long_texts.stride, most=None if limits is None else limits.text)
    if windows is None:
        assert limits is not None
        raise TooManyWindows(
            f"item {position} has more than {limits.text} windows of {tokenizer.max_length} tokens (max_windows): "
            'shorten it, or set "overlong" to "truncate"'
        )
    return WindowedTokens(tuple(windows))


def all_windows(tokens: Sequence[TokenizedInput]) -> list[Tokens]:
    """Return the windows of all inputs in order; an input that was not split is one window."""
    return [window for item in tokens for window in (item.windows if isinstance(item, WindowedTokens) else (item,))]


def window_counts(tokens: Sequence[TokenizedInput]) -> list[int]:
    """Return the number of windows of each input."""
    return [len(item.windows) if isinstance(item, WindowedTokens) else 1 for item in tokens]
