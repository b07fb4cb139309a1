"""The dense teacher: fine-tuning, and a cache of its outputs for the student."""

from pathlib import Path

from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier
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
