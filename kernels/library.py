"""Find and check the sparse runtime's library."""

import ctypes
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).parent / "libsparserve.so"
ELF_HEADER = struct.Struct("<40xQ10xHH2x")  # offset, size and number of section headers


class LibraryError(RuntimeError):
    """The sparse runtime cannot be used on this machine; the message gives the reason and the way out."""


@dataclass(frozen=True)
class Library:
    """A library that loads: its path, the instruction set of its kernels and its packed format's version."""

    path: Path
    isa: str
    format_version: int


@cache
def find_library(path: Path = LIBRARY) -> Library:
    """Load the library and read its version and instruction set.

    Raises:
        LibraryError: the library was not built, cannot be read, is truncated or does not load, or `SPARSERVE_ISA`
            names kernels that this machine cannot run.
    """
    if not path.is_file():
        raise LibraryError("it was not built: install a C++20 compiler and then sparserve again")
    try:
        if not _is_whole(path):
            raise LibraryError(f"{path.name} is truncated: install sparserve again")
        library = ctypes.CDLL(str(path))
        library.sparserve_isa.restype = ctypes.c_char_p
        isa = library.sparserve_isa()
        version = int(library.sparserve_format_version())
    except (OSError, AttributeError) as error:
        raise LibraryError(f"{path.name} does not load: {error}") from error
    if isa is None:
        raise LibraryError("the environment variable SPARSERVE_ISA names kernels that this machine cannot run")
    return Library(path, isa.decode(), version)


def _is_whole(path: Path) -> bool:
    """Return True if a file is as long as its ELF header says. Loading a truncated one kills the process (SIGBUS)."""
    with path.open("rb") as file:
        header = file.read(ELF_HEADER.size)
    if len(header) < ELF_HEADER.size:
        return False
    offset, size, count = ELF_HEADER.unpack(header)
    return bool(path.stat().st_size >= offset + size * count)


STAGES = ("layout", "quantize", "projections", "attention", "attention_output", "norm", "intermediate", "output")


def read_profile(library: Library, *, measure: bool) -> dict[str, float]:
    """Return the seconds of each stage since the last call, over all threads and sessions.

    Counting continues if `measure` is true.
    """
    counters = (ctypes.c_uint64 * len(STAGES))()
    ctypes.CDLL(str(library.path)).sparserve_profile(int(measure), counters)
    return {name: count / 1e9 for name, count in zip(STAGES, counters, strict=True)}
