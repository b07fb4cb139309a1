import pytest

from models.errors import RecipeError
from models.recipe import load_recipe, shipped_recipes


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_are_valid(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def write(tmp_path, text):
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
        ("name: a\nmax_length: 9999", "max_length"),
        ("- a\n- b", "must hold fields"),
        ("name: [", "not YAML"),
        ("name: a\nstudent: {learning_rate: .nan}", "learning_rate"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_field(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_an_unknown_name_lists_those_that_ship():
    with pytest.raises(RecipeError, match="sparsebert-best"):
        load_recipe("no-such-recipe")


def test_overrides_replace_fields_and_name_the_variant(tmp_path):
    path = write(tmp_path, "name: a\npruning: {sparsity: 0.9}")
    recipe = load_recipe(path, overrides={"pruning.sparsity": 0.975, "student.epochs": 2})
    assert recipe.variant_name == "sparse97.5"
    assert recipe.student.epochs == 2
