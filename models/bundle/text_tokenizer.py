"""`tokenizer.json` as a function from texts to tokens, with the bundle's truncation.

Only what is kept is tokenised: of a long text a prefix, if it has more tokens than are kept. `windows` keeps all of it.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from tokenizers import Encoding, Tokenizer

from sparserve.models.bundle.text_prefix import PrefixFinder
from sparserve.models.bundle.windows import WindowFrame
from sparserve.models.errors import BundleError

# The first prefix of a text has this many characters for each token that is kept. Usual texts have three to five.
PREFIX_CHARACTERS_PER_TOKEN: Final = 8
# A prefix with too few tokens is followed by one that is longer by this factor.
PREFIX_GROWTH: Final = 4

_Input = str | tuple[str, str]
# Tokenizers in use, by the digest of the file and the maximum length.
_loaded: "WeakValueDictionary[tuple[str, int], TextTokenizer]" = WeakValueDictionary()
_loading = threading.Lock()


@dataclass(frozen=True)
class Tokens:
    """One tokenised input.

    `ids` and `type_ids` have one entry per token, special tokens included. `type_ids` is None if they are all 0.
    """

    ids: list[int]
    type_ids: list[int] | None
    truncated: bool

    def __len__(self) -> int:
        return len(self.ids)


def load_tokenizer(path: Path, sha256: str, max_length: int) -> "TextTokenizer":
    """Load a tokenizer, or return the one in use that was loaded from a file with the same digest.

    `tokenizers` holds the GIL while it loads and while it frees a tokenizer: 1.5 s and 0.8 s of CPU for 250,000 Unigram
    pieces. The variants of a task usually have the same tokenizer, and so has a new version of one.

    Raises:
        BundleError: the file cannot be read.
    """
    with _loading:
        tokenizer = _loaded.get((sha256, max_length))
        if tokenizer is None:
            tokenizer = _loaded[sha256, max_length] = TextTokenizer(path, max_length)
        return tokenizer


class TextTokenizer:
    """A tokenizer that keeps at most `max_length` tokens; several threads may use it at the same time."""

    def __init__(
        self, path: Path, max_length: int, *, prefix_characters_per_token: int = PREFIX_CHARACTERS_PER_TOKEN
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path} cannot be read by `tokenizers`: {error}") from error
        self.max_length = max_length
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length, strategy="longest_first")
        self._prefixes = PrefixFinder.of(self._tokenizer)
        self._prefix_characters = max_length * prefix_characters_per_token
        self._half_of_pair = (max_length - self._tokenizer.num_special_tokens_to_add(True)) // 2
        self.window_frame = WindowFrame.of(self._tokenizer, max_length)
        probe = self._tokenizer.encode_batch_fast(["a"])[0]
        self._single_type_ids_are_zero = bool(probe.sequence_ids.count(0)) and not any(probe.type_ids)

    def encode(self, texts: Sequence[str], text_pairs: Sequence[str | None] | None = None) -> list[Tokens]:
        """Tokenise texts or pairs of texts. Releases the GIL."""
        inputs: list[_Input] = list(texts)
        characters = sum(map(len, texts))
        if text_pairs is not None:
            joined = zip(texts, text_pairs, strict=True)
            inputs = [text if pair is None else (text, pair) for text, pair in joined]
            characters += sum([len(pair) for pair in text_pairs if pair is not None])
        if self._prefixes is None or characters <= self._prefix_characters:  # no text is cut
            return [self._tokens(item, encoding) for item, encoding in self._encode(inputs)]
        tokens: dict[int, Tokens] = {}
        rows, characters = list(range(len(inputs))), self._prefix_characters
        while rows:
            prefixes = [self._prefix(inputs[row], characters) for row in rows]
            for row, (prefix, encoding) in zip(rows, self._encode(prefixes), strict=True):
                if prefix is inputs[row] or self._is_sufficient(inputs[row], prefix, encoding):
                    tokens[row] = self._tokens(prefix, encoding)
            rows = [row for row in rows if row not in tokens]
            characters *= PREFIX_GROWTH
        return [tokens[row] for row in range(len(inputs))]

    def windows(self, text: str, stride: int | None, *, most: int | None = None) -> list[Tokens] | None:
        """Tokenise a text in windows that share `stride` tokens; None if there are more than `most` of them.

        Releases the GIL. The tokenizer must have a `window_frame`.
        """
        frame = self.window_frame
        assert frame is not None
        content = self._content(text, None if most is None else frame.most_tokens(most, stride))
        if content is None:
            return None
        zero = self._single_type_ids_are_zero
        return [Tokens(ids, None if zero else types, False) for ids, types in frame.windows(content, stride)]

    def _content(self, text: str, most: int | None) -> list[int] | None:
        """Return all tokens of a text without special ones; None if they are more than `most`."""
        characters = len(text) if most is None else most * PREFIX_CHARACTERS_PER_TOKEN
        while True:
            prefix = self._prefix(text, characters)
            ((_, encoding),) = self._encode([prefix], special=False)
            ids = [*encoding.ids, *chain.from_iterable(more.ids for more in encoding.overflowing)]
            if most is not None and len(ids) > most:
                return None
            if prefix is text:
                return ids
            characters *= PREFIX_GROWTH

    def _encode(self, inputs: Sequence[_Input], *, special: bool = True) -> Iterator[tuple[_Input, Encoding]]:
        return zip(inputs, self._tokenizer.encode_batch_fast(inputs, add_special_tokens=special), strict=True)

    def _tokens(self, text: _Input, encoding: Encoding) -> Tokens:
        zero = self._single_type_ids_are_zero and isinstance(text, str)
        return Tokens(encoding.ids, None if zero else encoding.type_ids, bool(encoding.overflowing))

    def _prefix(self, text: _Input, characters: int) -> _Input:
        """Return the input with its longer text cut, or the same object."""
        if self._prefixes is None:
            return text
        if isinstance(text, str):
            return self._prefixes.prefix(text, characters)
        first, second = text
        if len(first) > characters >= len(second):
            cut = self._prefixes.prefix(first, characters)
            return text if cut is first else (cut, second)
        if len(second) > characters >= len(first):
            cut = self._prefixes.prefix(second, characters)
            return text if cut is second else (first, cut)
        return text

    def _is_sufficient(self, text: _Input, prefix: _Input, encoding: Encoding) -> bool:
        """Return True if what follows the prefix cannot change the tokens that are kept.

        "longest_first" keeps at least half of the tokens of a text that it truncates. So if less than half are of the
        uncut text of a pair, that one is complete, and only the other one has more tokens than are kept.
        """
        if not encoding.overflowing:
            return False
        if isinstance(prefix, str):
            return True
        uncut = 0 if prefix[0] is text[0] else 1
        return encoding.sequence_ids.count(uncut) < self._half_of_pair
