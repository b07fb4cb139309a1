"""The dense teacher: fine-tuning, and a cache of its outputs for the student."""

from pathlib import Path

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import tokenize
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
from sparserve.models.recipes.schema import Training
from sparserve.models.training.checkpoints import TRAINING, finish, is_trained, on_device, pad_token_id, tokenized
from sparserve.models.training.teacher_outputs import RequiredOutputs, write_cache
from sparserve.models.training.trainer import TrainingRows, train
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
    """Fine-tune the pre-trained checkpoint and write the best epoch on validation to `folder`."""
    if is_trained(folder):
        return
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type, seed=seed)
    rows, validation = tokenized(checkpoint, dataset, max_length)
    result = train(
        model,
        training,
        TrainingRows(rows, validation, pad_token_id(checkpoint), dataset.multi_label),
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
    wanted: RequiredOutputs,
    progress: Progress,
) -> None:
    """Write the outputs of the teacher for every training row to `folder`."""
    model = on_device(load_classifier(teacher.folder, dataset.label_names, dataset.problem_type))
    rows = tokenize(dataset.train, teacher.tokenizer(), max_length, multi_label=dataset.multi_label)
    write_cache(folder, model, rows, wanted, pad_token_id=pad_token_id(teacher), progress=progress)
