"""Recipes that cannot be carried out are refused before any training."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from sparserve.models.data.dataset import Split
from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.checkpoint import Checkpoint, resolve_checkpoint, save_classifier
from sparserve.models.encoders.squeezing import squeeze, structure_of
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.preflight import (
    check_calibration,
    check_long_texts,
    check_recipe,
    check_type_ids,
    check_vocabulary,
    outline,
)
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.recipes.schema import Recipe, Student
from tests.support.models.squeezed import UNEVEN, network_of

MakeRecipe = Callable[..., Recipe]
MakeCheckpoint = Callable[..., Checkpoint]

FROM_TEACHER: dict[str, Any] = {"student.start": "teacher"}
NO_ATTENTION: dict[str, Any] = {"distillation.attention": 0}


@pytest.fixture
def recipe(tiny_recipe: Path) -> MakeRecipe:
    """The tiny recipe with some fields changed."""

    def changed(**fields: Any) -> Recipe:
        return load_recipe(tiny_recipe, overrides={name.replace("__", "."): value for name, value in fields.items()})

    return changed


@pytest.fixture
def job(whole: Checkpoint, tiny_recipe: Path, sentiment_csv: Path) -> Job:
    return Job("tiny", load_recipe(tiny_recipe), whole, None, load_dataset(sentiment_csv), "reviews", 0, 1)


@pytest.fixture
def saved(tmp_path: Path, whole: Checkpoint) -> MakeCheckpoint:
    """A maker of checkpoints that have a head of two labels, and some fields of the configuration changed."""

    def make(**fields: Any) -> Checkpoint:
        config: Any = copy.deepcopy(whole.config)
        config.update(fields)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
        whole.save_tokenizer(tmp_path)
        return resolve_checkpoint(str(tmp_path))

    return make


@pytest.fixture(scope="module")
def squeezed(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, whole: Checkpoint
) -> Checkpoint:
    """A squeezed checkpoint of two layers of uneven width."""
    folder = tmp_path_factory.mktemp("squeezed")
    model = network_of(make_checkpoint, "bert")
    squeeze(model, UNEVEN)
    save_classifier(model, folder)
    whole.save_tokenizer(folder)
    return resolve_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pruning.method": "soft-movement"}, "one threshold for all matrices"),
        ({"pruning.method": "group-lasso"}, "needs blocks of several weights"),
        ({"pruning.block": [1, 5]}, "blocks"),
        ({"pruning.method": "magnitud"}, "unknown method 'magnitud'"),
        ({"pruning.method": "obert", "pruning.options": {"gradients": 1.5}}, "gradients of obert must be a whole"),
        ({"pruning.method": "obert", "pruning.options": {"damping": True}}, "damping of obert must be a number"),
        ({**FROM_TEACHER, **NO_ATTENTION, "squeeze.heads": 0.01}, "zero heads"),
        ({**FROM_TEACHER, **NO_ATTENTION, "squeeze.flops": 0.001}, "zero heads"),
        ({**FROM_TEACHER, "squeeze.method": "post-training", "squeeze.hidden": 0.5}, "cannot remove hidden dimensions"),
        ({**FROM_TEACHER, "squeeze.options": {"tune": True}, "squeeze.hidden": 0.5}, "squeeze.options.tune"),
        ({**FROM_TEACHER, "squeeze.options": {"tune": 1}}, "tune of mutual-information must be true or false"),
        ({**FROM_TEACHER, "squeeze.heads": 0.5}, "fewer heads than its teacher"),
        ({"student.heads": 2}, "fewer heads than its teacher's"),
        ({"embeddings.rank": 33}, "embeddings.rank is 33"),
        ({"embeddings.rank": 17, "student.hidden_size": 16}, "rows and 16 columns"),
        ({"embeddings.rank": 17, **FROM_TEACHER, **NO_ATTENTION, "squeeze.hidden": 0.5}, "rows and 16 columns"),
        ({"augmentation.candidates": 5000}, "augmentation.candidates is 5000"),
        ({"student.layers": 3}, "student.layers is 3, but the network to start from has 2"),
    ],
)  # fmt: skip
def test_check_recipe_refuses(fields: dict[str, Any], message: str, recipe: MakeRecipe, whole: Checkpoint) -> None:
    with pytest.raises(RecipeError, match=message):
        check_recipe(whole, None, recipe(**fields))


def test_check_recipe_refuses_a_missing_masked_lm_head(recipe: MakeRecipe, whole: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="no masked-LM head"):
        check_recipe(whole, None, recipe(augmentation__source="masked-lm"))


def test_check_calibration_needs_more_rows_than_units(recipe: MakeRecipe, job: Job) -> None:
    squeezed = {**FROM_TEACHER, **NO_ATTENTION, "squeeze__heads": 0.5}
    check_calibration(replace(job, recipe=recipe(**squeezed, squeeze__calibration=64)))
    check_calibration(replace(job, recipe=recipe()))
    with pytest.raises(RecipeError, match=r"the rows give .* Raise it until"):
        check_calibration(replace(job, recipe=recipe(**squeezed, squeeze__calibration=4)))


def test_check_calibration_refuses_too_few_vectors_or_operations(recipe: MakeRecipe, job: Job) -> None:
    squeezed = {**FROM_TEACHER, **NO_ATTENTION, "squeeze__heads": 0.5}
    # There are enough tokens, but the last layer's heads of 8 features and 2 labels need one vector per row.
    texts = " ".join(["the movie was good"] * 8)
    few = replace(job, dataset=replace(job.dataset, train=Split([texts] * 10, None, [0, 1] * 5)))
    with pytest.raises(RecipeError, match=r"give 10 vectors, .* 10 features\. All training rows are in use"):
        check_calibration(replace(few, recipe=recipe(**squeezed)))
    poor = {**FROM_TEACHER, **NO_ATTENTION, "squeeze__method": "post-training", "squeeze__flops": 0.001}
    with pytest.raises(RecipeError, match="too small for one head and one unit in each of 2 layers"):
        check_calibration(replace(job, recipe=recipe(**poor)))


def test_check_vocabulary_refuses_a_rank_above_the_kept_tokens(recipe: MakeRecipe, job: Job) -> None:
    few = replace(job, dataset=replace(job.dataset, train=job.dataset.train.take([0, 1])))
    ranked = {"embeddings.rank": 32, "embeddings.vocabulary": "training"}
    check_vocabulary(replace(job, recipe=recipe(**ranked)))
    with pytest.raises(RecipeError, match=r"embeddings\.rank is 32, but the token table has \d+ rows"):
        check_vocabulary(replace(few, recipe=recipe(**ranked)))


def test_check_long_texts_refuses_windows_of_pairs(job: Job, recipe: MakeRecipe) -> None:
    windows = replace(job, recipe=recipe(**{"long_texts.overlong": "windows"}))
    check_long_texts(windows)
    split = job.dataset.train
    pairs = replace(job.dataset, train=replace(split, text_pairs=list(split.texts)))
    check_long_texts(replace(job, dataset=pairs))
    with pytest.raises(RecipeError, match=r"the data has pairs: add --set long_texts\.overlong=truncate"):
        check_long_texts(replace(windows, dataset=pairs))


def test_check_type_ids_refuses_pairs_that_a_network_cannot_read(job: Job, saved: MakeCheckpoint) -> None:
    split = job.dataset.train
    pairs = replace(job, dataset=replace(job.dataset, train=replace(split, text_pairs=list(split.texts))))
    one_type = saved(type_vocab_size=1)
    check_type_ids(pairs)
    check_type_ids(replace(job, checkpoint=one_type))
    networks: dict[str, Any]
    for networks in ({"checkpoint": one_type}, {"teacher": one_type}):
        with pytest.raises(CheckpointError, match=r"cannot read pairs: .* it has embeddings for 1 type only"):
            check_type_ids(replace(pairs, **networks))


def test_check_recipe_accepts(
    recipe: MakeRecipe, whole: Checkpoint, squeezed: Checkpoint, saved: MakeCheckpoint
) -> None:
    check_recipe(whole, None, recipe())
    check_recipe(whole, None, recipe(**FROM_TEACHER, **NO_ATTENTION, squeeze__heads=0.5, squeeze__units=0.5))
    check_recipe(whole, None, recipe(student__layers=1, student__hidden_size=16))
    check_recipe(squeezed, None, recipe(**NO_ATTENTION))
    check_recipe(whole, squeezed, recipe(**NO_ATTENTION))
    check_recipe(squeezed, saved(), recipe(**NO_ATTENTION))
    check_recipe(whole, None, recipe(embeddings__rank=16, student__hidden_size=16))


def test_check_recipe_needs_a_saved_head_of_the_teacher(
    recipe: MakeRecipe, whole: Checkpoint, saved: MakeCheckpoint
) -> None:
    with pytest.raises(CheckpointError, match=r"tiny-bert has no saved weights \[2, 32\] of classifier\.weight"):
        check_recipe(whole, whole, recipe())
    teacher = saved()
    check_recipe(whole, teacher, recipe())
    config: Any = teacher.config
    config.num_labels = 3
    config.save_pretrained(teacher.folder)
    with pytest.raises(CheckpointError, match=r"names 3 labels, but the saved head classifier\.weight has 2"):
        check_recipe(whole, teacher, recipe())
    (teacher.folder / "model.safetensors").write_bytes(b"{")
    with pytest.raises(CheckpointError, match="holds no weights that can be read"):
        check_recipe(whole, teacher, recipe())


def test_check_recipe_refuses_texts_beyond_the_teachers_positions(
    recipe: MakeRecipe, whole: Checkpoint, saved: MakeCheckpoint
) -> None:
    with pytest.raises(RecipeError, match="has positions for 9: add --set max_length=9"):
        check_recipe(whole, saved(max_position_embeddings=9), recipe(**NO_ATTENTION))


def test_check_recipe_refuses_a_tokenizer_larger_than_the_embeddings(
    recipe: MakeRecipe, whole: Checkpoint, saved: MakeCheckpoint
) -> None:
    larger = saved()
    tokenizer = larger.tokenizer
    tokenizer.add_tokens(["zzz", "<extra>"])
    tokenizer.save_pretrained(larger.folder)
    last, rows = len(tokenizer) - 1, whole.config.vocab_size
    message = rf"'<extra>' the id {last}, but the model has embeddings for {rows} tokens only"
    networks: tuple[tuple[Checkpoint, Checkpoint | None], ...] = ((larger, None), (whole, larger))
    for checkpoint, teacher in networks:
        with pytest.raises(CheckpointError, match=message):
            check_recipe(checkpoint, teacher, recipe())


def test_check_recipe_refuses_a_network_too_large_for_onnx(
    recipe: MakeRecipe, whole: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(4 * parameter.numel() for parameter in outline(whole, Student()).parameters())
    monkeypatch.setattr("sparserve.models.pipeline.preflight.LARGEST_GRAPH", size)
    check_recipe(whole, None, recipe())
    monkeypatch.setattr("sparserve.models.pipeline.preflight.LARGEST_GRAPH", size - 1)
    with pytest.raises(CheckpointError, match=r"tiny-bert has weights of 0\.00 GiB in float32"):
        check_recipe(whole, None, recipe())


def test_check_recipe_refuses_another_shape_of_a_squeezed_network(recipe: MakeRecipe, squeezed: Checkpoint) -> None:
    with pytest.raises(RecipeError, match="was squeezed, so its layers differ"):
        check_recipe(squeezed, None, recipe(**NO_ATTENTION, student__layers=1))


def test_check_recipe_refuses_attention_of_a_squeezed_teacher(
    recipe: MakeRecipe, whole: Checkpoint, squeezed: Checkpoint
) -> None:
    with pytest.raises(RecipeError, match="the teacher was squeezed to fewer heads"):
        check_recipe(whole, squeezed, recipe())


def test_check_recipe_refuses_hidden_states_of_a_shallower_teacher(
    recipe: MakeRecipe, whole: Checkpoint, saved: MakeCheckpoint
) -> None:
    shallow = saved(num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="the student has 2 layers and its teacher 1"):
        check_recipe(whole, shallow, recipe())
    check_recipe(whole, shallow, recipe(distillation__hidden=0, distillation__attention=0))
    # A student that starts from the teacher is as shallow.
    check_recipe(whole, shallow, recipe(**FROM_TEACHER))


def test_outline_has_shapes_and_no_weights(whole: Checkpoint, squeezed: Checkpoint) -> None:
    assert {p.device.type for p in outline(whole, Student()).parameters()} == {"meta"}
    assert structure_of(outline(squeezed, Student())) == UNEVEN
    narrow: Any = outline(whole, Student(layers=1, hidden_size=16))
    assert narrow.config.num_hidden_layers == 1
    assert narrow.bert.pooler.dense.weight.shape == (16, 16)
