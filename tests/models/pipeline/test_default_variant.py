"""The choice of the variant that answers by default: int8 unless it measurably loses accuracy on validation rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparserve.models.bundle.variants import Arm, Variant
from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.pipeline.default_variant import choice_steps, choose_default
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.plan import Plan, plan_job
from sparserve.models.pipeline.stages.prediction import LOGITS
from sparserve.models.pipeline.step_cache import Context, Workspace
from sparserve.models.progress import PlainReporter
from sparserve.models.recipes.loading import load_recipe

FP32, INT8 = Variant("sparse60"), Variant("sparse60", "int8")


@pytest.fixture(scope="module")
def plan(whole: Checkpoint, tiny_recipe: Path, sentiment_csv: Path) -> Plan:
    return plan_job(Job("tiny", load_recipe(tiny_recipe), whole, None, load_dataset(sentiment_csv), "reviews", 0, 1))


def choose(plan: Plan, folder: Path, wrong_rows: int) -> Variant:
    """Return the choice if the int8 variant gets so many more validation rows wrong than the fp32 variant."""
    workspace = Workspace(folder)
    truth = np.eye(2, dtype=np.float32)[np.asarray(plan.job.dataset.validation.labels)]
    worse = truth.copy()
    worse[:wrong_rows] = 1 - worse[:wrong_rows]
    for arm, step in plan.validations.items():
        workspace.path(step).mkdir(parents=True)
        np.save(workspace.path(step) / LOGITS, worse if arm.variant.is_int8 else truth)
    return choose_default(plan, Context(workspace, PlainReporter()), set(plan.validations))


def test_choose_default_takes_int8_without_a_measurable_loss(plan: Plan, tmp_path: Path) -> None:
    assert choose(plan, tmp_path, wrong_rows=0) == INT8
    # Exact McNemar: p = 0.06 for 5 rows of 5.
    assert choose(plan, tmp_path / "five", wrong_rows=5) == INT8


def test_choose_default_takes_fp32_if_int8_loses_accuracy(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # p = 0.03 for 6 rows of 6.
    assert choose(plan, tmp_path, wrong_rows=6) == FP32
    assert "sparse60-int8 loses accuracy, so sparse60 is the default" in capsys.readouterr().out


def test_choose_default_of_numbers_compares_squared_errors(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"the film number {row},{row % 7}.5" for row in range(200)]
    (tmp_path / "numbers.csv").write_text("\n".join(["text,rating", *rows]), encoding="utf-8")
    dataset = load_dataset(tmp_path / "numbers.csv", label_column="rating", head="number")
    numbers = plan_job(replace(plan.job, dataset=dataset), plan.environment)
    truth = np.asarray(dataset.validation.labels, dtype=np.float32)[:, None]
    noise = np.resize([0.1, 0.5], truth.shape).astype(np.float32)
    for name, shift, best in (("shifted", 0.001, INT8), ("worse", 0.1, FP32)):
        context = Context(Workspace(tmp_path / name), PlainReporter())
        for arm, step in numbers.validations.items():
            context.workspace.path(step).mkdir(parents=True)
            scores = truth + noise + (shift if arm.variant.is_int8 else 0)
            np.save(context.workspace.path(step) / LOGITS, scores)
        assert choose_default(numbers, context, set(numbers.validations)) == best
    assert "the root mean squared error of sparse60 is" in capsys.readouterr().out


def test_choose_default_takes_fp32_if_there_is_no_int8(plan: Plan, tmp_path: Path) -> None:
    quantization = plan.job.recipe.quantization.model_copy(update={"enabled": False})
    recipe = plan.job.recipe.model_copy(update={"quantization": quantization})
    unquantized = plan_job(replace(plan.job, recipe=recipe), plan.environment)
    assert not choice_steps(unquantized)
    context = Context(Workspace(tmp_path), PlainReporter())
    assert choose_default(unquantized, context, {Arm(FP32)}) == FP32
