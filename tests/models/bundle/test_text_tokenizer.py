"""Tokenization of long texts by their prefixes, against the tokenization of the whole texts."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from sparserve.models.bundle.text_prefix import PrefixFinder
from sparserve.models.bundle.text_tokenizer import PREFIX_CHARACTERS_PER_TOKEN, TextTokenizer, Tokens, load_tokenizer
from sparserve.models.errors import BundleError

SPECIAL: Final = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES: Final = ["a", "b", "ab", "ba", "aba", "é", "的", "1", "12", ".", "'", "s", "ɐ", "ß", "e"]


def templated(tokenizer: Tokenizer, *, second: int = 0) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A [SEP] $B:{second} [SEP]:{second}",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens([*SPECIAL[:4], AddedToken("[MASK]", lstrip=True, special=True)])
    return tokenizer


def word_piece(**options: bool) -> Tokenizer:
    names = [*SPECIAL, *PIECES, *(f"##{piece}" for piece in PIECES)]
    tokenizer = Tokenizer(models.WordPiece({name: row for row, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return templated(tokenizer, second=1)


def unigram(*, split: bool = True) -> Tokenizer:
    names = [*SPECIAL, "▁", *PIECES, *(f"▁{piece}" for piece in PIECES)]
    vocabulary = [(name, -1.0 - row / 7) for row, name in enumerate(names)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=1, byte_fallback=False))
    steps = [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    return templated(tokenizer)


def byte_level_bpe() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL, *alphabet, "ab", "Ġa", "Ġab", "aba"]
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "ab"), ("ab", "a")]
    tokenizer = Tokenizer(models.BPE({name: row for row, name in enumerate(names)}, merges, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return templated(tokenizer)


TOKENIZERS: Final[dict[str, Callable[[], Tokenizer]]] = {
    "WordPiece": word_piece,
    "cased WordPiece": lambda: word_piece(lowercase=False, strip_accents=False),
    "Unigram": unigram,
    "Unigram without split": lambda: unigram(split=False),
    "ByteLevel BPE": byte_level_bpe,
}
WORDS: Final = st.one_of(
    st.sampled_from(
        [*PIECES, *SPECIAL, "abab", "A", "it's", "的的", "e\u0301", "\u037a", "12ab", "ﬁ", "x\u0e33", "\u0d4e"]
    ),
    st.text(max_size=6),
)
SPACES: Final = st.sampled_from([" "] * 8 + ["  ", "", "\n", "\u00a0", " \u0301", "\u3000", "\t "])
TEXTS: Final = st.lists(st.tuples(WORDS, SPACES), max_size=120).map(lambda parts: "".join(map("".join, parts)))


@pytest.fixture(scope="module", params=TOKENIZERS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json of each kind."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    TOKENIZERS[request.param]().save(str(path))
    return path


def whole(path: Path, max_length: int, texts: Sequence[str], pairs: Sequence[str | None]) -> list[tuple[object, ...]]:
    """Tokenise whole texts."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    encodings = tokenizer.encode_batch(
        [text if pair is None else (text, pair) for text, pair in zip(texts, pairs, strict=True)]
    )
    return [(encoding.ids, encoding.type_ids, bool(encoding.overflowing)) for encoding in encodings]


def comparable(tokens: Sequence[Tokens]) -> list[tuple[object, ...]]:
    return [(item.ids, item.type_ids or [0] * len(item), item.truncated) for item in tokens]


@settings(deadline=None, max_examples=150)
@given(
    inputs=st.lists(st.tuples(TEXTS, st.none() | TEXTS), max_size=3),
    max_length=st.integers(4, 13),
    characters=st.integers(1, 4),
)
def test_text_tokenizer_equals_whole_tokenization(
    path: Path, inputs: list[tuple[str, str | None]], max_length: int, characters: int
) -> None:
    tokenizer = TextTokenizer(path, max_length, prefix_characters_per_token=characters)
    texts, pairs = [text for text, _ in inputs], [pair for _, pair in inputs]
    assert comparable(tokenizer.encode(texts, pairs)) == whole(path, max_length, texts, pairs)


@pytest.mark.parametrize(("name", "cut"), [(name, "without" not in name) for name in TOKENIZERS])
def test_text_tokenizer_cuts_long_texts(name: str, cut: bool) -> None:
    finder = PrefixFinder.of(TOKENIZERS[name]())
    assert (finder is not None) == cut
    if finder is not None:
        assert finder.prefix("ab it's é, ß abab", 15) == "ab it's é, ß"
        assert finder.prefix("ab  ab", 5) == "ab  ab"  # several spaces may become one


def test_text_tokenizer_cuts_between_ideographs_for_bert_only() -> None:
    text = "的" * 20
    bert, cased, unigram_finder = (
        PrefixFinder.of(tokenizer) for tokenizer in (word_piece(), word_piece(handle_chinese_chars=False), unigram())
    )
    assert bert and cased and unigram_finder
    assert (bert.prefix(text, 8), cased.prefix(text, 8), unigram_finder.prefix(text, 8)) == (text[:8], text, text)


def test_text_prefix_refuses_what_reaches_across_spaces() -> None:
    spanning = word_piece()
    spanning.add_tokens(["a b"])
    replacing = unigram()
    replacing.normalizer = normalizers.Replace(" a", "b")
    unsplit = byte_level_bpe()
    unsplit.pre_tokenizer = pre_tokenizers.ByteLevel(use_regex=False)
    none = word_piece()
    none.pre_tokenizer = None
    assert [PrefixFinder.of(tokenizer) for tokenizer in (spanning, replacing, unsplit, none)] == [None] * 4


def test_text_tokenizer_long_text_costs_as_much_as_its_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    word_piece().save(str(path))
    tokenizer = TextTokenizer(path, 8)
    sizes: list[int] = []
    prefix = PrefixFinder.prefix

    def spy(self: PrefixFinder, text: str, characters: int) -> str:
        sizes.append(len(cut := prefix(self, text, characters)))
        return cut

    monkeypatch.setattr(PrefixFinder, "prefix", spy)
    (tokens,) = tokenizer.encode(["ab " * 33_000])
    assert len(tokens) == 8 and tokens.truncated
    assert sizes == [pytest.approx(8 * PREFIX_CHARACTERS_PER_TOKEN, abs=3)]
    (pair,) = tokenizer.encode(["a"], ["ab " * 33_000])
    assert len(pair) == 8 and pair.truncated
    assert len(sizes) == 2 and sizes[1] < 100


def test_load_tokenizer_shares_equal_files(tmp_path: Path) -> None:
    paths = [tmp_path / "one.json", tmp_path / "other.json"]
    for path in paths:
        word_piece().save(str(path))
    one, other = (load_tokenizer(path, "a", 8) for path in paths)
    shorter = load_tokenizer(paths[0], "a", 4)
    assert one is other
    assert shorter is not one and shorter.max_length == 4
    watch = weakref.ref(one)
    del one, other
    assert watch() is None  # nothing keeps a tokenizer that no bundle uses


def test_text_tokenizer_refuses_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(BundleError, match="cannot be read by `tokenizers`"):
        TextTokenizer(path, 8)
