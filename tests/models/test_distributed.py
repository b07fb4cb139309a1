"""Two processes on one job; this file is also the script that they run."""

import hashlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from sparserve.models.data.dataset import Split
from sparserve.models.data.tokenization import tokenize
from sparserve.models.distributed import everywhere, leading, rows_each
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier, resolve_checkpoint
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.errors import RecipeError, TrainingError
from sparserve.models.pipeline.execution import train_networks
from sparserve.models.pipeline.job import CompressOptions, prepare
from sparserve.models.pipeline.step_cache import Context
from sparserve.models.progress import PlainReporter
from sparserve.models.pruning.pruner import MASKS, PruningCallback
from sparserve.models.recipes.schema import Distillation, Pruning, Training
from sparserve.models.training.student import required_outputs, student_loss
from sparserve.models.training.teacher_outputs import LiveTeacher, run_network
from sparserve.models.training.trainer import ResumableCallback, TrainingRows, train

LABELS = ("bad", "good")
PRUNING = Pruning(sparsity=0.6, updates=5)
# Without dropout two processes do what one does, but for the order of sums.
RECIPE = """
name: tiny
max_length: 32
teacher: {epochs: 2, batch_size: 8, learning_rate: 1.0e-3, save_steps: 10, precision: fp32, dropout: 0}
student: {epochs: 2, batch_size: 8, learning_rate: 1.0e-3, save_steps: 10, precision: fp32, dropout: 0, hidden_size: 16}
pruning: {sparsity: 0.6, updates: 5}
distillation: {}
"""


def silent(done: int, total: int, note: str) -> None:
    """Tell of no progress."""


# What is pruned without training looks at means over processes, too.
ONE_SHOT = {
    "student": {"epochs": 0, "start": "teacher"},
    "pruning": {"method": "layerwise-obs", "sparsity": 0.5, "updates": 2, "calibration": 16},
    "distillation": None,
}


def train_both(checkpoint: Any, folder: Path, overrides: Any = None) -> Any:
    options = CompressOptions(
        recipe=str(folder.parent / "recipe.yaml"),
        model=str(checkpoint),
        data=str(folder.parent / "rows.csv"),
        task="tiny",
        teacher=None,
        overrides=overrides or {},
        data_options={},
        splits={},
        seed=0,
        threads=1,
        store=folder / "store",
        work=folder / "work",
    )
    run = prepare(options, PlainReporter())
    return train_networks(run.plan, Context(run.workspace, PlainReporter()))


def train_one(checkpoint: Checkpoint, folder: Path, *, loss: Any = None, precision: str = "fp32", progress: Any) -> Any:
    """Prune a student for a few steps, with dropout and rows of several lengths."""
    model = load_classifier(checkpoint.folder, LABELS, "single_label_classification")
    texts = [f"the {LABELS[row % 2]} movie {'very ' * (row % 7)}{row}" for row in range(44)]
    rows = tokenize(Split(texts, None, [row % 2 for row in range(44)]), checkpoint.tokenizer, 32, multi_label=False)
    training = Training(epochs=1, batch_size=8, learning_rate=1e-3, save_steps=2, precision=precision)
    train(
        model,
        training,
        TrainingRows(rows, rows, pad_token_id=0, multi_label=False),
        seed=1,
        folder=folder,
        progress=progress,
        loss=loss,
        callbacks=[ResumableCallback(lambda resume: PruningCallback(model, PRUNING, resume_from=resume), MASKS)],
        keep_best=False,
    )
    return model


def tell_digests(checkpoint: Checkpoint, folder: Path, *, progress: Any) -> None:
    """Write into `folder` what the network of each process has become, by the loss of a whole distillation."""
    wanted = required_outputs(Distillation(logits=0))
    teacher = LiveTeacher(load_classifier(checkpoint.folder, LABELS, "single_label_classification", seed=1), wanted)
    loss = student_loss(teacher, Distillation(logits=0), multi_label=False)
    model = train_one(checkpoint, folder, loss=loss, progress=progress)
    weights = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
    digests = [""] * distributed.get_world_size()
    distributed.all_gather_object(digests, hashlib.sha256(weights).hexdigest())
    (folder / f"digests-{distributed.get_rank()}").write_text("\n".join(digests))


