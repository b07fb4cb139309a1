"""Plans: the key of every step, its dependencies, and that making a plan is pure."""

import builtins
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sparserve.models.bundle.manifest import Machine
from sparserve.models.data.loading import load_dataset
from sparserve.models.data.unlabeled import load_unlabeled
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.pipeline.estimate import Costs
from sparserve.models.pipeline.inputs import LIBRARIES, Environment, Job, SparseRuntime
from sparserve.models.pipeline.plan import Plan, make_plan, plan_job
from sparserve.models.pipeline.stages import teacher
from sparserve.models.pipeline.stages.student_settings import student_search_line
from sparserve.models.pipeline.stages.teacher_outputs import teacher_outputs_fit
from sparserve.models.pipeline.stages.teacher_settings import teacher_search_line
from sparserve.models.pruning.weights.magnitude import Magnitude
from sparserve.models.recipes.loading import load_recipe, shipped_recipes
from sparserve.models.training.tuning import rules
from tests.support.models.small_recipes import small_fields

MACHINE = Machine(
    cpu="a CPU",
    isa=("avx2",),
    cores=2,
    memory_bytes=2**34,
    system="Linux 6.1 x86_64",
    python="3.11",
    onnxruntime="1.31",
)
ENVIRONMENT = Environment(
    dict.fromkeys(LIBRARIES, "1.0"), MACHINE, 2, SparseRuntime(Path("lib.so"), "avx2 " + "0" * 64)
)
WITHOUT_RUNTIME = replace(ENVIRONMENT, sparse_runtime=None)
RECORDED: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("step_keys.json").read_text())
CHANGED: dict[str, dict[str, Any]] = {
    "demo, a live teacher": {"distillation.cache_bytes": 0},
    "demo, no int8": {"quantization.enabled": False},
}
Keys = Callable[..., dict[str, str]]


def keys_of(plan: Plan) -> dict[str, str]:
    return {step.name: step.key for step in plan.steps}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after.get(name)}


@pytest.fixture(scope="module")
def job(whole: Checkpoint, tiny_recipe: Path, sentiment_csv: Path) -> Job:
    return Job("tiny", load_recipe(tiny_recipe), whole, None, load_dataset(sentiment_csv), "reviews", 0, 1)


@pytest.fixture(scope="module")
def keys(job: Job, tiny_recipe: Path) -> Keys:
    """Step keys by name, of the tiny recipe with some fields changed."""

    def make(**fields: Any) -> dict[str, str]:
        overrides = {name.replace("__", "."): value for name, value in fields.items()}
        return keys_of(plan_job(replace(job, recipe=load_recipe(tiny_recipe, overrides=overrides)), ENVIRONMENT))

    return make


@pytest.mark.parametrize("case", RECORDED)
def test_plan_has_the_recorded_keys(case: str, whole: Checkpoint, tmp_path: Path) -> None:
    """Caches of earlier releases stay valid: the record was made before steps were objects."""
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"good film {row},{row % 2}\n" for row in range(120)))
    # Temperature scaling is newer than the record; it changes the exports and what is made of them. Teachers that find
    # their training are newer, too: the record has the settings that the recipes fixed before. So are more passes over
    # few rows, for which the keys of given epochs stay, and rates by width, for which those of given rates stay.
    name = case.partition(",")[0]
    fixed: dict[str, Any] = (
        {} if name.startswith("demo") else {"teacher": {"epochs": 4, "batch_size": 32, "learning_rate": 5e-5}}
    )
    for field in ("epochs", "learning_rate"):
        fixed[f"student.{field}"] = getattr(load_recipe(name).student, field)
    overrides = {"temperature_scaling": False, **fixed, **CHANGED.get(case, {})}
    recipe = load_recipe(name, overrides=overrides)
    checkpoint = replace(whole, digest="a" * 64, name="tiny-bert")
    given = replace(whole, digest="b" * 64, name="tiny-teacher") if "given teacher" in case else None
    job = Job("tiny", recipe, checkpoint, given, load_dataset(tmp_path / "rows.csv"), "reviews", 0, 1)
    plan = plan_job(job, WITHOUT_RUNTIME if "no library" in case else ENVIRONMENT)
    assert keys_of(plan) == RECORDED[case]


