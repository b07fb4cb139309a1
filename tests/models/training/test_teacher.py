"""Teacher training that is killed at its end, when the network is already written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.data.loading import load_dataset
from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.weights import WEIGHTS
from sparserve.models.files import sha256
from sparserve.models.recipes.schema import Training
from sparserve.models.training.checkpoints import TRAINED, TRAINING
from sparserve.models.training.teacher import train_teacher

# So high a learning rate that an epoch before the last one is the best.
RESTLESS = Training(
    epochs=6, batch_size=8, learning_rate=2e-2, save_steps=7, precision="fp32", schedule="constant", dropout=0.3
)


class Killed(BaseException):
    """Simulates kill -9: nothing catches it."""


@pytest.fixture(scope="module")
def train(whole: Any, sentiment_csv: Path) -> Any:
    """Return a function that trains a teacher in a folder and returns its progress reports."""
    rows = TokenizedDataset(load_dataset(sentiment_csv), whole.tokenizer, 32)

    def make(folder: Path) -> Any:
        heard = []
        train_teacher(
            folder, checkpoint=whole, rows=rows, training=RESTLESS, seed=3,
            progress=lambda *step: heard.append(step),
        )  # fmt: skip
        return heard

    return make


@pytest.fixture(scope="module")
def killed(train: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of a teacher training that was killed before it removed its states."""
    folder, rmtree = tmp_path_factory.mktemp("killed"), shutil.rmtree

    def kill(path: Any, *options: Any, **more: Any) -> None:
        if path == folder / TRAINING:
            raise Killed
        rmtree(path, *options, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", kill)
        with pytest.raises(Killed):
            train(folder)
    record = json.loads((folder / TRAINED).read_bytes())
    assert record["best_step"] < record["steps"], "nothing tells the best epoch from the last"
    return folder


@pytest.mark.parametrize("gone", [None, "scores.json", "best", "checkpoint-*", "*"])
def test_train_teacher_ignores_leftover_states(train: Any, killed: Any, tmp_path: Path, gone: Any) -> None:
    folder = shutil.copytree(killed, tmp_path / "folder")
    for path in (folder / TRAINING).glob(gone) if gone else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not train(folder), "trained again"
    for name in (WEIGHTS, TRAINED):
        assert sha256(folder / name) == sha256(killed / name)
    assert not (folder / TRAINING).exists()


@pytest.mark.parametrize("written", ["nothing", "half of the weights", "all but the record"])
def test_train_teacher_rewrites_incomplete_network(train: Any, killed: Any, tmp_path: Path, written: Any) -> None:
    folder = shutil.copytree(killed, tmp_path / "folder")
    (folder / TRAINED).unlink()
    if written != "all but the record":
        weights = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    if written == "nothing":
        (folder / WEIGHTS).unlink()
    train(folder)
    for name in (WEIGHTS, TRAINED):
        assert sha256(folder / name) == sha256(killed / name)
    assert not (folder / TRAINING).exists()
