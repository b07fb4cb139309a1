"""The search for a student's learning rate on a tiny network."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sparserve.models.data.loading import load_dataset
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier, resolve_checkpoint, save_classifier
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.recipes.schema import Recipe
from sparserve.models.training.student import StudentInputs
from sparserve.models.training.tuning import rules
from sparserve.models.training.tuning.settings import TRIALS, read_settings
from sparserve.models.training.tuning.student_trials import (
    find_learning_rate,
    first_rate,
    learning_rate_lines,
    shortened,
)

AUTO = {"student.learning_rate": "auto", "student.start": "teacher", "student.hidden_size": None}


class Killed(BaseException):
    """Simulates kill -9: nothing catches it."""


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Path) -> Recipe:
    return load_recipe(tiny_recipe, overrides=AUTO)


@pytest.fixture(scope="module")
def teacher(whole: Checkpoint, sentiment_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("teacher")
    dataset = load_dataset(sentiment_csv)
    save_classifier(load_classifier(whole.folder, dataset.label_names, dataset.problem_type, seed=0), folder)
    whole.save_tokenizer(folder)
    return resolve_checkpoint(str(folder))


@pytest.fixture
def find(recipe: Recipe, teacher: Checkpoint, sentiment_csv: Path) -> Callable[..., list[str]]:
    """Return a function that searches in a folder, up to a number of trained steps, and returns what was trained."""
    rows = TokenizedDataset(load_dataset(sentiment_csv), teacher.tokenizer, 32)

    def make(folder: Path, stop_after: int | None = None, recipe: Recipe = recipe) -> list[str]:
        trained: list[str] = []

        def progress(done: int, total: int, note: str) -> None:
            trained.append(f"{note} {done}/{total}")
            if len(trained) == stop_after:
                raise Killed

        folder.mkdir(exist_ok=True)
        inputs = StudentInputs(start=teacher, teacher=teacher, teacher_cache=None, rows=rows, seed=1)
        find_learning_rate(folder, recipe, inputs, progress=progress)
        return trained

    return make


@pytest.mark.slow
def test_find_learning_rate_resumes_and_ends_with_the_same(
    find: Callable[..., list[str]], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "TRIAL_STEPS", (2, 5))
    steps = find(tmp_path / "whole")
    settings = read_settings(tmp_path / "whole")
    rates = [trial.learning_rate for trial in settings.trials]
    assert rates[:2] == [0.024, 0.048] and len(rates) >= 3
    assert {trial.steps for trial in settings.trials} == {5}
    assert [step.split()[-1] for step in steps] == [f"{done}/20" for done in range(1, 5 * len(rates) + 1)]
    assert settings.learning_rate == min(settings.trials, key=lambda trial: trial.loss or 0).learning_rate
    with pytest.raises(Killed):
        find(tmp_path / "killed", stop_after=8)  # in the second trial
    assert find(tmp_path / "killed") == steps[5:], "trained a finished trial again"
    assert read_settings(tmp_path / "killed") == settings
    assert not (tmp_path / "whole" / TRIALS).exists()
    first, last = learning_rate_lines(settings, recipe)
    assert "divergence from the teacher after 5 steps by learning rate" in first
    assert last == f"  student: learning rate {settings.learning_rate:g}"


def test_find_learning_rate_of_a_short_training_trains_nothing(
    find: Callable[..., list[str]], recipe: Recipe, tmp_path: Path
) -> None:
    assert find(tmp_path) == []
    settings = read_settings(tmp_path)
    assert (settings.learning_rate, settings.trials) == (0.024, ())
    assert "too short" in learning_rate_lines(settings, recipe)[0]


def test_find_learning_rate_of_labels_alone_is_judged_by_them(
    find: Callable[..., list[str]], tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "TRIAL_STEPS", (2, 2))
    alone = load_recipe(tiny_recipe, overrides={**AUTO, "distillation": None, "pruning": None})
    find(tmp_path, recipe=alone)
    settings = read_settings(tmp_path)
    assert settings.trials[0].learning_rate == 0.0024
    assert "validation loss after 2 steps" in learning_rate_lines(settings, alone)[0]


def test_shortened_recipe_keeps_the_fractions_of_its_schedule() -> None:
    recipe = load_recipe("sparsebert-best", overrides={"student.learning_rate": "auto"})
    trial = shortened(recipe, 50, rows=3_200, learning_rate=1e-3)
    assert (trial.student.epochs, trial.student.learning_rate) == (0.5, 1e-3)
    assert trial.pruning is not None and recipe.pruning is not None
    assert trial.pruning.updates == 3  # of 12 in eight times the steps
    assert trial.pruning.model_copy(update={"updates": 12}) == recipe.pruning


@pytest.mark.parametrize(
    ("name", "width", "rate"),
    [
        ("sparsebert-best", 384, 2e-3),
        ("sparsebert-best", 768, 1e-3),
        ("distilbert", 384, 3e-4),
        ("magnitude", 384, 2e-4),
        ("tinybert", 384, 6e-4),  # its student is half as wide
    ],
)
def test_first_rate_is_that_of_the_shipped_recipes(name: str, width: int, rate: float) -> None:
    assert first_rate(load_recipe(name), width) == rate
