"""`models.plan`: what the key of a step depends on."""

import pytest

from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.pipeline import plan as plans
from sparserve.models.pipeline.plan import Job, make_plan
from sparserve.models.pruning.weights.magnitude import Magnitude
from sparserve.models.recipes.loading import load_recipe


@pytest.fixture(scope="module")
def keys(tiny_checkpoint, tiny_recipe, sentiment_csv):
    """Step keys by title, of the tiny recipe with some fields changed."""
    checkpoint, dataset = resolve_checkpoint(str(tiny_checkpoint)), load_dataset(sentiment_csv)

    def of(**fields):
        overrides = {name.replace("__", "."): value for name, value in fields.items()}
        recipe = load_recipe(tiny_recipe, overrides=overrides)
        plan = make_plan(Job("tiny", recipe, checkpoint, None, dataset, "reviews", 0, 1))
        return {step.title: step.key for step in plan.steps}

    return of


def changed(before, after):
    return {title for title in before if before[title] != after.get(title)}


def test_what_only_says_how_a_run_is_interrupted_makes_nothing_again(keys):
    same = {"teacher__save_steps": 7, "student__save_steps": 7, "pruning__calibration": 5}
    assert not changed(keys(), keys(**same))
    assert not changed(keys(), keys(distillation__cache_bytes=5e8))


def test_outputs_that_are_stored_are_rounded_and_make_another_student(keys):
    assert "student" in changed(keys(), keys(distillation__cache_bytes=0))


def test_a_student_is_made_again_when_its_recipe_changes_and_the_baseline_is_not(keys):
    found = changed(keys(), keys(pruning__updates=11))
    assert "student" in found
    assert not {"teacher", "teacher outputs", "export dense", "export dense-int8", "predict dense"} & found


def test_bits_of_a_students_embeddings_do_not_change_the_baseline(keys):
    found = changed(keys(), keys(quantization__embedding_bits=4))
    assert "export sparse60-int8" in found
    assert "export dense-int8" not in found


def test_another_revision_of_the_code_makes_networks_again(keys, monkeypatch):
    before = keys()
    monkeypatch.setattr(Magnitude, "revision", 2)
    found = changed(before, keys())
    assert "student" in found
    assert "teacher" not in found
    monkeypatch.setitem(plans.REVISIONS, "teacher", 2)
    assert {"teacher", "teacher outputs", "student", "export dense"} <= changed(before, keys())
