"""`models.fit`: recipes that cannot work are refused before anything is trained."""

from dataclasses import replace

import pytest
from transformers import AutoModelForSequenceClassification

from sparserve.models.data.dataset import Split
from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.checkpoint import resolve_checkpoint, save_classifier
from sparserve.models.encoders.squeezing import squeeze, structure_of
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.pipeline.preflight import check_calibration, check_fit, check_vocabulary, outline
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.recipes.schema import Student
from tests.support.models.squeezed import UNEVEN, network_of

FROM_TEACHER = {"student.start": "teacher"}
NO_ATTENTION = {"distillation.attention": 0}


@pytest.fixture
def recipe(tiny_recipe):
    """The tiny recipe with some fields changed."""

    def changed(**fields):
        return load_recipe(tiny_recipe, overrides={name.replace("__", "."): value for name, value in fields.items()})

    return changed


@pytest.fixture
def saved(tmp_path, whole):
    """A maker of checkpoints that have a head of two labels, and some fields of the configuration changed."""

    def make(**fields):
        config = whole.config
        config.update(fields)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
        whole.save_tokenizer(tmp_path)
        return resolve_checkpoint(str(tmp_path))

    return make


@pytest.fixture(scope="module")
def squeezed(make_checkpoint, tmp_path_factory, whole):
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
def test_a_recipe_that_cannot_work(fields, message, recipe, whole):
    with pytest.raises(RecipeError, match=message):
        check_fit(whole, None, recipe(**fields))


def test_predictions_of_a_masked_lm_that_is_not_there(recipe, whole):
    with pytest.raises(CheckpointError, match="no masked-LM head"):
        check_fit(whole, None, recipe(augmentation__source="masked-lm"))


def test_calibration_rows_have_to_be_more_than_units(recipe, whole, sentiment_csv):
    dataset = load_dataset(sentiment_csv)
    squeezed = {**FROM_TEACHER, **NO_ATTENTION, "squeeze__heads": 0.5}
    check_calibration(whole, recipe(**squeezed, squeeze__calibration=64), dataset, 0)
    check_calibration(whole, recipe(), dataset, 0)
    with pytest.raises(RecipeError, match=r"the rows give .* Raise it until"):
        check_calibration(whole, recipe(**squeezed, squeeze__calibration=4), dataset, 0)


def test_what_the_calibration_rows_tell_is_seen_before_anything_is_trained(recipe, whole, sentiment_csv):
    dataset = load_dataset(sentiment_csv)
    squeezed = {**FROM_TEACHER, **NO_ATTENTION, "squeeze__heads": 0.5}
    # Tokens enough, but the last layer's heads of 8 features and 2 labels are told apart by rows.
    texts = " ".join(["the movie was good"] * 8)
    few = replace(dataset, train=Split([texts] * 10, None, [0, 1] * 5))
    with pytest.raises(RecipeError, match=r"give 10 vectors, .* 10 features\. All training rows are in use"):
        check_calibration(whole, recipe(**squeezed), few, 0)
    poor = {**FROM_TEACHER, **NO_ATTENTION, "squeeze__method": "post-training", "squeeze__flops": 0.001}
    with pytest.raises(RecipeError, match="too small for one head and one unit in each of 2 layers"):
        check_calibration(whole, recipe(**poor), dataset, 0)


def test_a_rank_of_the_tokens_that_the_training_rows_have(recipe, whole, sentiment_csv):
    dataset = load_dataset(sentiment_csv)
    few = replace(dataset, train=dataset.train.take([0, 1]))
    ranked = {"embeddings.rank": 32, "embeddings.vocabulary": "training"}
    check_vocabulary(whole, recipe(**ranked), dataset)
    with pytest.raises(RecipeError, match=r"embeddings\.rank is 32, but the token table has \d+ rows"):
        check_vocabulary(whole, recipe(**ranked), few)


