"""The bigger teacher of a chain: its logits, computed once with its own tokenizer and stored."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparserve.models.data.tokenization import TokenizedSplit
from sparserve.models.encoders.any_classifier import load_any_classifier
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.pipeline.estimate import encoder_parameters
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.stages.augmentation import copies_of_training_rows, student_rows
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.training.checkpoints import on_device
from sparserve.models.training.target_logits import logits_of
from sparserve.models.training.teacher_outputs import LOGITS, RequiredOutputs, write_cache

# Raised when a change of the code makes another result of the same inputs.
REVISION = 1


def bigger_teacher_step(
    job: Job, teacher: Checkpoint, rows: Mapping[str, Any], augmentation: Step | None = None
) -> Step:
    """Return the step that stores a bigger teacher's logits of the rows that a student learns from.

    `rows` are the inputs that decide these rows.
    """

    def build(folder: Path, context: Context) -> None:
        _answer(folder, job, teacher, student_rows(job, teacher, augmentation, context).train, context)

    copies = copies_of_training_rows(job) if augmentation else 1
    return Step(
        "bigger teacher augmented" if augmentation else "bigger teacher",
        {**rows, "teacher": teacher.digest, "revision": REVISION},
        build,
        lambda costs: _times_slower(job, teacher) * costs.forward(costs.student(copies)),
        (augmentation,) if augmentation else (),
    )


def bigger_teacher_test_step(job: Job, teacher: Checkpoint, common: Mapping[str, Any]) -> Step:
    """Return the step that stores a bigger teacher's logits of the test rows, for the report."""

    def build(folder: Path, context: Context) -> None:
        _answer(folder, job, teacher, job.rows(teacher).test, context)

    return Step(
        "predict bigger teacher",
        {**common, "teacher": teacher.digest, "revision": REVISION},
        build,
        lambda costs: _times_slower(job, teacher) * costs.forward(costs.test),
    )


def read_teacher_logits(folder: Path) -> npt.NDArray[np.float32]:
    """Return the logits [rows, labels] that one of these steps stored."""
    logits: npt.NDArray[np.float32] = np.load(folder / LOGITS)
    return logits


def target_logits(job: Job, targets: Step | None, rows: int, context: Context) -> npt.NDArray[np.float32] | None:
    """Return the logits [rows, labels] to learn in place of the teacher's, NaN in rows without; None if there are none.

    They are those that a step has stored, or the soft labels of the training rows, which are the first rows.
    """
    if targets is not None:
        return read_teacher_logits(context.result(targets))
    soft = job.dataset.train.soft
    if soft is None:
        return None
    logits = np.full((rows, len(job.dataset.label_names)), np.nan, dtype=np.float32)
    logits[: len(soft)] = logits_of(np.asarray(soft, dtype=np.float32), multi_label=job.multi_label)
    return logits


def _times_slower(job: Job, teacher: Checkpoint) -> float:
    """Return the expected seconds of a token as a multiple of those of the checkpoint."""
    return max(encoder_parameters(teacher.config), 1) / max(encoder_parameters(job.checkpoint.config), 1)


def _answer(folder: Path, job: Job, teacher: Checkpoint, rows: TokenizedSplit, context: Context) -> None:
    model = load_any_classifier(teacher, job.dataset.label_names, job.dataset.problem_type)
    accepted = inspect.signature(model.forward).parameters
    encodings = {name: values for name, values in rows.encodings.items() if name in accepted}
    write_cache(
        folder,
        on_device(model),
        replace(rows, encodings=encodings),
        RequiredOutputs(hidden=False, attention=False),
        pad_token_id=teacher.pad_token_id,
        progress=context.progress,
    )
