"""Where the sparse runtime's library is, and whether it works on this machine."""

import ctypes
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).parent / "libsparserve.so"
ELF_HEADER = struct.Struct("<40xQ10xHH2x")  # offset of the section headers; bytes of one, and how many


class LibraryError(RuntimeError):
    """The sparse runtime cannot be used here; the message says why and what to do."""


@dataclass(frozen=True)
class Library:
    """A library that loads."""

    path: Path
    isa: str
    format_version: int


@cache
def find_library(path: Path = LIBRARY) -> Library:
    """Load the library and ask what it is.

    Raises:
        LibraryError: it was not built, cannot be read, is cut short, does not load, or `SPARSERVE_ISA` asks for
            kernels that do not run here.
    """
    if not path.is_file():
        raise LibraryError("it was not built: install a C++20 compiler and then sparserve again")
    try:
        if not _is_whole(path):
            raise LibraryError(f"{path.name} is cut short: install sparserve again")
        library = ctypes.CDLL(str(path))
        library.sparserve_isa.restype = ctypes.c_char_p
        isa = library.sparserve_isa()
        version = int(library.sparserve_format_version())
    except (OSError, AttributeError) as error:
        raise LibraryError(f"{path.name} does not load: {error}") from error
    if isa is None:
        raise LibraryError("the environment variable SPARSERVE_ISA asks for kernels that this machine does not run")
    return Library(path, isa.decode(), version)


def _is_whole(path: Path) -> bool:
    """Whether a file reaches to the end that its ELF header tells; to load one that does not kills the process."""
    with path.open("rb") as file:
        header = file.read(ELF_HEADER.size)
    if len(header) < ELF_HEADER.size:
        return False
    offset, size, count = ELF_HEADER.unpack(header)
    return bool(path.stat().st_size >= offset + size * count)


STAGES = ("layout", "quantize", "projections", "attention", "attention_output", "norm", "intermediate", "output")


def read_profile(library: Library, *, measure: bool) -> dict[str, float]:
    """Seconds of each stage since the last call, over all threads and sessions; `measure` goes on counting."""
    counters = (ctypes.c_uint64 * len(STAGES))()
    ctypes.CDLL(str(library.path)).sparserve_profile(int(measure), counters)
    return {name: count / 1e9 for name, count in zip(STAGES, counters, strict=True)}
