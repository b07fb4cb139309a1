"""Trained networks as checkpoints on disk: written whole, and recognised when a killed run is repeated."""

import json
import shutil
from pathlib import Path

from torch import nn

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import TokenizedSplit, tokenize
from sparserve.models.distributed import is_main, uses_gpu
from sparserve.models.encoders.checkpoint import Checkpoint, save_classifier
from sparserve.models.files import sync, write_atomically
from sparserve.models.training.trainer import TrainingResult

TRAINED = "training.json"
TRAINING = "training"  # the states that an unfinished training goes on from


def tokenized(checkpoint: Checkpoint, dataset: Dataset, max_length: int) -> tuple[TokenizedSplit, TokenizedSplit]:
    """The training and validation rows as the checkpoint's tokens."""
    tokenizer = checkpoint.tokenizer()
    return (
        tokenize(dataset.train, tokenizer, max_length, multi_label=dataset.multi_label),
        tokenize(dataset.validation, tokenizer, max_length, multi_label=dataset.multi_label),
    )


def is_trained(folder: Path) -> bool:
    """Whether an earlier try has trained the network in `folder` to its end, and written it there."""
    if not (folder / TRAINED).is_file():
        return False
    if is_main():
        shutil.rmtree(folder / TRAINING, ignore_errors=True)
    return True


def finish(folder: Path, model: nn.Module, checkpoint: Checkpoint, result: TrainingResult | None = None) -> None:
    """Write a network as a checkpoint of its own, and drop the states that its training resumed from.

    Only the main process does. A kill at any point leaves those states whole, or a folder that `is_trained`.
    """
    if not is_main():
        return
    model = model.cpu()
    model.config._name_or_path = ""  # type: ignore[union-attr]
    save_classifier(model, folder)
    checkpoint.tokenizer().save_pretrained(folder)
    if result is not None:
        # The record must not outlive a power cut that the weights do not.
        for path in folder.iterdir():
            sync(path)
        scores = {"steps": result.steps, "best_step": result.best_step, "scores": result.scores}
        write_atomically(folder / TRAINED, json.dumps(scores, indent=1) + "\n")
    shutil.rmtree(folder / TRAINING, ignore_errors=True)


def pad_token_id(checkpoint: Checkpoint) -> int:
    """Id of the checkpoint's padding token."""
    return int(checkpoint.tokenizer().pad_token_id)


def on_device(model: nn.Module) -> nn.Module:
    """The model on the GPU if one is used."""
    return model.to("cuda" if uses_gpu() else "cpu")
