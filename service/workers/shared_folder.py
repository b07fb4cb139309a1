"""The folder of the files that the processes of a service map into their memory: counters, rates, connections.

It is in memory (/dev/shm) where there is such a file system, and removed when the service ends. Space for the files is
reserved at once, because a write to a mapped page for which there is no room kills the process.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sparserve.service.observability.worker_metrics import reserve_metrics
from sparserve.service.security.rate_limit import reserve_rates
from sparserve.service.server.listener import reserve_connection_counts

SUPERVISOR: Final = "supervisor"
MEMORY: Final = Path("/dev/shm")


@contextlib.contextmanager
def shared_folder(workers: int) -> Iterator[Path]:
    """Make the folder with the files of each worker, and remove it at the end.

    Raises:
        OSError: there is no room.
    """
    try:
        folder = _make(workers, MEMORY)
    except OSError:  # there is none, or it is full
        folder = _make(workers, Path(tempfile.gettempdir()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(workers: int, parent: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sparserve-", dir=parent))
    try:
        for process in (SUPERVISOR, *range(workers)):
            reserve_metrics(folder, process)
        reserve_connection_counts(folder, workers)
        reserve_rates(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
