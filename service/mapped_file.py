"""Files that several processes map into their memory."""

import os
from pathlib import Path


def reserve_file(path: Path, size: int) -> None:
    """Make a file of `size` zero bytes, with its space reserved: a write to a page without room kills the process.

    It takes the place of an older file at once, so that a reader never sees a part of it.

    Raises:
        OSError: there is no room.
    """
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))
    new.replace(path)