def diverge_in_one(checkpoint: Checkpoint, folder: Path, *, progress: Any) -> None:
    """The loss of the second process is no number."""

    def loss(model: Any, inputs: Any, rows: Any) -> Any:
        return model(**inputs).loss * (float("nan") if distributed.get_rank() else 1.0)

    train_one(checkpoint, folder, loss=loss, progress=progress)


def main(path: str, target: str) -> None:
    checkpoint, folder = resolve_checkpoint(path), Path(target)
    with leading():
        with pytest.raises(RecipeError, match="batch_size is 9, which 2 processes"):
            rows_each(9)
        with pytest.raises(TrainingError, match="the loss is nan at step 1"):
            everywhere(partial(diverge_in_one, checkpoint, folder / "diverged"), silent)
        everywhere(partial(tell_digests, checkpoint, folder / "digests"), silent)
        train_both(path, folder / "two")
        train_both(path, folder / "two", ONE_SHOT)
        (folder / "done").touch()
    (folder / "left").touch()


@pytest.mark.slow
def test_two_processes_train_as_one_does(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    lines = [f"the {LABELS[row % 2]} movie {row // 10} {row % 10},{LABELS[row % 2]}" for row in range(120)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += [str(tiny_checkpoint), str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "left").exists()
    digests = (tmp_path / "digests" / "digests-0").read_text().split()
    assert len(digests) == 2 and len(set(digests)) == 1

    _, one = train_both(tiny_checkpoint, tmp_path / "one")
    _, one_shot = train_both(tiny_checkpoint, tmp_path / "one", ONE_SHOT)
    made = {path.name: path for path in (tmp_path / "two" / "work" / "steps").glob("student-*")}
    assert made.keys() == {one.folder.name, one_shot.folder.name}
    for name in encoder_linears(load_classifier(one.folder, LABELS, "single_label_classification")):
        weight = load_file(made[one_shot.folder.name] / "model.safetensors")[f"{name}.weight"]
        assert int((weight == 0).sum()) == round(0.5 * weight.numel())
    two = resolve_checkpoint(str(made[one.folder.name]))
    expected, found = (load_file(student.folder / "model.safetensors") for student in (one, two))
    off = torch.cat([(expected[name] - weight).abs().flatten() for name, weight in found.items()])
    # A weight at the border may fall to the other side of it.
    assert (off > 1e-3).float().mean() < 0.01 and off.isfinite().all()
    for name in encoder_linears(load_classifier(two.folder, LABELS, "single_label_classification")):
        weight = found[f"{name}.weight"]
        assert int((weight == 0).sum()) == round(0.6 * weight.numel())


def test_in_bf16_weights_and_losses_are_fp32(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = resolve_checkpoint(str(tiny_checkpoint))
    wanted = required_outputs(Distillation())
    seen: set[Any] = set()
    attention: set[Any] = set()

    def loss(model: Any, inputs: Any, rows: Any) -> Any:
        outputs = run_network(model, inputs, wanted)
        seen.update(tensor.dtype for tensor in (outputs.logits, *outputs.hidden))
        attention.add(model.config._attn_implementation)
        return outputs.logits.square().mean()

    model = train_one(checkpoint, tmp_path, loss=loss, precision="bf16", progress=silent)
    assert seen == {torch.float32}
    assert attention == {"eager"} and model.config._attn_implementation == "sdpa"
    for linear in encoder_linears(model).values():
        assert linear.weight.dtype == torch.float32
        assert int((linear.weight == 0).sum()) == round(0.6 * linear.weight.numel())
        assert (linear.weight.bfloat16() != linear.weight).any()


if __name__ == "__main__":
    main(*sys.argv[1:])
