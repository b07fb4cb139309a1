"""`models.search.trials`: which failures are a candidate's own, and which end the search."""

import shutil
from dataclasses import dataclass, replace

import pytest

from sparserve.models.bundle.store import Store
from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.errors import (
    BundleError,
    CheckpointError,
    EnvironmentFault,
    ParityError,
    RecipeError,
    TrainingError,
)
from sparserve.models.pipeline.job import Run
from sparserve.models.pipeline.plan import Job, make_plan
from sparserve.models.pipeline.step_cache import Workspace
from sparserve.models.progress import PlainReporter
from sparserve.models.pruning.weights.magnitude import Magnitude
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.search.ladders import make_ladder
from sparserve.models.search.output import trial_line
from sparserve.models.search.search import search
from sparserve.models.search.session import Search
from sparserve.models.search.targets import parse_target
from sparserve.models.search.trials import RunTrials

TARGETS = [parse_target("size<=58KB")]


@dataclass(frozen=True)
class Failing(Run):
    """A run whose steps make nothing, up to one that fails: the first whose title begins with `title`."""

    error: BaseException
    title: str

    def execute(self, reporter, *, answering=None):
        for step in self.plan.steps:
            if step.title.startswith(self.title):
                raise self.error
            self.workspace.path(step).mkdir(parents=True, exist_ok=True)
        raise self.error


@pytest.fixture
def prepared(whole, sentiment_csv, tiny_recipe, tmp_path):
    job = Job("tiny", load_recipe(tiny_recipe), whole, None, load_dataset(sentiment_csv), "reviews", 0, 1)
    return Failing(make_plan(job), Store(tmp_path), Workspace(tmp_path / "work"), RuntimeError(), "")


def tried(prepared, error, title):
    """The trials of a search over three levels, each of which fails so."""
    recipe = prepared.plan.job.recipe
    ladder = make_ladder(recipe.name, recipe, layers=2, levels=[0.5, 0.6, 0.7])
    run = replace(prepared, error=error, title=title)
    return search([ladder], TARGETS, RunTrials(run, PlainReporter()))


def test_a_record_is_of_the_checkpoint_and_the_code_of_every_recipe(prepared, whole, tmp_path, monkeypatch):
    first, recipe = load_recipe("post-training"), prepared.plan.job.recipe
    ladders = tuple(make_ladder(one.name, one, layers=2) for one in (first, recipe))
    folder = shutil.copytree(whole.folder, tmp_path / "other")
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")

    def digest(checkpoint):
        # The first recipe starts from the teacher that is given, the other from the checkpoint.
        job = replace(prepared.plan.job, recipe=first, checkpoint=checkpoint, teacher=whole)
        return Search(tuple(TARGETS), ladders, replace(prepared, plan=make_plan(job)), tmp_path).digest

    before = digest(whole)
    assert digest(whole) == before
    assert digest(resolve_checkpoint(str(folder))) != before
    monkeypatch.setattr(Magnitude, "revision", 2)
    assert digest(whole) != before


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (TrainingError("the loss is nan"), "student"),
        (CheckpointError("no such operator"), "student"),
        (CheckpointError("it cannot be exported"), "export tiny"),
        (ParityError("the logits differ by 0.3"), "export tiny"),
        (RecipeError("a rank of 40"), "export tiny"),
        (TrainingError("the logits are not finite"), "none of them"),
    ],
)
def test_what_a_candidate_fails_with_is_shown_and_the_search_goes_on(prepared, error, title):
    trials = tried(prepared, error, title)
    assert len(trials) > 1
    for trial in trials:
        assert trial.outcome.failure == str(error)
        assert trial_line(trial, TARGETS) == f"{trial.candidate.title}: failed: {error}"


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (EnvironmentFault("the disk is full"), "student"),
        (BundleError("another bundle is damaged"), "export tiny"),
        (KeyboardInterrupt(), "student"),
        (TrainingError("the loss is nan"), "teacher"),
        (ParityError("the logits differ by 0.3"), "export dense"),
        (CheckpointError("it cannot be quantised"), "export dense-int8"),
    ],
)
def test_what_no_candidate_can_help_ends_the_search(prepared, error, title):
    with pytest.raises(type(error)) as raised:
        tried(prepared, error, title)
    assert raised.value is error
