"""Folders that are made once for all processes that run the tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_root(factory: pytest.TempPathFactory) -> Path:
    """The folder of all the processes that run the tests."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """The folder of that name, built by the first of the processes that run the tests, and shared by all."""
    root = shared_root(factory)
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not (folder / ".made").exists():
            folder.mkdir()
            build(folder)
            (folder / ".made").touch()
    return folder
