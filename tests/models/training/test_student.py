"""Students with squeezed or pruned starts, and killed runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparserve.models.data.loading import load_dataset
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.checkpoint import PRUNED, load_classifier, resolve_checkpoint, save_classifier
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.encoders.squeezing import squeeze, structure_of
from sparserve.models.pipeline.execution import train_networks
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.plan import plan_job
from sparserve.models.pipeline.step_cache import Context, Workspace
from sparserve.models.progress import PlainReporter
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.training.student import StudentInputs, train_student
from tests.support.models.squeezed import HIDDEN, UNEVEN, network_of

NARROW = UNEVEN.model_copy(update={"hidden": tuple(range(HIDDEN - 8))})
QUICK = {"teacher.epochs": 1, "student.epochs": 1, "distillation.attention": 0}


class Killed(BaseException):
    """Simulates kill -9: nothing catches it."""


@pytest.fixture(scope="module")
def dataset(sentiment_csv: Path) -> Any:
    return load_dataset(sentiment_csv)


@pytest.fixture(scope="module")
def squeezed(make_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, whole: Any) -> Any:
    """A BERT with uneven layers, fewer hidden dimensions and one pruned matrix."""
    folder = tmp_path_factory.mktemp("squeezed")
    model = network_of(make_checkpoint, "bert")
    squeeze(model, NARROW)
    name, linear = next(iter(encoder_linears(model).items()))
    with torch.no_grad():
        linear.weight[:, ::2] = 0
    save_classifier(model, folder)
    (folder / PRUNED).write_text(json.dumps({"pruning": {}, "matrices": [name]}))
    whole.save_tokenizer(folder)
    return resolve_checkpoint(str(folder))


def made(workspace: Any, recipe: Any, checkpoint: Any, teacher: Any, dataset: Any) -> Any:
    plan = plan_job(Job("tiny", recipe, checkpoint, teacher, dataset, "reviews", 0, 1))
    _, student = train_networks(plan, Context(workspace, PlainReporter()))
    return load_classifier(student.folder, dataset.label_names, dataset.problem_type), student


@pytest.mark.slow
@pytest.mark.parametrize("cache_bytes", [0, 1e9], ids=["live", "cached"])
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_train_networks_with_squeezed_student_and_teacher(
    who: Any, cache_bytes: float, squeezed: Any, whole: Any, dataset: Any, tiny_recipe: Any, tmp_path: Path
) -> None:
    recipe = load_recipe(tiny_recipe, overrides={**QUICK, "distillation.cache_bytes": cache_bytes, "pruning": None})
    start = whole if who == "teacher" else squeezed
    teacher = None if who == "student" else squeezed
    model, _ = made(Workspace(tmp_path), recipe, start, teacher, dataset)
    assert structure_of(model) == (NARROW if start is squeezed else None)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@pytest.mark.slow
def test_train_student_keeps_zeros_of_pruned_start(
    squeezed: Any, dataset: Any, tiny_recipe: Any, tmp_path: Path
) -> None:
    before = load_file(squeezed.folder / "model.safetensors")
    for pruning in ({"pruning": None}, {"pruning.sparsity": 0.6}):
        recipe = load_recipe(tiny_recipe, overrides={**QUICK, **pruning})
        model, student = made(Workspace(tmp_path), recipe, squeezed, None, dataset)
        for name, linear in encoder_linears(model).items():
            zeros = before[f"{name}.weight"] == 0
            assert bool((linear.weight[zeros] == 0).all())
            assert not torch.equal(linear.weight, before[f"{name}.weight"])
        assert (student.folder / PRUNED).is_file()


@pytest.mark.slow
def test_train_student_resumes_narrow_student_exactly(
    squeezed: Any, whole: Any, dataset: Any, tiny_recipe: Any, tmp_path: Path
) -> None:
    recipe = load_recipe(tiny_recipe, overrides={**QUICK, "student.save_steps": 3})
    network_of_teacher = load_classifier(whole.folder, dataset.label_names, dataset.problem_type)
    teacher_folder = tmp_path / "teacher"
    save_classifier(network_of_teacher, teacher_folder)
    whole.save_tokenizer(teacher_folder)
    inputs = StudentInputs(
        start=squeezed,
        teacher=resolve_checkpoint(str(teacher_folder)),
        teacher_cache=None,
        rows=TokenizedDataset(dataset, squeezed.tokenizer, recipe.max_length),
        seed=0,
    )

    def kill(done: Any, total: Any, note: Any) -> None:
        if done == 8:
            raise Killed

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    train_student(tmp_path / "whole", recipe, inputs, progress=lambda *_: None)
    with pytest.raises(Killed):
        train_student(tmp_path / "killed", recipe, inputs, progress=kill)
    assert list((tmp_path / "killed" / "training").glob("checkpoint-*"))
    train_student(tmp_path / "killed", recipe, inputs, progress=lambda *_: None)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not any("projection" in name for name in first)

    # Killed once more, while the states that it resumed from were being removed.
    (tmp_path / "killed" / "training" / "best").mkdir(parents=True)
    heard = []
    train_student(tmp_path / "killed", recipe, inputs, progress=lambda *step: heard.append(step))
    assert not heard, "trained again"
    assert not (tmp_path / "killed" / "training").exists()
