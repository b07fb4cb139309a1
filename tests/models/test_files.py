"""Atomic files and folders, and faults of the machine."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from sparserve.models.errors import CheckpointError, EnvironmentFault
from sparserve.models.files import TEMPORARY_PREFIX, faults_explained, settle, temporary_folder, write_atomically


def test_write_atomically_keeps_the_old_content_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def full(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="disk is full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_temporary_folder_settles_completely_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), temporary_folder(tmp_path) as stage:
        (stage / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with temporary_folder(tmp_path) as stage:
        (stage / "whole").write_text("x")
        settle(stage, tmp_path / "done")
    assert [p.name for p in tmp_path.iterdir()] == ["done"]


def test_settle_keeps_an_existing_folder(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "first").write_text("x")
    with temporary_folder(tmp_path) as stage:
        (stage / "second").write_text("y")
        settle(stage, tmp_path / "done")
    assert [p.name for p in (tmp_path / "done").iterdir()] == ["first"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk is full"),
        (ValueError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 49152 vs 49040"), "disk is full"),
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
            "not enough memory",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written"),
    ],
)
def test_faults_explained_recognises_faults_of_the_machine(tmp_path: Path, error: Exception, message: str) -> None:
    with pytest.raises(EnvironmentFault, match=message), faults_explained(tmp_path):
        raise error
    with pytest.raises(EnvironmentFault, match=message), faults_explained(tmp_path):
        raise ValueError("the exporter failed") from error
    with pytest.raises(CheckpointError), faults_explained(tmp_path):
        raise CheckpointError("it was explained already") from error
    for other in (ValueError("a wrong value"), FileNotFoundError(errno.ENOENT, "gone")):
        with pytest.raises(type(other)) as raised, faults_explained(tmp_path):
            raise other
        assert raised.value is other


def test_write_atomically_names_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(EnvironmentFault, match="store"):
        write_atomically(tmp_path / "store" / "task" / "current", "x")


def test_temporary_folder_removes_abandoned_folders_only(tmp_path: Path) -> None:
    def of_long_ago(folder: Path) -> str:
        os.utime(folder, (1, 1))
        return folder.name

    (tmp_path / f"{TEMPORARY_PREFIX}left").mkdir()
    (tmp_path / f"{TEMPORARY_PREFIX}young").mkdir()
    of_long_ago(tmp_path / f"{TEMPORARY_PREFIX}left")
    with temporary_folder(tmp_path) as slow:
        kept = {of_long_ago(slow), f"{TEMPORARY_PREFIX}young"}
        with temporary_folder(tmp_path) as stage:
            assert {folder.name for folder in tmp_path.iterdir()} == {*kept, stage.name}
