"""Atomic files and folders: every write goes to a temporary name on the same file system, then is renamed."""

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sparserve.models.errors import EnvironmentFault, SparserveError

TEMPORARY_PREFIX = ".tmp-"
# The process that makes a folder locks it. Other machines may not see the lock, but no folder takes an hour.
ABANDONED_SECONDS = 3600
# Messages of safetensors and torch.save about a full disk, and of torch's allocators about a lack of memory.
_FULL = ("No space left on device", "Disk quota exceeded", "unexpected pos ", "PytorchStreamWriter failed")
_NO_MEMORY = ("can't allocate memory", "bad allocation", "std::bad_alloc", "CUDA out of memory")


def sha256(path: Path) -> str:
    """Return the hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes | str, *, mode: int = 0o644) -> None:
    """Write a file with the permissions `mode`. A reader sees the old content or the new one, never a part.

    Raises:
        EnvironmentFault: the disk is full or the folder cannot be written.
    """
    with faults_explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
            sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a temporary folder under `parent`, and remove it at the end of the block unless `settle` has moved it.

    Folders of processes that were killed are removed first.

    Raises:
        EnvironmentFault: the disk is full or the folder cannot be written.
    """
    with faults_explained(parent):
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        stage = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=parent))
        lock = _locked(stage)
        try:
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):  # another process removed it first
            if folder.is_dir() and time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
                lock = _locked(folder)
                if lock is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    os.close(lock)


def _locked(folder: Path) -> int | None:
    """Lock a folder and return a descriptor that holds the lock until it is closed; None if another process holds it.

    On systems without such locks the result is None, so that no folder is ever treated as abandoned.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def settle(stage: Path, target: Path) -> None:
    """Flush a finished folder and rename it to `target`. A folder that already has this name is kept."""
    for path in sorted(stage.rglob("*")):
        sync(path)
    sync(stage)
    stage.chmod(0o755)
    try:
        stage.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    sync(target.parent)


@contextlib.contextmanager
def faults_explained(folder: Path) -> Iterator[None]:
    """Turn faults of the machine, disk or memory, into an error that names the folder and the way out."""
    try:
        yield
    except Exception as error:
        fault = machine_fault(error, folder)
        if fault is None:
            raise
        raise fault from error


def machine_fault(error: BaseException, folder: Path) -> EnvironmentFault | None:
    """Return the fault that an error or its cause stands for; None if the machine is not at fault.

    torch and safetensors raise their own errors for a full disk and for a lack of memory: only the text tells.
    """
    if isinstance(error, SparserveError):
        return None
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in _FULL):
        return EnvironmentFault(f"the disk is full under {folder}: free some space and run the same command again")
    if isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
        return EnvironmentFault(
            "there is not enough memory: end other programs, or use smaller batches or a machine with more memory, and "
            "run the same command again"
        )
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = os.strerror(code)
        return EnvironmentFault(f"{folder} cannot be written ({why}): choose another folder or change its permissions")
    if code in (errno.ENOTDIR, errno.EEXIST):
        return EnvironmentFault(f"{getattr(error, 'filename', None) or folder} is in the way: a folder is needed there")
    return machine_fault(error.__cause__, folder) if error.__cause__ else None