def test_what_can_work_is_let_through(recipe, whole, squeezed, saved):
    check_fit(whole, None, recipe())
    check_fit(whole, None, recipe(**FROM_TEACHER, **NO_ATTENTION, squeeze__heads=0.5, squeeze__units=0.5))
    check_fit(whole, None, recipe(student__layers=1, student__hidden_size=16))
    check_fit(squeezed, None, recipe(**NO_ATTENTION))
    check_fit(whole, squeezed, recipe(**NO_ATTENTION))
    check_fit(squeezed, saved(), recipe(**NO_ATTENTION))
    check_fit(whole, None, recipe(embeddings__rank=16, student__hidden_size=16))


def test_a_teacher_without_a_head_of_its_labels_is_none(recipe, whole, saved):
    with pytest.raises(CheckpointError, match=r"tiny-bert has no saved weights \[2, 32\] of classifier\.weight"):
        check_fit(whole, whole, recipe())
    teacher = saved()
    check_fit(whole, teacher, recipe())
    config = teacher.config
    config.num_labels = 3
    config.save_pretrained(teacher.folder)
    with pytest.raises(CheckpointError, match=r"no saved weights \[3, 32\] of classifier\.weight"):
        check_fit(whole, teacher, recipe())
    (teacher.folder / "model.safetensors").write_bytes(b"{")
    with pytest.raises(CheckpointError, match="holds no weights that can be read"):
        check_fit(whole, teacher, recipe())


def test_texts_fit_the_teachers_positions_too(recipe, whole, saved):
    with pytest.raises(RecipeError, match="has positions for 9: add --set max_length=9"):
        check_fit(whole, saved(max_position_embeddings=9), recipe(**NO_ATTENTION))


def test_a_tokenizer_of_more_tokens_than_the_network_has_is_refused_before_a_text_has_one(recipe, whole, saved):
    larger = saved()
    tokenizer = larger.tokenizer
    tokenizer.add_tokens(["zzz", "<extra>"])
    tokenizer.save_pretrained(larger.folder)
    last, rows = len(tokenizer) - 1, whole.config.vocab_size
    message = rf"'<extra>' the id {last}, but the model has embeddings for {rows} tokens only"
    for networks in ((larger, None), (whole, larger)):
        with pytest.raises(CheckpointError, match=message):
            check_fit(*networks, recipe())


def test_a_network_that_no_onnx_file_holds_is_refused(recipe, whole, monkeypatch):
    size = sum(parameter.numel() * 4 for parameter in outline(whole, Student()).parameters())
    monkeypatch.setattr("sparserve.models.pipeline.preflight.LARGEST_GRAPH", size)
    check_fit(whole, None, recipe())
    monkeypatch.setattr("sparserve.models.pipeline.preflight.LARGEST_GRAPH", size - 1)
    with pytest.raises(CheckpointError, match=r"tiny-bert has weights of 0\.00 GiB in float32"):
        check_fit(whole, None, recipe())


def test_a_squeezed_network_gets_no_other_shape(recipe, squeezed):
    with pytest.raises(RecipeError, match="was squeezed, so its layers differ"):
        check_fit(squeezed, None, recipe(**NO_ATTENTION, student__layers=1))


def test_attention_of_a_squeezed_teacher_is_not_imitated(recipe, whole, squeezed):
    with pytest.raises(RecipeError, match="the teacher was squeezed to fewer heads"):
        check_fit(whole, squeezed, recipe())


def test_a_teacher_of_fewer_layers_is_no_guide_for_hidden_states(recipe, whole, saved):
    shallow = saved(num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="the student has 2 layers and its teacher 1"):
        check_fit(whole, shallow, recipe())
    check_fit(whole, shallow, recipe(distillation__hidden=0, distillation__attention=0))
    # A student that starts from the teacher is as shallow.
    check_fit(whole, shallow, recipe(**FROM_TEACHER))


def test_an_outline_has_shapes_and_no_weights(whole, squeezed):
    assert {p.device.type for p in outline(whole, Student()).parameters()} == {"meta"}
    assert structure_of(outline(squeezed, Student())) == UNEVEN
    narrow = outline(whole, Student(layers=1, hidden_size=16))
    assert narrow.config.num_hidden_layers == 1
    assert narrow.bert.pooler.dense.weight.shape == (16, 16)
