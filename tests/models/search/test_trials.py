"""Trials: failures of a candidate are recorded, failures that all candidates share end the search."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import Variant
from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.checkpoint import Checkpoint, resolve_checkpoint
from sparserve.models.errors import (
    BundleError,
    CheckpointError,
    EnvironmentFault,
    ParityError,
    RecipeError,
    TrainingError,
)
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.job import Run
from sparserve.models.pipeline.plan import plan_job
from sparserve.models.pipeline.step_cache import Workspace
from sparserve.models.progress import PlainReporter, Reporter
from sparserve.models.pruning.weights.magnitude import Magnitude
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.search.ladders import make_ladder
from sparserve.models.search.output import trial_line
from sparserve.models.search.search import Trial, search
from sparserve.models.search.session import Search
from sparserve.models.search.targets import parse_target
from sparserve.models.search.trials import RunTrials

TARGETS = [parse_target("size<=58KB")]


@dataclass(frozen=True)
class Failing(Run):
    """A run that fails at the first step whose name begins with `name`; outside of any step if there is none."""

    error: Any
    name: str

    def execute(self, reporter: Reporter, *, default: Variant | None = None) -> NoReturn:
        self.error.step = next((step.name for step in self.plan.steps if step.name.startswith(self.name)), None)
        raise self.error


@pytest.fixture
def prepared(whole: Checkpoint, sentiment_csv: Path, tiny_recipe: Path, tmp_path: Path) -> Failing:
    job = Job("tiny", load_recipe(tiny_recipe), whole, None, load_dataset(sentiment_csv), "reviews", 0, 1)
    return Failing(plan_job(job), Store(tmp_path), Workspace(tmp_path / "work"), RuntimeError(), "")


def failed_trials(prepared: Failing, error: BaseException, name: str) -> list[Trial]:
    """Return the trials of a search over three levels, each of which fails with this error at this step."""
    recipe = prepared.plan.job.recipe
    ladder = make_ladder(recipe.name, recipe, layers=2, levels=[0.5, 0.6, 0.7])
    run = replace(prepared, error=error, name=name)
    return search([ladder], TARGETS, RunTrials(run, PlainReporter()))


def test_search_digest_covers_checkpoint_and_code_of_every_recipe(
    prepared: Failing, whole: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, recipe = load_recipe("post-training"), prepared.plan.job.recipe
    ladders = tuple(make_ladder(one.name, one, layers=2) for one in (first, recipe))
    folder = shutil.copytree(whole.folder, tmp_path / "other")
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")

    def digest(checkpoint: Checkpoint) -> str:
        # The first recipe starts from the teacher that is given, the other from the checkpoint.
        job = replace(prepared.plan.job, recipe=first, checkpoint=checkpoint, teacher=whole)
        return Search(tuple(TARGETS), ladders, replace(prepared, plan=plan_job(job)), tmp_path).digest

    before = digest(whole)
    assert digest(whole) == before
    assert digest(resolve_checkpoint(str(folder))) != before
    monkeypatch.setattr(Magnitude, "revision", 2)
    assert digest(whole) != before


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (TrainingError("the loss is nan"), "student"),
        (CheckpointError("no such operator"), "student"),
        (CheckpointError("it cannot be exported"), "export tiny"),
        (ParityError("the logits differ by 0.3"), "export tiny"),
        (RecipeError("a rank of 40"), "export tiny"),
        (TrainingError("the logits are not finite"), "none of them"),
    ],
)
def test_run_trials_records_a_candidates_own_failure(prepared: Failing, error: BaseException, name: str) -> None:
    trials = failed_trials(prepared, error, name)
    assert len(trials) > 1
    for trial in trials:
        assert trial.outcome.failure == str(error)
        assert trial_line(trial, TARGETS) == f"{trial.candidate.title}: failed: {error}"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (EnvironmentFault("the disk is full"), "student"),
        (BundleError("another bundle is damaged"), "export tiny"),
        (KeyboardInterrupt(), "student"),
        (TrainingError("the loss is nan"), "teacher"),
        (ParityError("the logits differ by 0.3"), "export dense"),
        (CheckpointError("it cannot be quantised"), "export dense-int8"),
    ],
)
def test_run_trials_raises_a_failure_that_all_candidates_share(
    prepared: Failing, error: BaseException, name: str
) -> None:
    with pytest.raises(type(error)) as raised:
        failed_trials(prepared, error, name)
    assert raised.value is error
