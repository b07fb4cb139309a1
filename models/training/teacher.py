"""The dense teacher: its labels compared with those of the data, fine-tuning, and a cache of its outputs."""

import json
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_model

from sparserve.models.bundle.manifest import TeacherTraining, TrainingSettings
from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
from sparserve.models.errors import CheckpointError
from sparserve.models.recipes.schema import Distillation, Training
from sparserve.models.training.checkpoints import TRAINED, TRAINING, finish, is_trained, on_device
from sparserve.models.training.student import student_loss
from sparserve.models.training.target_logits import TargetLogits
from sparserve.models.training.teacher_outputs import RequiredOutputs, write_cache
from sparserve.models.training.trainer import TrainingResult, TrainingRows, best_weights, train
from sparserve.models.training.tuning import rules
from sparserve.models.training.tuning.teacher_trials import teacher_training, weighted_loss
from sparserve.models.types import Loss, Progress

MAX_EXTENSIONS = 3
LEAST_EVALUATIONS = 4


def train_teacher(
    folder: Path,
    *,
    checkpoint: Checkpoint,
    rows: TokenizedDataset,
    training: Training,
    seed: int,
    progress: Progress,
    targets: TargetLogits | None = None,
    losses: Distillation | None = None,
) -> None:
    """Fine-tune the pre-trained checkpoint and write the best epoch on validation to `folder`.

    With `targets` it learns these logits with the `losses`, in place of the labels alone.
    """
    if is_trained(folder):
        return
    dataset = rows.dataset
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type, seed=seed)
    result = train(
        model,
        training,
        TrainingRows(rows.train, rows.validation, checkpoint.pad_token_id, dataset.multi_label),
        seed=seed,
        folder=folder / TRAINING,
        progress=progress,
        loss=_loss_on_targets(targets, losses, dataset),
    )
    finish(folder, model, checkpoint, result)


def train_found_teacher(
    folder: Path,
    *,
    checkpoint: Checkpoint,
    rows: TokenizedDataset,
    settings: TrainingSettings,
    seed: int,
    progress: Progress,
    targets: TargetLogits | None = None,
    losses: Distillation | None = None,
) -> None:
    """Fine-tune the checkpoint with the settings that were found, until validation has stopped rising.

    With `targets` it learns these logits with the `losses`, as in `train_teacher`.
    While the score still rises at the end, another training begins at the best weights. The best are written to
    `folder`.
    """
    if is_trained(folder):
        return
    dataset = rows.dataset
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type, seed=seed)
    training_rows = TrainingRows(rows.train, rows.validation, checkpoint.pad_token_id, dataset.multi_label)
    best: Path | None = None
    result = TrainingResult(0, 0, {})
    for turn in range(1 + MAX_EXTENSIONS):
        epochs = settings.epochs if turn == 0 else extension_epochs(settings.epochs)
        states = folder / TRAINING / str(turn)
        made = train(
            model,
            teacher_training(settings.learning_rate, epochs=epochs, batch_size=settings.batch_size),
            training_rows,
            seed=seed + turn,
            folder=states,
            progress=progress,
            loss=_loss_on_targets(targets, losses, dataset)
            or (weighted_loss(rows) if settings.class_weights else None),
            least_evaluations=LEAST_EVALUATIONS,
        )
        scores = result.scores | {result.steps + step: value for step, value in made.scores.items()}
        improved = best is None or made.scores[made.best_step] > result.scores[result.best_step]
        best_step = result.steps + made.best_step if improved else result.best_step
        result = TrainingResult(result.steps + made.steps, best_step, scores)
        if improved:
            best = best_weights(states)
        if not rules.still_rising([scores[step] for step in sorted(scores)], len(rows.validation)):
            break
    assert best is not None
    load_model(model, best)
    finish(folder, model, checkpoint, result)


def _loss_on_targets(targets: TargetLogits | None, losses: Distillation | None, dataset: Dataset) -> Loss | None:
    if targets is None or losses is None:
        return None
    return student_loss(targets, losses, multi_label=dataset.multi_label)


def extension_epochs(epochs: float) -> int:
    """Return the epochs of each training that continues one of so many epochs."""
    return math.ceil(epochs / 2)


def training_record(
    folder: Path, settings: TrainingSettings, *, train_rows: int, validation_rows: int
) -> TeacherTraining | None:
    """Return the course of the training that made the teacher in `folder`; None if it has no record."""
    if not (folder / TRAINED).is_file():
        return None
    record = json.loads((folder / TRAINED).read_bytes())
    scores = {int(step): float(value) for step, value in record["scores"].items()}
    ordered = [scores[step] for step in sorted(scores)]
    steps_per_epoch = math.ceil(train_rows / settings.batch_size)
    return TeacherTraining(
        settings=settings,
        epochs=round(record["steps"] / steps_per_epoch, 2),
        best_epoch=round(record["best_step"] / steps_per_epoch, 2),
        scores=tuple(round(value, 4) for value in ordered),
        still_rising=rules.still_rising(ordered, validation_rows),
    )


def cache_teacher(
    folder: Path,
    *,
    teacher: Checkpoint,
    rows: TokenizedDataset,
    wanted: RequiredOutputs,
    progress: Progress,
) -> None:
    """Write the outputs of the teacher for every training row to `folder`."""
    model = on_device(load_classifier(teacher.folder, rows.dataset.label_names, rows.dataset.problem_type))
    write_cache(folder, model, rows.train, wanted, pad_token_id=teacher.pad_token_id, progress=progress)


