"""The recipe schema, overrides, and the errors for invalid recipes."""

import re
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.errors import RecipeError
from sparserve.models.recipes.loading import load_recipe, shipped_recipes


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\npruning: {sparsity: 1.5}", "pruning.sparsity.*less than 1.*1.5"),
        ("name: a\npruning: {sparsty: 0.9}", "unknown field 'pruning.sparsty'.*sparsity"),
        ("name: a\nepochs: 3", "unknown field 'epochs'.*student"),
        ("name: a\ndistillation: {heat: 3}", "unknown field 'distillation.heat'.*temperature"),
        ("pruning: {}", "name"),
        ("name: a\npruning: {begin: 0.9, end: 0.1}", "begin"),
        ("name: a\nvariant: dense", "baseline"),
        ("name: a\nvariant: '{what}'", "sparsity"),
        ("name: a\nvariant: '{sparsity.foo}'", "only the field"),
        ("name: a\nvariant: '{sparsity[a]}'", "only the field"),
        ("name: a\nvariant: mine-int8", "named like an int8 variant"),
        (f"name: a\nvariant: {'a' * 60}", "choose a shorter name"),
        ("name: a\nmeasurement: {batches: []}", "measurement.batches"),
        ("name: a\nmeasurement: {batches: [0]}", "measurement.batches"),
        ("name: a\nmeasurement: {lengths: [-1]}", "measurement.lengths"),
        ("name: a\nmax_length: 9999", "max_length"),
        ("name: a\nlong_texts: {overlong: cut}", "long_texts.overlong"),
        ("name: a\nlong_texts: {stride: 65}", "must be at most half of max_length: set at most 64"),
        ("name: a\nteacher: best", 'teacher: "auto" or fixed settings.*given: .best.'),
        ("name: a\nteacher: {epochs: 0}", "teacher.epochs.*greater than 0"),
        ("- a\n- b", "must contain fields"),
        ("name: [", "not valid YAML"),
        ("name: a\nstudent: {learning_rate: .nan}", "learning_rate"),
        ("name: a\nstudent: {schedule: decay_last, warmup: 0.5, decay: 0.9}", "must be at most 1"),
        (
            "name: a\nstudent: {epochs: 0, start: teacher}\npruning: null\ndistillation: null",
            "the recipe changes nothing",
        ),
        ("name: a\nstudent: {epochs: 0, start: teacher}\ndistillation: {}", "distillation has no effect"),
        ("name: a\nstudent: {epochs: 0}", "set student.start to teacher"),
        ("name: a\nsqueeze: {heads: 0.5}", "set student.start to teacher"),
        ("name: a\ndistillation: {logits: 0}", "does not train the classifier's head"),
        *(
            (
                f"name: a\nstudent: {{epochs: 0, start: teacher}}\ndistillation: null\n{rest}",
                "the recipe changes nothing",
            )
            for rest in ("squeeze: {}\npruning: null", "pruning: {sparsity: 0}", "squeeze: {flops: 1}\npruning: null")
        ),
    ],
)
def test_load_recipe_names_the_invalid_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_documentation_shows_the_shipped_recipe(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "choose-a-recipe.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    ships = load_recipe("sparsebert-best")
    assert load_recipe(write(tmp_path, shown)) == ships.model_copy(update={"description": ""})


def test_load_recipe_lists_the_shipped_recipes_for_an_unknown_name() -> None:
    with pytest.raises(RecipeError, match="sparsebert-best"):
        load_recipe("no-such-recipe")


def test_load_recipe_applies_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\npruning: {sparsity: 0.9}")
    recipe = load_recipe(path, overrides={"pruning.sparsity": 0.975, "student.epochs": 2})
    assert recipe.variant_name == "sparse97.5"
    assert recipe.student.epochs == 2


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "pruning.sparsity",
            95.0,
            r"^magnitude with pruning.sparsity=95.0: .*given: 95.0; .* a fraction, such as 0.95",
        ),
        ("variant", "dense", "^magnitude with .*variant=dense: variant 'dense' is the name of the baseline"),
        ("pruning.options.a", "maybe", r"a: Input should be a number, or true or false \(given: 'maybe'\)$"),
        (
            "pruning.begin",
            0.9,
            r"^magnitude with pruning.begin=0.9: pruning: begin \(0.9\) must be at most end \(\S+\)$",
        ),
        ("measurement.batches", [0], r"^magnitude with .*: measurement.batches.0: .* equal to 1 \(given: 0\)$"),
    ],
)
def test_load_recipe_names_the_invalid_override(field: str, value: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("magnitude", overrides={"student.epochs": 2, field: value})


def test_load_recipe_refuses_a_field_within_a_value(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a")
    with pytest.raises(RecipeError, match=r"name\.x cannot be set: name is 'a' in the recipe"):
        load_recipe(path, overrides={"name.x": 1})
    with pytest.raises(RecipeError, match=r"pruning\.sparsity cannot be set: pruning is 5"):
        load_recipe(path, overrides={"pruning": 5, "pruning.sparsity": 0.5})


def test_load_recipe_refuses_sparsity_without_pruning() -> None:
    with pytest.raises(RecipeError, match="distilbert prunes no single weights"):
        load_recipe("distilbert", overrides={"pruning.sparsity": 0.9})
    both = {"pruning.method": "magnitude", "pruning.sparsity": 0.9}
    pruning = load_recipe("distilbert", overrides=both).pruning
    assert pruning is not None and pruning.sparsity == 0.9


def test_load_recipe_leaves_the_width_out_if_the_rate_is_given() -> None:
    assert load_recipe("sparsebert-best").student.reference_width == 384
    given = load_recipe("sparsebert-best", overrides={"student.learning_rate": 1e-3}).student
    assert (given.learning_rate, given.reference_width) == (1e-3, None)


def test_load_recipe_leaves_the_least_steps_out_if_the_epochs_are_given() -> None:
    assert load_recipe("sparsebert-best").student.least_steps == 800
    assert load_recipe("sparsebert-best", overrides={"student.epochs": 2}).student.least_steps == 0
    both = load_recipe("sparsebert-best", overrides={"student.epochs": 2, "student.least_steps": 50})
    assert both.student.least_steps == 50


def test_recipe_smallest_trains_as_the_best_recipe() -> None:
    smallest, best = load_recipe("smallest"), load_recipe("sparsebert-best")
    for section in ("student", "pruning", "distillation"):
        assert getattr(smallest, section) == getattr(best, section)


def test_baseline_quantization_ignores_what_shrinks_the_student() -> None:
    assert load_recipe("smallest").quantization.embedding_bits == 4
    assert load_recipe("smallest").baseline_quantization == load_recipe("demo").baseline_quantization


def test_teacher_is_found_or_fixed_as_a_whole(tmp_path: Path) -> None:
    found = load_recipe(write(tmp_path, "name: a"))
    assert found.teacher is None
    assert found.model_dump(mode="json")["teacher"] == "auto"
    assert type(found).model_validate(found.model_dump()) == found
    with pytest.raises(RecipeError, match=r"teacher.epochs cannot be set: .* auto.* --set 'teacher="):
        load_recipe("sparsebert-best", overrides={"teacher.epochs": 2})
    fixed = load_recipe("sparsebert-best", overrides={"teacher": {"epochs": 2}})
    assert fixed.teacher is not None and fixed.teacher.epochs == 2
    assert load_recipe("demo", overrides={"teacher": "auto"}).teacher is None


def test_learning_rate_of_the_student_is_found_or_fixed(tmp_path: Path) -> None:
    auto = {"student.learning_rate": "auto"}
    recipe = load_recipe("sparsebert-best", overrides=auto)
    assert recipe.student.learning_rate is None
    assert recipe.model_dump(mode="json")["student"]["learning_rate"] == "auto"
    assert type(recipe).model_validate(recipe.model_dump()) == recipe
    with pytest.raises(RecipeError, match=r"student.learning_rate: .*number.*given: 'fast'"):
        load_recipe("sparsebert-best", overrides={"student.learning_rate": "fast"})
    with pytest.raises(RecipeError, match="no learning rate to find"):
        load_recipe("post-training", overrides=auto)
