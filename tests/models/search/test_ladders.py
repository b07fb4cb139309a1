"""The levels that a search tries of a recipe: how they are called, and which of them cannot meet a target."""

import pytest

from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.errors import RecipeError
from sparserve.models.recipes.loading import load_recipe, shipped_recipes
from sparserve.models.recipes.schema import Embeddings, Pruning, Quantization, Recipe, Squeeze, Student
from sparserve.models.search.ladders import make_ladder, slug, with_shared
from sparserve.models.search.size_bound import least_bytes


def test_a_recipe_says_by_what_it_has_how_its_levels_are_called():
    pruned = make_ladder(
        "Demo 1", Recipe(name="Demo 1", pruning=Pruning(sparsity=0.75, initial_sparsity=0.6)), layers=6
    )
    assert pruned.levels[:3] == (0.6, 0.7, 0.75)
    assert pruned.candidate(2).variant == "demo-1-sparsity75"
    assert pruned.candidate(2).recipe.pruning.sparsity == 0.75
    plain = {"pruning": None, "student": Student(epochs=0, start="teacher")}
    flops = make_ladder("fisher", Recipe(name="fisher", squeeze=Squeeze(flops=0.55), **plain), layers=6)
    assert (
        flops.fields == ("squeeze.flops",) and 0.55 in flops.levels and list(flops.levels) == sorted(flops.levels)[::-1]
    )
    units = make_ladder("mi", Recipe(name="mi", squeeze=Squeeze(heads=0.5, units=0.25), **plain), layers=6)
    squeezed = units.candidate(units.levels.index(0.3))
    kept = squeezed.recipe.squeeze
    assert (kept.heads, kept.units, kept.hidden) == (0.3, pytest.approx(0.15), 1.0)
    assert squeezed.setting == "squeeze.heads=0.3, squeeze.units=0.15"
    wide = make_ladder("wide", Recipe(name="wide", squeeze=Squeeze(heads=0.25, units=0.5), **plain), layers=6)
    assert wide.values(wide.levels.index(0.9)) == {"squeeze.heads": 0.9, "squeeze.units": 1.0}
    small = make_ladder("small", Recipe(name="small", pruning=None, student=Student(layers=3)), layers=6)
    assert small.levels == (6, 5, 4, 3, 2, 1)
    assert small.candidate(1).variant == "small-layers5" and small.candidate(1).recipe.student.layers == 5
    fixed = make_ladder("int8 only", Recipe(name="int8 only", pruning=None), layers=6)
    assert len(fixed) == 1 and fixed.candidate(0).variant == "int8-only"
    with pytest.raises(RecipeError, match="has no level to search"):
        make_ladder("int8 only", fixed.recipe, layers=6, levels=[0.5])
    with pytest.raises(RecipeError, match=r"demo cannot have pruning.sparsity=1.5"):
        make_ladder("demo", Recipe(name="demo"), layers=6, levels=[1.5]).candidate(0)


@pytest.mark.parametrize("name", ["Dense", "my int8"])
def test_a_recipe_that_would_take_the_name_of_the_baseline_or_of_a_twin_is_refused(name):
    recipe = Recipe(name=name, pruning=None, student=Student(epochs=1))
    with pytest.raises(
        RecipeError, match=rf"recipe {name} cannot have a variant named after it: variant '{slug(name)}'"
    ):
        make_ladder(name, recipe, layers=6).candidate(0)
    pruned = make_ladder(name, Recipe(name=name), layers=6).candidate(0)
    assert pruned.variant == f"{slug(name)}-sparsity50"


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_that_ships_is_a_rung_of_its_ladder_and_has_distinct_variants(name):
    shared, other = with_shared(load_recipe(name), load_recipe("demo")), load_recipe("demo")
    ladder = make_ladder(name, shared, layers=6)
    candidates = [ladder.candidate(rung) for rung in range(len(ladder))]
    assert len({candidate.variant for candidate in candidates}) == len(candidates) > 1
    assert [c.recipe.model_copy(update={"variant": shared.variant}) for c in candidates].count(shared) == 1
    assert all(c.recipe.max_length == other.max_length for c in candidates)


def test_a_recipe_keeps_its_own_int8_in_a_search_that_another_one_begins():
    first = Recipe(name="first", quantization=Quantization(enabled=False, reduce_range=False))
    small = with_shared(load_recipe("smallest"), first).quantization
    assert small == Quantization(reduce_range=False, embedding_bits=4)


def test_the_token_table_bounds_the_bytes_where_a_recipe_leaves_it_as_it_is(make_checkpoint):
    checkpoint = resolve_checkpoint(str(make_checkpoint("distilbert")))
    rows = checkpoint.config.vocab_size

    def least(**fields):
        return least_bytes(checkpoint, None, Recipe(name="demo", **fields))

    assert least() == rows * 32
    assert least(quantization=Quantization(embedding_bits=4)) == rows * 16
    assert least(quantization=Quantization(embeddings=False)) == least(quantization=Quantization(enabled=False))
    assert least(quantization=Quantization(enabled=False)) == 4 * rows * 32
    assert least(student=Student(hidden_size=16)) == rows * 16
    start = Student(start="teacher")
    assert least(squeeze=Squeeze(heads=0.5), student=start) == rows * 32
    assert least(squeeze=Squeeze(hidden=0.5), student=start) == 0
    assert least(embeddings=Embeddings(vocabulary="training")) == least(embeddings=Embeddings(rank=4)) == 0
