"""The dense teacher: its labels compared with those of the data, fine-tuning, and a cache of its outputs."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
from sparserve.models.errors import CheckpointError
from sparserve.models.recipes.schema import Training
from sparserve.models.training.checkpoints import TRAINING, finish, is_trained, on_device
from sparserve.models.training.teacher_outputs import RequiredOutputs, write_cache
from sparserve.models.training.trainer import TrainingRows, train
from sparserve.models.types import Progress


def train_teacher(
    folder: Path,
    *,
    checkpoint: Checkpoint,
    rows: TokenizedDataset,
    training: Training,
    seed: int,
    progress: Progress,
) -> None:
    """Fine-tune the pre-trained checkpoint and write the best epoch on validation to `folder`."""
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
    )
    finish(folder, model, checkpoint, result)


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
