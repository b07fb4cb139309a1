"""The search for a teacher's settings on a tiny network, and the training with them."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparserve.models.bundle.manifest import TrainingSettings
from sparserve.models.data.loading import load_dataset
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.data.unlabeled import load_unlabeled
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
from sparserve.models.pipeline.inputs import Environment, Job
from sparserve.models.pipeline.plan import make_plan
from sparserve.models.pipeline.stages.teacher import training_of
from sparserve.models.pipeline.stages.teacher_settings import found_settings
from sparserve.models.pipeline.step_cache import Context, Workspace
from sparserve.models.progress import PlainReporter
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.training.teacher import train_found_teacher, training_record
from sparserve.models.training.tuning import rules, teacher_trials
from sparserve.models.training.tuning.held_out import HeldOut
from sparserve.models.training.tuning.settings import TRIALS, read_settings
from sparserve.models.training.tuning.teacher_trials import (
    find_settings,
    settings_lines,
    weights_help,
)

SETTINGS = TrainingSettings(learning_rate=3e-3, epochs=2, batch_size=16, class_weights=True)


class Killed(BaseException):
    """Simulates kill -9: nothing catches it."""


@pytest.fixture(scope="module")
def rows(whole: Checkpoint, sentiment_csv: Path) -> TokenizedDataset:
    return TokenizedDataset(load_dataset(sentiment_csv), whole.tokenizer, 32)


@pytest.fixture
def find(whole: Checkpoint, rows: TokenizedDataset) -> Callable[..., list[str]]:
    """Return a function that searches in a folder, up to a number of trained steps, and returns what was trained."""

    def make(folder: Path, stop_after: int | None = None) -> list[str]:
        trained: list[str] = []

        def progress(done: int, total: int, note: str) -> None:
            trained.append(f"{note} {done}/{total}")
            if len(trained) == stop_after:
                raise Killed

        find_settings(folder, checkpoint=whole, rows=rows, seed=1, progress=progress)
        return trained

    return make


@pytest.mark.slow
def test_find_settings_resumes_and_ends_with_the_same(
    find: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "TRIAL_STEPS", (4, 4))
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    steps = find(tmp_path / "whole")
    with pytest.raises(Killed):
        find(tmp_path / "killed", stop_after=6)  # in the second trial
    resumed = find(tmp_path / "killed")
    assert resumed == steps[4:], "trained a finished trial again, or resumed one from another step"
    settings = read_settings(tmp_path / "killed")
    assert settings == read_settings(tmp_path / "whole")
    made = settings.trials
    assert [trial.learning_rate for trial in made[:2]] == [1.2e-3, 2.4e-3] and {trial.steps for trial in made} == {4}
    assert settings.learning_rate in {trial.learning_rate for trial in made}
    assert [step.split()[-1] for step in steps] == [f"{done}/16" for done in range(1, 4 * len(made) + 1)]
    assert not (tmp_path / "whole" / TRIALS).exists()
    assert any("after 4 steps by learning rate" in line for line in settings_lines(settings, 12))


def test_find_settings_of_few_rows_makes_no_trials(find: Callable[..., list[str]], tmp_path: Path) -> None:
    assert find(tmp_path) == []
    settings = read_settings(tmp_path)
    assert (settings.learning_rate, settings.trials) == (1.2e-3, ())
    assert "by the rule for its width (the training is too short for trials)" in settings_lines(settings, 12)[0]


@pytest.mark.parametrize(("learned", "epochs"), [(False, 10), (True, 4)])
def test_find_settings_trains_longer_where_no_trial_learned(
    find: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, learned: bool, epochs: int
) -> None:
    monkeypatch.setattr(rules, "TRIAL_STEPS", (1, 1))
    monkeypatch.setattr(rules, "epochs", lambda *_: 4)
    if not learned:  # as good as the frequencies of the labels, 1 to 1
        monkeypatch.setattr(teacher_trials, "held_out_figures", lambda *_, **__: HeldOut(math.log(2), 0.5, 0.3))
    else:
        monkeypatch.setattr(teacher_trials, "held_out_figures", lambda *_, **__: HeldOut(0.6, 0.5, 0.3))
    find(tmp_path)
    settings = read_settings(tmp_path)
    assert settings.epochs == epochs
    assert any("more epochs than usual" in line for line in settings_lines(settings, 4)) is not learned


def test_weights_must_gain_more_macro_f1_than_they_cost() -> None:
    plain = HeldOut(1.0, 0.90, 0.50)
    assert weights_help(plain, HeldOut(1.0, 0.89, 0.60))
    assert not weights_help(plain, HeldOut(1.0, 0.80, 0.60))
    assert not weights_help(plain, HeldOut(1.0, 0.90, 0.505))


def test_train_found_teacher_extends_while_validation_rises(
    whole: Checkpoint, rows: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def still_rising(scores: Any, validation_rows: int) -> bool:
        asked.append(len(scores))
        return len(asked) == 1

    monkeypatch.setattr(rules, "still_rising", still_rising)
    train_found_teacher(tmp_path, checkpoint=whole, rows=rows, settings=SETTINGS, seed=0, progress=lambda *_: None)
    assert asked == [4, 7]  # each training is evaluated about four times
    record = json.loads((tmp_path / "training.json").read_bytes())
    course = training_record(tmp_path, SETTINGS, train_rows=len(rows.train), validation_rows=len(rows.validation))
    assert course is not None and course.epochs == 3 and len(course.scores) == 7
    assert max(course.scores) == round(record["scores"][str(record["best_step"])], 4)


def test_train_found_teacher_keeps_the_embeddings(whole: Checkpoint, rows: TokenizedDataset, tmp_path: Path) -> None:
    train_found_teacher(tmp_path, checkpoint=whole, rows=rows, settings=SETTINGS, seed=0, progress=lambda *_: None)
    labels, kind = rows.dataset.label_names, rows.dataset.problem_type
    before, after = (
        dict(load_classifier(folder, labels, kind).named_parameters()) for folder in (whole.folder, tmp_path)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(".encoder." in name for name in changed)
    assert any(".embeddings." in name for name in before.keys() - changed)
    assert not any(".embeddings." in name for name in changed)


def test_found_teacher_is_a_result_of_its_plan(
    whole: Checkpoint, tiny_recipe: Path, sentiment_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "TRIAL_STEPS", (10**6, 10**6))  # no trial
    monkeypatch.setattr(rules, "MAX_EPOCHS", 1)
    recipe = load_recipe(tiny_recipe, overrides={"teacher": "auto"})
    job = Job("tiny", recipe, whole, None, load_dataset(sentiment_csv), "reviews", 0, 1)
    plan = make_plan(job, Environment.detect(), store_teacher_outputs=False)
    context = Context(Workspace(tmp_path), PlainReporter())
    settings = training_of(plan.teacher_settings, job, context)
    assert settings == TrainingSettings(learning_rate=1.2e-3, epochs=1, batch_size=16)
    folder = context.checkpoint(plan.teacher, whole.name).folder
    course = training_record(folder, settings, train_rows=len(job.dataset.train), validation_rows=12)
    assert course is not None and course.epochs == 1


def test_found_settings_of_a_teacher_that_learns_soft_labels_have_no_class_weights(
    whole: Checkpoint, tiny_recipe: Path, sentiment_csv: Path, tmp_path: Path
) -> None:
    (tmp_path / "settings.json").write_text(SETTINGS.model_dump_json())
    hard = Job("tiny", load_recipe(tiny_recipe), whole, None, load_dataset(sentiment_csv), "reviews", 0, 1)
    rows = [f'the film {i},"{{""good"": 0.{1 + i % 9}, ""bad"": 0.{9 - i % 9}}}"' for i in range(60)]
    (tmp_path / "soft.csv").write_text("\n".join(["text,label", *rows]))
    soft = replace(hard, dataset=load_dataset(tmp_path / "soft.csv"))
    assert found_settings(hard, tmp_path).class_weights
    assert not found_settings(soft, tmp_path).class_weights


def test_found_settings_pass_less_often_over_many_unlabeled_rows(
    whole: Checkpoint, tiny_recipe: Path, sentiment_csv: Path, tmp_path: Path
) -> None:
    few = SETTINGS.model_copy(update={"epochs": 12.0})
    (tmp_path / "settings.json").write_text(few.model_dump_json())
    dataset = load_dataset(sentiment_csv)
    (tmp_path / "more.txt").write_text("\n".join(f"film {row}" for row in range(6_000)))
    job = Job("tiny", load_recipe(tiny_recipe), whole, None, dataset, "reviews", 0, 1)
    more = replace(job, unlabeled=load_unlabeled(tmp_path / "more.txt", dataset))
    assert found_settings(more, tmp_path).epochs == 12, "only the student learns them"
    assert found_settings(replace(more, bigger_teacher=whole), tmp_path).epochs == 4
