"""The dense teacher: fine-tuned, and its outputs cached for the student."""

from pathlib import Path

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import tokenize
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
from sparserve.models.recipes.schema import Training
from sparserve.models.training.checkpoints import TRAINING, finish, is_trained, on_device, pad_token_id, tokenized
from sparserve.models.training.teacher_outputs import Wanted, write_cache
from sparserve.models.training.trainer import train
from sparserve.models.types import Progress


def train_teacher(
    folder: Path,
    *,
    checkpoint: Checkpoint,
    dataset: Dataset,
    training: Training,
    max_length: int,
    seed: int,
    progress: Progress,
) -> None:
    """Fine-tune the pre-trained checkpoint; the best epoch on validation becomes the checkpoint in `folder`."""
    if is_trained(folder):
        return
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type, seed=seed)
    rows, validation = tokenized(checkpoint, dataset, max_length)
    result = train(
        model,
        training,
        rows,
        validation,
        pad_token_id=pad_token_id(checkpoint),
        multi_label=dataset.multi_label,
        seed=seed,
        folder=folder / TRAINING,
        progress=progress,
    )
    finish(folder, model, checkpoint, result)


def cache_teacher(
    folder: Path,
    *,
    teacher: Checkpoint,
    dataset: Dataset,
    max_length: int,
    wanted: Wanted,
    progress: Progress,
) -> None:
    """Write what the teacher says about every training row."""
    model = on_device(load_classifier(teacher.folder, dataset.label_names, dataset.problem_type))
    rows = tokenize(dataset.train, teacher.tokenizer(), max_length, multi_label=dataset.multi_label)
    write_cache(folder, model, rows, wanted, pad_token_id=pad_token_id(teacher), progress=progress)
