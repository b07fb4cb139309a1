"""The student: started from a checkpoint, squeezed, then pruned while it is distilled."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import Collator, TokenizedDataset, TokenizedSplit
from sparserve.models.distributed import is_main, unwrapped
from sparserve.models.encoders.checkpoint import PRUNED, Checkpoint, load_classifier
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.encoders.shrinking import kept_dimensions, shrink
from sparserve.models.pruning.one_shot import prune_once
from sparserve.models.pruning.pruner import MASKS, PruningCallback
from sparserve.models.pruning.registry import make_unit_method
from sparserve.models.recipes.schema import Distillation, Pruning, Recipe, Squeeze
from sparserve.models.training.checkpoints import TRAINING, finish, is_trained, on_device
from sparserve.models.training.distillation import distillation_loss, labels_loss, make_projection
from sparserve.models.training.target_logits import TargetLogits
from sparserve.models.training.teacher_outputs import (
    CachedTeacher,
    LiveTeacher,
    RequiredOutputs,
    TeacherSource,
    run_network,
)
from sparserve.models.training.trainer import ResumableCallback, TrainingRows, train
from sparserve.models.types import Loss, Progress

PROJECTION = "distillation_projection"
CALIBRATION_BATCH = 32


def squeeze_student(
    folder: Path,
    *,
    recipe: Recipe,
    squeeze: Squeeze,
    start: Checkpoint,
    rows: TokenizedDataset,
    seed: int,
    progress: Progress,
) -> None:
    """Remove whole units from the start network, chosen on calibration rows of the training split."""
    model = on_device(start_network(recipe, start, rows.dataset, seed)).eval()
    device = next(model.parameters()).device
    batches = list(calibration_batches(rows.train, squeeze.calibration, start, seed, device=device))
    progress(0, 1, f"{len(batches)} calibration batches")
    make_unit_method(squeeze).apply(model, batches, squeeze)
    if (start.folder / PRUNED).is_file():
        shutil.copy(start.folder / PRUNED, folder)
    finish(folder, model, start)


@dataclass(frozen=True)
class StudentInputs:
    """All that decides a student's training besides its recipe.

    Attributes:
        start: the initial network, squeezed if the recipe says so.
        teacher: the dense teacher, whose outputs are in `teacher_cache` if they are stored.
        targets: logits [rows, labels] to learn in place of the teacher's, in the rows that have some (others are NaN).
    """

    start: Checkpoint
    teacher: Checkpoint
    teacher_cache: Path | None
    rows: TokenizedDataset
    seed: int
    targets: npt.NDArray[np.float32] | None = None


def train_student(
    folder: Path, recipe: Recipe, inputs: StudentInputs, *, progress: Progress, validate: bool = True
) -> None:
    """Prune while distilling (SparseBERT), or while fine-tuning if the recipe has no distillation.

    The result has the last weights, not those of the best epoch, because earlier weights are less sparse. Without
    epochs, pruning is one-shot. A start that was pruned keeps its zeros. Without `validate` the student has no scores
    on validation.
    """
    if is_trained(folder):
        return
    start, teacher, rows, seed = inputs.start, inputs.teacher, inputs.rows, inputs.seed
    dataset = rows.dataset
    model = start_network(recipe, start, dataset, seed)
    loss: Loss | None = None
    if recipe.distillation is not None and recipe.student.epochs:
        attach_projection(model, teacher)
        required = required_outputs(recipe.distillation)
        source: TeacherSource
        if inputs.teacher_cache is not None:
            source = CachedTeacher(inputs.teacher_cache)
        else:
            source = LiveTeacher(load_classifier(teacher.folder, dataset.label_names, dataset.problem_type), required)
        if inputs.targets is not None:
            source = TargetLogits(inputs.targets, source)
        loss = student_loss(source, recipe.distillation, multi_label=dataset.multi_label)
    result = None
    # Zeros of a pruned start stay zero even if this recipe does not prune.
    pruned = (start.folder / PRUNED).is_file()
    pruning = recipe.pruning or (Pruning(sparsity=0.0) if pruned else None)
    if recipe.student.epochs:

        def make_callback(checkpoint: Path | None) -> PruningCallback:
            assert pruning is not None
            return PruningCallback(model, pruning, resume_from=checkpoint, keep_zeros=pruned)

        result = train(
            model,
            recipe.student,
            TrainingRows(rows.train, rows.validation if validate else None, start.pad_token_id, dataset.multi_label),
            seed=seed,
            folder=folder / TRAINING,
            progress=progress,
            loss=loss,
            callbacks=[ResumableCallback(make_callback, MASKS)] if pruning else [],
            keep_best=False,
        )
    elif pruning is not None:
        model = on_device(model)
        device = next(model.parameters()).device
        batches = list(calibration_batches(rows.train, pruning.calibration, start, seed, device=device))
        prune_once(model, pruning, batches, len(batches), loss=label_loss, progress=progress, keep_zeros=pruned)
    if hasattr(model, PROJECTION):
        delattr(model, PROJECTION)
    if pruning is not None and is_main():
        plan = {"pruning": pruning.model_dump(mode="json"), "matrices": sorted(encoder_linears(model))}
        (folder / PRUNED).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    finish(folder, model, start, result)


def start_network(recipe: Recipe, start: Checkpoint, dataset: Dataset, seed: int) -> nn.Module:
    """Load the initial network of the student, with fewer layers or a smaller width if the recipe says so."""
    model = load_classifier(start.folder, dataset.label_names, dataset.problem_type, seed=seed)
    return shrink(model, recipe.student)


def calibration_rows(total: int, count: int, seed: int) -> list[int]:
    """Draw up to `count` of `total` row numbers without replacement."""
    rows: list[int] = np.random.default_rng(seed).permutation(total)[:count].tolist()
    return rows


def calibration_batches(
    rows: TokenizedSplit, count: int, checkpoint: Checkpoint, seed: int, *, device: torch.device
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of similar length over up to `count` random rows: the network's inputs, and `row`."""
    order = sorted(calibration_rows(len(rows), count, seed), key=lambda row: (rows.lengths[row], row))
    collate = Collator(checkpoint.pad_token_id)
    batches = [order[begin : begin + CALIBRATION_BATCH] for begin in range(0, len(order), CALIBRATION_BATCH)]
    for index in np.random.default_rng(seed).permutation(len(batches)):
        batch = collate([rows[row] for row in batches[index]])
        yield {name: value.to(device) for name, value in batch.items()}


