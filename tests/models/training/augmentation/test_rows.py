import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForMaskedLM

from sparserve.models.data.dataset import UNLABELED, Split
from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.errors import CheckpointError, DataError, RecipeError
from sparserve.models.recipes.schema import Augmentation
from sparserve.models.training.augmentation.rows import (
    augment,
    check_augmentation,
    read_split,
    without_labels,
    write_split,
)
from sparserve.models.training.augmentation.word_candidates import (
    Vocabulary,
    find_words,
    has_masked_lm_head,
    masked_lm_predictions,
    neighbours,
)

ROWS = Split(
    ["The good film, was (very) dull!", "a bad plot: not fine", "7 x 7 = 49", "great movie and great actor"],
    ["is it good?", "love the scene", "the", "hate 3.5 of 9"],
    ["yes", "no", "no", "yes"],
)
# The words of the tiny checkpoints, but for the single letter a.
VOCABULARY = {
    *("good", "great", "fine", "love", "bright", "bad", "awful", "dull", "hate", "long", "film", "movie", "plot"),
    *("actor", "scene", "short", "the", "is", "was", "and", "but", "not", "very", "of"),
}


def silent(done: Any, total: Any, note: Any) -> None:
    pass


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[[str], Path]) -> Any:
    return resolve_checkpoint(str(make_checkpoint("bert")))


