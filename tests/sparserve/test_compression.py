"""`compress` and `search` from Python, and the recipes that goals stand for."""

import shutil
from pathlib import Path
from typing import get_args

import pytest

from sparserve import Classifier, Report, compress, search
from sparserve.compression import job_options
from sparserve.goals import RECIPES, Goal, choose_recipe
from sparserve.models.errors import InputError
from sparserve.models.recipes.loading import load_recipe, shipped_recipes


def test_goals_stand_for_recipes_that_ship() -> None:
    assert set(RECIPES) == set(get_args(Goal))
    assert set(RECIPES.values()) <= set(shipped_recipes())
    assert load_recipe(RECIPES["no-training"]).student.epochs == 0


def test_choose_recipe_prefers_what_is_given() -> None:
    assert choose_recipe(None, None) == "sparsebert-best"
    assert choose_recipe("mine.yaml", None) == "mine.yaml"
    assert choose_recipe(None, "smallest") == "smallest"
    with pytest.raises(InputError, match="Leave one out"):
        choose_recipe("mine.yaml", "smallest")
    with pytest.raises(InputError, match=r"Unknown goal 'tiny'\. Goals: balanced, fastest"):
        choose_recipe(None, "tiny")


def test_job_options_need_only_data() -> None:
    options = job_options(Path("reviews.csv"))
    assert (options.data, options.recipe, options.seed, options.splits) == ("reviews.csv", "sparsebert-best", 0, {})
    assert (options.store, options.work) == (Path("store"), Path("store/.work"))
    options = job_options("d", store="s", work="w", validation="v.csv", overrides={"student.epochs": 2})
    assert (options.store, options.work, options.splits) == (Path("s"), Path("w"), {"validation": Path("v.csv")})
    assert options.overrides == {"student.epochs": 2}


@pytest.mark.slow
@pytest.mark.usefixtures("no_memory_processes")
def test_compress_and_search_publish_bundles(
    tiny_store: Path, tiny_recipe: Path, tiny_checkpoint: Path, sentiment_csv: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(tiny_store, tmp_path / "store")  # every step is cached
    report = compress(
        sentiment_csv, recipe=tiny_recipe, model=tiny_checkpoint, task="tiny", store=store, seed=0, threads=1
    )
    assert isinstance(report, Report) and report.task == "tiny"
    assert Classifier.load(store, report.task, "sparse60-int8")(["the good film"])[0].label == "positive"
    result = search(
        sentiment_csv,
        targets=["size<=100MB"],
        recipes=[],
        levels=[0.6],
        recipe=tiny_recipe,
        model=tiny_checkpoint,
        task="tiny",
        store=store,
        threads=1,
    )
    assert result.best in result.frontier
    assert result.report.default_variant == result.best.serving.variant
