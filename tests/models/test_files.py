import errno
import os

import pytest

from sparserve.models.errors import CheckpointError, EnvironmentFault
from sparserve.models.files import TEMPORARY_PREFIX, faults_explained, settle, temporary_folder, write_atomically


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="disk is full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), temporary_folder(tmp_path) as stage:
        (stage / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with temporary_folder(tmp_path) as stage:
        (stage / "whole").write_text("x")
        settle(stage, tmp_path / "done")
    assert [p.name for p in tmp_path.iterdir()] == ["done"]


def test_a_folder_that_is_there_already_is_kept(tmp_path):
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
def test_what_the_machine_refuses_is_told_from_faults_of_the_input(tmp_path, error, message):
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


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(EnvironmentFault, match="store"):
        write_atomically(tmp_path / "store" / "task" / "current", "x")


def test_what_a_killed_process_left_is_removed_and_what_is_under_way_is_not(tmp_path):
    def of_long_ago(folder):
        os.utime(folder, (1, 1))
        return folder.name

    (tmp_path / f"{TEMPORARY_PREFIX}left").mkdir()
    (tmp_path / f"{TEMPORARY_PREFIX}young").mkdir()
    of_long_ago(tmp_path / f"{TEMPORARY_PREFIX}left")
    with temporary_folder(tmp_path) as slow:
        kept = {of_long_ago(slow), f"{TEMPORARY_PREFIX}young"}
        with temporary_folder(tmp_path) as stage:
            assert {folder.name for folder in tmp_path.iterdir()} == {*kept, stage.name}
