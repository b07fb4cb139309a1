"""Ladders: the levels of a recipe, their names, and lower bounds of their size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.errors import RecipeError
from sparserve.models.recipes.loading import load_recipe, shipped_recipes
from sparserve.models.recipes.schema import Embeddings, Pruning, Quantization, Recipe, Squeeze, Student
from sparserve.models.search.ladders import make_ladder, slug, with_shared
from sparserve.models.search.size_bound import least_bytes


def test_make_ladder_chooses_fields_and_names_by_the_recipe() -> None:
    pruned = make_ladder(
        "Demo 1", Recipe(name="Demo 1", pruning=Pruning(sparsity=0.75, initial_sparsity=0.6)), layers=6
    )
    assert pruned.levels[:3] == (0.6, 0.7, 0.75)
    assert pruned.candidate(2).variant == "demo-1-sparsity75"
    pruning = pruned.candidate(2).recipe.pruning
    assert pruning is not None and pruning.sparsity == 0.75
    plain: dict[str, Any] = {"pruning": None, "student": Student(epochs=0, start="teacher")}
    flops = make_ladder("fisher", Recipe(name="fisher", squeeze=Squeeze(flops=0.55), **plain), layers=6)
    assert (
        flops.fields == ("squeeze.flops",) and 0.55 in flops.levels and list(flops.levels) == sorted(flops.levels)[::-1]
    )
    units = make_ladder("mi", Recipe(name="mi", squeeze=Squeeze(heads=0.5, units=0.25), **plain), layers=6)
    squeezed = units.candidate(units.levels.index(0.3))
    kept = squeezed.recipe.squeeze
    assert kept is not None
    assert (kept.heads, kept.units, kept.hidden) == pytest.approx((0.3, 0.15, 1.0))
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
def test_ladder_refuses_names_of_the_baseline_and_of_int8_variants(name: str) -> None:
    recipe = Recipe(name=name, pruning=None, student=Student(epochs=1))
    with pytest.raises(
        RecipeError, match=rf"recipe {name} cannot have a variant named after it: variant '{slug(name)}'"
    ):
        make_ladder(name, recipe, layers=6).candidate(0)
    pruned = make_ladder(name, Recipe(name=name), layers=6).candidate(0)
    assert pruned.variant == f"{slug(name)}-sparsity50"


@pytest.mark.parametrize("name", shipped_recipes())
def test_ladder_of_a_shipped_recipe_contains_the_recipe(name: str) -> None:
    shared, other = with_shared(load_recipe(name), load_recipe("demo")), load_recipe("demo")
    ladder = make_ladder(name, shared, layers=6)
    candidates = [ladder.candidate(rung) for rung in range(len(ladder))]
    assert len({candidate.variant for candidate in candidates}) == len(candidates) > 1
    assert [c.recipe.model_copy(update={"variant": shared.variant}) for c in candidates].count(shared) == 1
    assert all(c.recipe.max_length == other.max_length for c in candidates)


def test_with_shared_keeps_a_recipes_int8_settings() -> None:
    first = Recipe(name="first", quantization=Quantization(enabled=False, reduce_range=False))
    small = with_shared(load_recipe("smallest"), first).quantization
    assert small == Quantization(reduce_range=False, embedding_bits=4)


def test_least_bytes_is_the_size_of_the_token_table(make_checkpoint: Callable[..., Path]) -> None:
    checkpoint = resolve_checkpoint(str(make_checkpoint("distilbert")))
    rows: Any = checkpoint.config.vocab_size

    def least(**fields: Any) -> int:
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