def test_plan_of_a_found_teacher_has_a_search(job: Job, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(teacher: Checkpoint | None) -> Plan:
        recipe = load_recipe(tiny_recipe, overrides={"teacher": "auto"})
        return make_plan(replace(job, recipe=recipe, teacher=teacher), ENVIRONMENT, store_teacher_outputs=True)

    costs = Costs(1e-6, train=10_000, validation=1_000, test=1_000)
    short = made(None)
    assert short.teacher_settings is not None and short.teacher_settings.estimate(costs) == 0
    assert "learning rate 0.0012, without trials, as it has few steps, then 12" in teacher_search_line(short.job, costs)
    monkeypatch.setattr(rules, "TRIAL_STEPS", (2, 500))
    plan = made(None)
    assert plan.teacher_settings is not None and plan.teacher_settings.key != short.teacher_settings.key
    assert plan.teacher.needs == (plan.teacher_settings,)
    assert {"teacher settings", "teacher"} <= plan.baseline_steps
    assert 0 < plan.teacher_settings.estimate(costs) < plan.teacher.estimate(costs)
    line = teacher_search_line(plan.job, costs)
    assert "up to 4 trials of 14 steps around the learning rate 0.0012, then 12" in line
    assert made(job.checkpoint).teacher_settings is None


def test_plan_of_a_found_student_has_a_search(job: Job, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(**overrides: Any) -> Plan:
        recipe = load_recipe(tiny_recipe, overrides=overrides)
        return make_plan(replace(job, recipe=recipe), ENVIRONMENT, store_teacher_outputs=True)

    plan, fixed = made(**{"student.learning_rate": "auto"}), made()
    assert plan.student_settings is not None and plan.student_settings in plan.student.needs
    assert fixed.student_settings is None
    names = [step.name for step in plan.steps]
    assert names.index("teacher outputs") < names.index("student settings") < names.index("student")
    assert "student settings" not in plan.baseline_steps
    costs = Costs(1e-6, train=10_000, validation=1_000, test=1_000)
    assert plan.student_settings.estimate(costs) == 0, "the student has too few steps for trials"
    many = Costs(1e-6, train=10_000, validation=10**9, test=1_000)
    assert plan.student_settings.estimate(many) == 0
    monkeypatch.setattr(rules, "TRIAL_STEPS", (1, 500))
    assert 0 < plan.student_settings.estimate(costs) <= 0.8 * plan.student.estimate(costs)
    assert "up to 4 trials of 9 steps around 0.024" in student_search_line(plan.lesson, costs)
    assert changed(keys_of(fixed), keys_of(plan)) >= {"student", "export sparse60"}
    assert not {"teacher", "teacher outputs", "export dense"} & changed(keys_of(fixed), keys_of(plan))


def test_plan_passes_over_few_rows_more_often(job: Job, tiny_recipe: Path) -> None:
    fixed = {"student.epochs": 4, "student.batch_size": 8}
    few = load_recipe(tiny_recipe, overrides={**fixed, "student.least_steps": 100})
    student = plan_job(replace(job, recipe=few)).job.recipe.student
    assert student.epochs == math.ceil(100 / math.ceil(len(job.dataset.train) / 8)) > 4
    assert student.least_steps == 0
    assert plan_job(replace(job, recipe=load_recipe(tiny_recipe, overrides=fixed))).job.recipe.student.epochs == 4
    more = load_recipe(
        tiny_recipe, overrides={**fixed, "student.least_steps": 100, "augmentation": {"variants": 2, "candidates": 2}}
    )
    augmented = plan_job(replace(job, recipe=more)).job.recipe.student
    assert augmented.epochs == max(math.ceil(100 / math.ceil(3 * len(job.dataset.train) / 8)), 4) < student.epochs


def test_plan_scales_the_learning_rate_with_the_width(job: Job, tiny_recipe: Path) -> None:
    def rate(**overrides: Any) -> float | None:
        fields = {"student.reference_width": 64, **overrides}
        student = plan_job(replace(job, recipe=load_recipe(tiny_recipe, overrides=fields))).job.recipe.student
        assert student.reference_width is None or student.learning_rate is None
        return student.learning_rate

    own = load_recipe(tiny_recipe).student.learning_rate
    assert job.checkpoint.hidden_size == 32 and rate() == pytest.approx(2 * (own or 0))
    assert rate(**{"student.reference_width": 32}) == own
    assert rate(**{"student.learning_rate": "auto"}) is None


def test_job_counts_the_windows_of_long_texts_as_rows(job: Job, tiny_recipe: Path) -> None:
    overrides = {"max_length": 8, "long_texts": {"overlong": "windows", "stride": 2}}
    windowed = replace(job, recipe=load_recipe(tiny_recipe, overrides=overrides))
    for split in ("train", "validation"):
        texts = len(getattr(job.dataset, split))
        assert job.row_count(split) == texts < windowed.row_count(split)
    assert windowed.row_count("train") == len(windowed.rows(windowed.checkpoint).train)


def test_plan_keys_ignore_fields_that_change_no_result(keys: Keys) -> None:
    assert not changed(keys(), keys(teacher__save_steps=7, student__save_steps=7, pruning__calibration=5))
    assert not changed(keys(), keys(distillation__cache_bytes=5e8))


def test_plan_of_a_live_teacher_makes_another_student(keys: Keys) -> None:
    # Stored outputs are rounded to 16 bits.
    assert "student" in changed(keys(), keys(distillation__cache_bytes=0))


def test_plan_of_another_recipe_keeps_the_baseline(keys: Keys) -> None:
    names = changed(keys(), keys(pruning__updates=11))
    assert "student" in names
    assert not {"teacher", "teacher outputs", "export dense", "export dense-int8", "predict dense"} & names


def test_plan_of_other_embedding_bits_keeps_the_baseline(keys: Keys) -> None:
    names = changed(keys(), keys(quantization__embedding_bits=4))
    assert "export sparse60-int8" in names
    assert "export dense-int8" not in names


def test_plan_with_temperature_scaling_keeps_the_networks(keys: Keys) -> None:
    names = changed(keys(), keys(temperature_scaling=True))
    assert {"export dense", "export dense-int8", "export sparse60"} <= names
    assert not {"teacher", "teacher outputs", "student"} & names


def test_plan_with_windows_trains_and_predicts_with_them(keys: Keys) -> None:
    assert not changed(keys(), keys(long_texts__overlong="error"))
    assert not changed(keys(), keys(long_texts__overlong="windows", long_texts__aggregate="first"))
    names = changed(keys(), keys(long_texts__overlong="windows"))
    assert {"teacher", "student", "predict dense"} <= names


def test_plan_with_unlabelled_rows_changes_the_student_alone(
    job: Job, keys: Keys, tiny_recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "more.txt").write_text("a fine film\na dull one\n")
    more = replace(job, unlabeled=load_unlabeled(tmp_path / "more.txt", job.dataset))
    names = changed(keys(), keys_of(plan_job(more, ENVIRONMENT)))
    assert {"teacher outputs", "student", "export sparse60"} <= names
    assert not {"teacher", "export dense", "export dense-int8", "predict dense"} & names
    # A recipe whose student learns from labels, or is not trained, has no use for them.
    labels_only = replace(more, recipe=load_recipe(tiny_recipe, overrides={"distillation": None}))
    assert keys_of(plan_job(labels_only, ENVIRONMENT)) == keys_of(
        plan_job(replace(labels_only, unlabeled=None), ENVIRONMENT)
    )


def test_plan_keys_depend_on_the_revision_of_the_code(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys()
    monkeypatch.setattr(Magnitude, "revision", 2)
    names = changed(before, keys())
    assert "student" in names
    assert "teacher" not in names
    monkeypatch.setattr(teacher, "REVISION", 2)
    assert {"teacher", "teacher outputs", "student", "export dense"} <= changed(before, keys())


def test_plan_packs_networks_with_silu_again(job: Job, whole: Checkpoint, tmp_path: Path) -> None:
    """Caches hold the refusals of releases whose sparse runtime had no SiLU."""
    folder = tmp_path / "silu"
    shutil.copytree(whole.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "silu"}))
    silu = replace(job, checkpoint=replace(whole, folder=folder))
    before, after = (keys_of(plan_job(one, ENVIRONMENT)) for one in (job, silu))
    packed = {name for name in before if name.startswith("pack ")}
    assert packed
    assert packed <= changed(before, after)
    assert not {"teacher", "student", "export dense"} & changed(before, after)


def test_small_recipes_train_different_students(job: Job) -> None:
    """Runs of all recipes share a cache, and each of them is killed in its student."""
    recipes = [load_recipe(name, overrides=small_fields(load_recipe(name))) for name in shipped_recipes()]
    plans = [plan_job(replace(job, recipe=recipe), ENVIRONMENT) for recipe in recipes]
    assert len({plan.student.key for plan in plans}) == len(recipes)


def test_plan_lists_a_step_after_the_steps_that_it_needs(job: Job) -> None:
    plan = plan_job(job, ENVIRONMENT)
    names = [step.name for step in plan.steps]
    for place, step in enumerate(plan.steps):
        assert {needed.name for needed in step.needs} <= set(names[:place])


def test_plan_is_pure(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = teacher_outputs_fit(job)

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a plan must not read, probe or tokenise")

    for name in ("sparserve.kernels.library.find_library", "sparserve.models.data.tokenization.tokenize"):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    plan = make_plan(job, ENVIRONMENT, store_teacher_outputs=stored)
    assert keys_of(plan)["student"]
