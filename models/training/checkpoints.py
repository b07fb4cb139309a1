"""Trained networks as checkpoints: written atomically, and recognised when a killed run is repeated."""

import json
import shutil
from pathlib import Path

from torch import nn

from sparserve.models.distributed import is_main, uses_gpu
from sparserve.models.encoders.checkpoint import Checkpoint, save_classifier
from sparserve.models.files import sync, write_atomically
from sparserve.models.training.trainer import TrainingResult

TRAINED = "training.json"
TRAINING = "training"  # folder with the states that an unfinished training resumes from


def is_trained(folder: Path) -> bool:
    """Return True if a previous run already finished training this network and wrote it to `folder`."""
    if not (folder / TRAINED).is_file():
        return False
    if is_main():
        shutil.rmtree(folder / TRAINING, ignore_errors=True)
    return True


def finish(folder: Path, model: nn.Module, checkpoint: Checkpoint, result: TrainingResult | None = None) -> None:
    """Write a network as a checkpoint and remove the states that its training resumed from.

    Only the main process writes. A kill at any point leaves either those states intact or a folder that `is_trained`.
    """
    if not is_main():
        return
    model = model.cpu()
    model.config._name_or_path = ""  # type: ignore[union-attr]
    save_classifier(model, folder)
    checkpoint.save_tokenizer(folder)
    if result is not None:
        # After a power cut the record must not exist without the weights.
        for path in folder.iterdir():
            sync(path)
        scores = {"steps": result.steps, "best_step": result.best_step, "scores": result.scores}
        write_atomically(folder / TRAINED, json.dumps(scores, indent=1) + "\n")
    shutil.rmtree(folder / TRAINING, ignore_errors=True)


def on_device(model: nn.Module) -> nn.Module:
    """Move the model to the GPU if one is used, else to the CPU."""
    return model.to("cuda" if uses_gpu() else "cpu")