def attach_projection(model: nn.Module, teacher: Checkpoint) -> None:
    """Add a trainable projection to the teacher's width to a network that is narrower than its teacher."""
    width = next(iter(encoder_linears(model).values())).in_features
    if width != teacher.hidden_size:
        config: Any = teacher.config
        squeezed = teacher.hidden_size != config.hidden_size
        dimensions = None if squeezed else kept_dimensions(model, teacher.hidden_size)
        model.add_module(PROJECTION, make_projection(width, teacher.hidden_size, dimensions=dimensions))


def required_outputs(distillation: Distillation) -> RequiredOutputs:
    """Return the outputs, besides the logits, that the losses of a recipe need."""
    return RequiredOutputs(
        hidden=distillation.hidden > 0 or distillation.cosine > 0, attention=distillation.attention > 0
    )


def label_loss(model: nn.Module, inputs: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Return the network's loss on the gold labels."""
    loss: torch.Tensor = model(**inputs).loss
    return loss


def student_loss(
    teacher: TeacherSource, distillation: Distillation, *, multi_label: bool
) -> Callable[[nn.Module, dict[str, torch.Tensor], torch.Tensor], torch.Tensor]:
    """Return the distillation loss in the form that `trainer.train` takes."""
    required = required_outputs(distillation)

    def loss(model: nn.Module, inputs: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        network = unwrapped(model)
        model.config = network.config  # the forward pass must go through the wrapper
        student = run_network(model, inputs, required)
        total = distillation_loss(
            student,
            teacher.outputs(rows, inputs),
            inputs["attention_mask"],
            distillation,
            multi_label=multi_label,
            projection=getattr(network, PROJECTION, None),
        )
        if distillation.labels:
            gold = labels_loss(student.logits, inputs["labels"], multi_label=multi_label)
            total = total + distillation.labels * gold
        elif not distillation.logits and network is not model:
            # Gradients are averaged over processes, so every parameter needs one, including the classifier's.
            total = total + 0 * student.logits.sum()
        return total

    return loss