def check_teacher(teacher: Checkpoint, dataset: Dataset) -> tuple[str, ...]:
    """Return the label names in the order of a fine-tuned teacher's logits.

    Names that differ in their case only are the same, and a teacher without names (`LABEL_0` or `0`) has the labels of
    the data in their order.

    Raises:
        CheckpointError: the teacher predicts other labels than the data has, or answers another kind of question.
    """
    _check_problem_type(teacher, dataset)
    names = teacher.label_names
    if dataset.one_score:
        return dataset.label_names
    if len(names) == len(dataset.label_names):
        if set(names) == set(dataset.label_names):
            return names
        by_folded = {name.casefold(): name for name in dataset.label_names}
        # Where the data tells "us" from "US", no other spelling says which of them is meant.
        if len(by_folded) == len(names) and {name.casefold() for name in names} == by_folded.keys():
            return tuple(by_folded[name.casefold()] for name in names)
        if _are_numbers(names):
            return dataset.label_names
    raise CheckpointError(
        f"the teacher {teacher.name} predicts {', '.join(names)}, but the data has {', '.join(dataset.label_names)}: "
        + _way_out(names, dataset.label_names)
    )


def assumptions(teacher: Checkpoint, dataset: Dataset) -> list[str]:
    """Return the assumptions of `check_teacher` about a teacher whose configuration says too little."""
    if dataset.one_score:
        return []
    notes = []
    pairs = list(zip(teacher.label_names, check_teacher(teacher, dataset), strict=True))
    if any(given.casefold() != name.casefold() for given, name in pairs):
        guess = ", ".join(f"{given} for {name}" for given, name in pairs)
        notes.append(
            f"the teacher's labels have no names. Assumed: {guess}. "
            "To name them, set id2label in the teacher's config.json."
        )
    if dataset.multi_label and teacher.config.problem_type is None:
        notes.append(
            "the teacher's config.json has no problem_type. Assumed: it was fine-tuned for several labels per text, so "
            "each of its logits goes through a sigmoid. If it was fine-tuned for one label per text (softmax), give it "
            "as --model instead."
        )
    return notes


def _check_problem_type(teacher: Checkpoint, dataset: Dataset) -> None:
    given = teacher.config.problem_type
    if dataset.one_score:
        expected = "one number" if dataset.problem_type == "regression" else "a relevance"
        if len(teacher.label_names) != 1 or given not in (None, dataset.problem_type):
            kind = given or f"{len(teacher.label_names)} labels"
            raise CheckpointError(
                f"the teacher {teacher.name} was fine-tuned for {kind.replace('_', ' ')}, but the data has "
                f"{expected} for each row: give it as --model, and a teacher will be fine-tuned from it"
            )
        return
    if given == "regression" or len(teacher.label_names) < 2:
        raise CheckpointError(
            f"the teacher {teacher.name} predicts one number, not one of {len(dataset.label_names)} labels: give it as "
            "--model, and a teacher will be fine-tuned from it"
        )
    if given is None or given == dataset.problem_type:
        return
    if dataset.multi_label:
        kinds = "one label per text (softmax), but the data has several"
        other = "set problem_type to multi_label_classification in its config.json if that is wrong"
    else:
        kinds = "several labels per text (a sigmoid for each), but the data has one"
        other = "add --multi-label if a row may have several"
    raise CheckpointError(
        f"the teacher {teacher.name} was fine-tuned for {kinds}: give it as --model, and a teacher will be fine-tuned "
        f"from it; {other}"
    )


def _way_out(predicted: Sequence[str], given: Sequence[str]) -> str:
    retrain = "give it as --model to have a teacher fine-tuned on these labels"
    if len(predicted) != len(given):
        return f"{len(predicted)} labels and {len(given)} cannot be matched; {retrain}"
    renaming = _renaming(predicted, given)
    if renaming is None:
        example = shlex.quote(f"{given[0]}={predicted[0]}")
        return (
            "if they are the same labels under other names, rename those of the data with --label-map OLD=NEW for "
            f"each, such as --label-map {example} if those two mean the same; else {retrain}"
        )
    options = " ".join(f"--label-map {shlex.quote(f'{old}={new}')}" for old, new in renaming.items())
    return f"if they mean the same, rename those of the data: add {options}; else {retrain}"


def _renaming(predicted: Sequence[str], given: Sequence[str]) -> dict[str, str] | None:
    """Return the likely name of each label of the data among those that the teacher predicts; None if it is unclear."""
    if _are_numbers(given):
        return dict(zip(given, predicted, strict=True))
    plain = {name: re.sub(r"[\W_]+", "", name).casefold() for name in (*predicted, *given)}
    renaming = {}
    for old in given:
        likely = [new for new in predicted if plain[new] == plain[old]] or [
            new for new in predicted if plain[new].startswith(plain[old]) or plain[old].startswith(plain[new])
        ]
        if len(likely) != 1:
            return None
        renaming[old] = likely[0]
    return renaming if len(set(renaming.values())) == len(given) else None


def _are_numbers(names: Sequence[str]) -> bool:
    """Return True if names only count: `LABEL_0`, `LABEL_1` as transformers has them by default, or `0`, `1`."""
    return all(name in (f"LABEL_{index}", str(index)) for index, name in enumerate(names))
