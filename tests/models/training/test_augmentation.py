import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForMaskedLM

from sparserve.models.data.dataset import Split
from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.errors import CheckpointError, DataError, RecipeError
from sparserve.models.recipes.schema import Augmentation
from sparserve.models.training.augmentation import augment, read_split, write_split
from sparserve.models.training.word_candidates import (
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


def silent(done, total, note):
    pass


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    return resolve_checkpoint(str(make_checkpoint("bert")))


@pytest.fixture(scope="module")
def make_masked_lm(make_checkpoint, tmp_path_factory):
    """Return a maker of checkpoints with a random masked-LM head."""

    def make(model_type):
        source, folder = make_checkpoint(model_type), tmp_path_factory.mktemp(model_type)
        torch.manual_seed(0)
        AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(source)).save_pretrained(folder)
        for path in source.glob("tokenizer*"):
            shutil.copy(path, folder)
        return resolve_checkpoint(str(folder))

    return make


def asked(**changes):
    return Augmentation(**{"variants": 6, "candidates": 4, **changes})


def variants_of(row, split, rows=ROWS):
    """The new rows made of this one, found by their unchanged label and the originals' number of variants."""
    return [new for new in list(split.rows())[len(rows) :] if skeleton(new) == skeleton(list(rows.rows())[row])]


def skeleton(row):
    """What no augmentation changes: label, and the texts without their words."""
    texts = []
    for text in (row["text"], row["text_pair"]):
        for begin, end in reversed(find_words(text)):
            text = text[:begin] + "_" + text[end:]
        texts.append(text)
    return row["label"], texts


def test_words_are_letters_only_and_more_than_one():
    text = "Bob 's \"well-known\" don’t it's 3rd mp3 a_b x Größe 1,000 l'été..."
    assert [text[slice(*span)] for span in find_words(text)] == [
        "Bob", "well", "known", "don’t", "it's", "Größe", "l'été",
    ]  # fmt: skip


def test_accents_and_vowel_signs_are_part_of_a_word():
    text = "cafe\u0301 nai\u0308ve e\u0301 यह बहुत"
    assert [text[slice(*span)] for span in find_words(text)] == ["cafe\u0301", "nai\u0308ve", "यह", "बहुत"]


def test_originals_come_first_and_then_variants_row_by_row(checkpoint):
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
def test_variants_differ_from_their_row_and_each_other_in_words_of_the_vocabulary(
    checkpoint, seed, probability, candidates, variants
):
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


def test_what_is_drawn_for_a_row_depends_on_no_other_row(checkpoint):
    texts = ["short film, and then it was very long and awful", *ROWS.texts[1:]]
    changed = Split(texts, ROWS.text_pairs, ROWS.labels)
    made = [augment(rows, checkpoint, asked(), seed=3, progress=silent) for rows in (ROWS, changed)]
    assert [variants_of(row, made[0]) for row in (1, 2, 3)] == [variants_of(row, made[1]) for row in (1, 2, 3)]
    other = augment(ROWS, checkpoint, asked(), seed=4, progress=silent)
    assert list(other.rows()) != list(made[0].rows())


def test_at_probability_1_every_word_is_replaced(checkpoint):
    made = augment(ROWS, checkpoint, asked(probability=1), seed=0, progress=silent)
    for new in variants_of(3, made):
        words = [new["text"][slice(*span)] for span in find_words(new["text"])]
        assert all(a != b for a, b in zip(words, ["great", "movie", "and", "great", "actor"], strict=True))


def test_texts_without_a_pair_stay_without(checkpoint):
    made = augment(Split(ROWS.texts, None, ROWS.labels), checkpoint, asked(), seed=0, progress=silent)
    assert made.text_pairs is None and len(made) == len(made.labels) > 4


def test_neighbours_are_the_nearest_other_words_by_cosine(checkpoint):
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


def test_byte_level_tokens_are_words_where_a_space_precedes_them():
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


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra", "mpnet", "roberta"])
def test_predictions_are_the_masked_lms_at_masked_places(make_checkpoint, make_masked_lm, model_type):
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


def test_many_words_and_cut_texts_are_predicted_or_left_out(make_masked_lm):
    checkpoint = make_masked_lm("bert")
    text = " ".join(["good", "film", "very"] * 40)  # 120 tokens, and the network has positions for 72
    (found,) = masked_lm_predictions(checkpoint, Vocabulary(checkpoint.tokenizer, 2), [text], silent)
    assert sorted(found) == find_words(text)[:68]
    made = augment(Split([text], None, [0]), checkpoint, asked(probability=1), seed=0, progress=silent)
    assert all(len(new.split()) == 120 for new in made.texts)
    assert "good" not in {made.texts[1].split()[0], made.texts[1].split()[-3]}


def test_a_source_that_is_not_there_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match=r"augmentation\.source to embeddings"):
        augment(ROWS, checkpoint, asked(source="masked-lm"), seed=0, progress=silent)


def test_a_tokenizer_without_a_mask_token_predicts_nothing(checkpoint):
    vocabulary = Vocabulary(checkpoint.tokenizer, 4)
    vocabulary.tokenizer.mask_token = None
    with pytest.raises(CheckpointError, match="no mask token"):
        masked_lm_predictions(checkpoint, vocabulary, ["good film"], silent)


def test_embeddings_are_taken_where_they_are_asked_for(make_masked_lm):
    checkpoint = make_masked_lm("bert")
    rows = [
        list(augment(ROWS, checkpoint, asked(source=source), seed=0, progress=silent).rows())
        for source in ("auto", "masked-lm", "embeddings")
    ]
    assert rows[0] == rows[1] != rows[2]


def test_more_candidates_than_words_are_refused(checkpoint):
    with pytest.raises(RecipeError, match=r"candidates is 24, but .* has only 24 words"):
        augment(ROWS, checkpoint, asked(candidates=24), seed=0, progress=silent)


text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=9)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.tuples(text, text, st.sampled_from(["a", 3, [0, 1]])), max_size=4),
    pairs=st.booleans(),
)
def test_a_split_is_read_as_it_was_written(tmp_path_factory, rows, pairs):
    split = Split([r[0] for r in rows], [r[1] for r in rows] if pairs and rows else None, [r[2] for r in rows])
    path = tmp_path_factory.mktemp("split") / "train.jsonl"
    write_split(split, path)
    assert read_split(path) == split


@pytest.mark.parametrize("row", ["{", "[]", "3", json.dumps({"text": "a"}), json.dumps({"text_pair": "a", "label": 1})])
def test_a_file_that_is_no_split_is_refused(tmp_path, row):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"text": "a", "label": 1}) + "\n" + row + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.jsonl is not a file of labelled rows"):
        read_split(path)
