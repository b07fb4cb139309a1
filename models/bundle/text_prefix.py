"""Prefixes of a text that a tokenizer turns into the first tokens of the whole text.

Such a prefix ends where the tokenizer splits in any case and where neither normalization nor an added token reaches
across: before a single space between two words, or, for BERT's normalizer, between two Chinese characters.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self

from tokenizers import Tokenizer

# Pre-tokenizers that split at a space.
SPLITTING: Final = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Metaspace", "ByteLevel"})
# Pre-tokenizers that split runs of digits or punctuation, which end at a space.
LOCAL: Final = frozenset({"Digits", "Punctuation"})
# Normalizers that change one character at a time, or groups that do not reach from a letter across a space.
LOCAL_NORMALIZERS: Final = frozenset(
    {
        *("BertNormalizer", "Lowercase", "Nmt", "Precompiled", "Prepend", "Strip", "StripAccents"),
        *("NFC", "NFD", "NFKC", "NFKD"),
    }
)
SQUEEZED_SPACES: Final = {"Regex": " {2,}"}


class PrefixFinder:
    """Finds safe prefixes for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *, ideographs: bool) -> None:
        self._tokenizer = tokenizer
        self._ideographs = ideographs

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """Return the finder of a tokenizer; None if it is not known to have safe prefixes."""
        contents = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        if any(character.isspace() for content in contents for character in content):
            return None
        if getattr(tokenizer.model, "dropout", None):  # its tokens are random
            return None
        if not _splits_at_spaces(list(_parts(tokenizer.pre_tokenizer, "pretokenizers"))):
            return None
        normalizers = list(_parts(tokenizer.normalizer, "normalizers"))
        if not all(map(_is_local, normalizers)):
            return None
        ideographs = (
            len(normalizers) == 1
            and normalizers[0]["type"] == "BertNormalizer"
            and normalizers[0]["handle_chinese_chars"]
            and all(map(str.isascii, contents))
        )
        return cls(tokenizer, ideographs=ideographs)

    def prefix(self, text: str, characters: int) -> str:
        """Return the longest safe prefix with at most that many characters; the text if there is none.

        Only the last half of the characters is searched.
        """
        if len(text) <= characters:
            return text
        for end in range(characters, characters // 2, -1):
            if self._safe(text, end):
                return text[:end]
        return text

    def _safe(self, text: str, end: int) -> bool:
        """Return True if text[:end] is a safe prefix; it must not be the whole text."""
        last, following = text[end - 1], text[end]
        if self._ideographs and _is_ideograph(last) and _is_ideograph(following):
            return True
        return (
            following == " "
            and end + 1 < len(text)
            and _is_plain(last)
            and _is_plain(text[end + 1])
            and self._stays_a_word(last)
        )

    def _stays_a_word(self, character: str) -> bool:
        """Return True if normalization keeps a character and does not turn it into a space."""
        normalizer = self._tokenizer.normalizer
        normalized = character if normalizer is None else normalizer.normalize_str(character)
        return bool(normalized) and not normalized[-1].isspace()


def _is_plain(character: str) -> bool:
    """Return True for visible ASCII characters, and for letters that no neighbour changes in any normalization."""
    if character.isascii():
        return character.isprintable() and character != " "
    return unicodedata.normalize("NFKC", character).isalpha() and not _joins_next(character)


def _joins_next(character: str) -> bool:
    """Return True for the letters that form one grapheme with the character after them."""
    return character in "\u0d4e\U000111c2\U000111c3\U0001193f\U00011941\U00011a3a\U00011d46\U00011f02" or (
        "\U00011a84" <= character <= "\U00011a89"
    )


def _is_ideograph(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"


def _parts(component: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """Yield the configurations of a normalizer or pre-tokenizer, those of a sequence one by one."""
    if component is None:
        return
    waiting = [json.loads(component.__getstate__())]
    while waiting:
        part = waiting.pop(0)
        if part["type"] == "Sequence":
            waiting = [*part[key], *waiting]
        else:
            yield part


def _splits_at_spaces(pre_tokenizers: list[Mapping[str, Any]]) -> bool:
    splits = False
    for part in pre_tokenizers:
        kind = part["type"]
        if kind == "ByteLevel" and not part["use_regex"]:
            if not splits:
                return False  # it hides the spaces from those that follow
        elif kind == "Metaspace" and not part["split"]:
            if not splits:
                return False
        elif kind in SPLITTING:
            splits = True
        elif kind not in LOCAL:
            return False
    return splits


def _is_local(normalizer: Mapping[str, Any]) -> bool:
    if normalizer["type"] != "Replace":
        return normalizer["type"] in LOCAL_NORMALIZERS
    pattern = normalizer["pattern"]
    if pattern == SQUEEZED_SPACES:
        return True
    text = pattern.get("String", " ")
    return not any(character.isspace() for character in text) and not any(map(str.isspace, normalizer["content"]))