@pytest.fixture(scope="module")
def make_masked_lm(make_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a maker of checkpoints with a random masked-LM head."""

    def make(model_type: str) -> Any:
        source, folder = make_checkpoint(model_type), tmp_path_factory.mktemp(model_type)
        torch.manual_seed(0)
        AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(source)).save_pretrained(folder)
        for path in source.glob("tokenizer*"):
            shutil.copy(path, folder)
        return resolve_checkpoint(str(folder))

    return make


def asked(**changes: Any) -> Any:
    return Augmentation(**{"variants": 6, "candidates": 4, **changes})


def variants_of(row: Any, split: Any, rows: Any = ROWS) -> Any:
    """Return the new rows made from this row, identified by their skeletons."""
    return [new for new in list(split.rows())[len(rows) :] if skeleton(new) == skeleton(list(rows.rows())[row])]


def skeleton(row: Any) -> Any:
    """Return the parts that augmentation keeps: the label, and the texts without their words."""
    texts = []
    for text in (row["text"], row["text_pair"]):
        for begin, end in reversed(find_words(text)):
            text = text[:begin] + "_" + text[end:]
        texts.append(text)
    return row["label"], texts


def test_find_words_skips_digits_and_single_letters() -> None:
    text = "Bob 's \"well-known\" don’t it's 3rd mp3 a_b x Größe 1,000 l'été..."
    assert [text[slice(*span)] for span in find_words(text)] == [
        "Bob", "well", "known", "don’t", "it's", "Größe", "l'été",
    ]  # fmt: skip


def test_find_words_includes_accents_and_vowel_signs() -> None:
    text = "cafe\u0301 nai\u0308ve e\u0301 यह बहुत"
    assert [text[slice(*span)] for span in find_words(text)] == ["cafe\u0301", "nai\u0308ve", "यह", "बहुत"]


def test_augment_appends_variants_row_by_row(checkpoint: Any) -> None:
    made = augment(ROWS, checkpoint, asked(), seed=0, progress=silent)
    rows = list(made.rows())
    assert rows[:4] == list(ROWS.rows())
    order = [[skeleton(row) for row in ROWS.rows()].index(skeleton(row)) for row in rows[4:]]
    assert order == sorted(order)
    assert all(1 <= order.count(row) <= 6 for row in range(4))


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    probability=st.floats(0.05, 1),
    candidates=st.integers(1, 20),
    variants=st.integers(1, 9),
)
def test_augment_variants_are_distinct_and_use_vocabulary(
    checkpoint: Any, seed: int, probability: Any, candidates: Any, variants: Any
) -> None:
    augmentation = Augmentation(variants=variants, probability=probability, candidates=candidates)
    made = augment(ROWS, checkpoint, augmentation, seed=seed, progress=silent)
    assert list(augment(ROWS, checkpoint, augmentation, seed=seed, progress=silent).rows()) == list(made.rows())
    total = 0
    for index, row in enumerate(ROWS.rows()):
        found = variants_of(index, made)
        texts = [(new["text"], new["text_pair"]) for new in found]
        assert len(set(texts)) == len(texts) <= variants
        assert (row["text"], row["text_pair"]) not in texts
        old = [row["text"][slice(*span)] for span in find_words(row["text"])]
        for new in found:
            words = [new["text"][slice(*span)] for span in find_words(new["text"])]
            assert all(word in VOCABULARY for word, before in zip(words, old, strict=True) if word != before)
        total += len(found)
    assert total == len(made) - len(ROWS)


def test_augment_draws_depend_on_seed_and_row_only(checkpoint: Any) -> None:
    texts = ["short film, and then it was very long and awful", *ROWS.texts[1:]]
    changed = Split(texts, ROWS.text_pairs, ROWS.labels)
    made = [augment(rows, checkpoint, asked(), seed=3, progress=silent) for rows in (ROWS, changed)]
    assert [variants_of(row, made[0]) for row in (1, 2, 3)] == [variants_of(row, made[1]) for row in (1, 2, 3)]
    other = augment(ROWS, checkpoint, asked(), seed=4, progress=silent)
    assert list(other.rows()) != list(made[0].rows())


def test_augment_replaces_every_word_at_probability_1(checkpoint: Any) -> None:
    made = augment(ROWS, checkpoint, asked(probability=1), seed=0, progress=silent)
    for new in variants_of(3, made):
        words = [new["text"][slice(*span)] for span in find_words(new["text"])]
        assert all(a != b for a, b in zip(words, ["great", "movie", "and", "great", "actor"], strict=True))


def test_augment_keeps_texts_without_pair(checkpoint: Any) -> None:
    made = augment(Split(ROWS.texts, None, ROWS.labels), checkpoint, asked(), seed=0, progress=silent)
    assert made.text_pairs is None and len(made) == len(made.labels) > 4


def test_neighbours_are_nearest_words_by_cosine(checkpoint: Any) -> None:
    vocabulary = Vocabulary(checkpoint.tokenizer, 5)
    assert set(vocabulary.words) == VOCABULARY
    found = neighbours(checkpoint, vocabulary, ["Film", "goodx", "☃"], silent)
    table = load_file(checkpoint.folder / "model.safetensors")["embeddings.word_embeddings.weight"].numpy()
    ids = checkpoint.tokenizer.get_vocab()
    for word, pieces in {"Film": ["film"], "goodx": checkpoint.tokenizer.tokenize("goodx")}.items():
        mean = np.mean([table[ids[piece]] for piece in pieces], axis=0)
        cosine = {
            other: table[ids[other]] @ mean / np.linalg.norm(table[ids[other]]) for other in VOCABULARY - {word.lower()}
        }
        assert found[word] == tuple(sorted(cosine, key=cosine.__getitem__, reverse=True)[:5])
    assert "☃" not in found


def test_vocabulary_of_byte_level_tokenizer_has_words_after_space() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<mask>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(["good film good film film", " good film été"] * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", mask_token="<mask>")
    vocabulary = Vocabulary(fast, 2)
    assert {"good", "film", "été"} <= set(vocabulary.words)
    assert {"ood", "ilm"}.isdisjoint(vocabulary.words)
    assert all(token.startswith("Ġ") for token in fast.convert_ids_to_tokens(vocabulary.ids.tolist()))


@pytest.mark.parametrize(
    "model_type", ["bert", "deberta-v2", "distilbert", "electra", "gte", "modernbert", "mpnet", "nomic_bert", "roberta"]
)
def test_masked_lm_predictions_match_model(
    make_checkpoint: Callable[[str], Path], make_masked_lm: Any, model_type: str
) -> None:
    assert not has_masked_lm_head(resolve_checkpoint(str(make_checkpoint(model_type))))
    checkpoint = make_masked_lm(model_type)
    assert has_masked_lm_head(checkpoint)
    tokenizer = checkpoint.tokenizer
    vocabulary = Vocabulary(tokenizer, 4)
    texts = ["Very good film , zzz plot .", "the the", "not"]
    found = masked_lm_predictions(checkpoint, vocabulary, texts, silent)
    assert [sorted(spans) for spans in found] == [[(0, 4), (5, 9), (10, 14), (21, 25)], [(0, 3), (4, 7)], [(0, 3)]]
    model = AutoModelForMaskedLM.from_pretrained(checkpoint.folder).eval()
    ids = tokenizer.get_vocab()
    with torch.no_grad():
        masked = tokenizer("Very good [MASK] , zzz plot .", return_tensors="pt")
        at = masked["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        logits = model(**masked).logits[0, at]
    expected = sorted(VOCABULARY - {"film"}, key=lambda word: -logits[ids[word]].item())[:4]
    assert found[0][10, 14] == tuple(expected)


def test_masked_lm_predictions_skip_truncated_words(make_masked_lm: Any) -> None:
    checkpoint = make_masked_lm("bert")
    text = " ".join(["good", "film", "very"] * 40)  # 120 tokens, and the network has positions for 72
    (found,) = masked_lm_predictions(checkpoint, Vocabulary(checkpoint.tokenizer, 2), [text], silent)
    assert sorted(found) == find_words(text)[:68]
    made = augment(Split([text], None, [0]), checkpoint, asked(probability=1), seed=0, progress=silent)
    assert all(len(new.split()) == 120 for new in made.texts)
    assert "good" not in {made.texts[1].split()[0], made.texts[1].split()[-3]}


def test_augment_rejects_missing_masked_lm_head(checkpoint: Any) -> None:
    with pytest.raises(CheckpointError, match=r"augmentation\.source to embeddings"):
        augment(ROWS, checkpoint, asked(source="masked-lm"), seed=0, progress=silent)


def test_masked_lm_predictions_need_mask_token(checkpoint: Any) -> None:
    vocabulary = Vocabulary(checkpoint.tokenizer, 4)
    vocabulary.tokenizer.mask_token = None
    with pytest.raises(CheckpointError, match="no mask token"):
        masked_lm_predictions(checkpoint, vocabulary, ["good film"], silent)


def test_augment_uses_requested_source(make_masked_lm: Any) -> None:
    checkpoint = make_masked_lm("bert")
    rows = [
        list(augment(ROWS, checkpoint, asked(source=source), seed=0, progress=silent).rows())
        for source in ("auto", "masked-lm", "embeddings")
    ]
    assert rows[0] == rows[1] != rows[2]


def test_swap_delete_keeps_the_words_and_needs_no_vocabulary(checkpoint: Any) -> None:
    augmentation = asked(source="swap-delete", candidates=10**6, probability=0.3)
    check_augmentation(checkpoint, augmentation)
    made = list(augment(ROWS, checkpoint, augmentation, seed=0, progress=silent).rows())
    assert made[:4] == list(ROWS.rows()) and len(made) > 4
    known = {word for text in [*ROWS.texts, *(ROWS.text_pairs or [])] for word in text.split()}
    letters = {"".join(filter(str.isalpha, word)) for word in known}
    for row in made[4:]:
        assert {"".join(filter(str.isalpha, word)) for word in row["text"].split()} <= letters
    assert made[4:] == list(augment(ROWS, checkpoint, augmentation, seed=0, progress=silent).rows())[4:]


def test_augment_rejects_more_candidates_than_words(checkpoint: Any) -> None:
    with pytest.raises(RecipeError, match=r"candidates is 24, but .* has only 24 words"):
        augment(ROWS, checkpoint, asked(candidates=24), seed=0, progress=silent)


text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=9)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.tuples(text, text, st.sampled_from(["a", 3, [0, 1]])), max_size=4),
    pairs=st.booleans(),
)
def test_split_file_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: Any, pairs: Any) -> None:
    split = Split([r[0] for r in rows], [r[1] for r in rows] if pairs and rows else None, [r[2] for r in rows])
    path = tmp_path_factory.mktemp("split") / "train.jsonl"
    write_split(split, path)
    assert read_split(path) == split


@pytest.mark.parametrize("row", ["{", "[]", "3", json.dumps({"text": "a"}), json.dumps({"text_pair": "a", "label": 1})])
def test_read_split_rejects_invalid_file(tmp_path: Path, row: Any) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"text": "a", "label": 1}) + "\n" + row + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.jsonl is not a file of labelled rows"):
        read_split(path)


def test_without_labels_keeps_those_of_the_original_rows() -> None:
    split = Split(["a", "b", "c"], None, [1, 0, 1])
    assert without_labels(split, after=2, multi_label=False).labels == [1, 0, UNLABELED]
    several = Split(["a", "b"], None, [[1, 0], [0, 1]])
    assert without_labels(several, after=1, multi_label=True).labels == [[1, 0], [UNLABELED, UNLABELED]]
