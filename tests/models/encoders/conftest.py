"""Checkpoints with other configurations."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def copy(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of a copy of a tiny checkpoint with changed fields of its configuration."""

    def make(model_type: str = "bert", /, **fields: Any) -> Path:
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(make_checkpoint(model_type), folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))
        return folder

    return make
