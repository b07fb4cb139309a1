"""The C++ tests of every kernel (kernels/csrc/tests/unit), and their list against the functions of the sources."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sparserve.kernels.library import Library
from tests.support.kernels.reference import supported_isas

SOURCES = Path(__file__).parents[2] / "kernels" / "csrc"
VECTORS = {
    "portable": ("portable.h",),
    "avx2": ("avx2.h", "x86.h"),
    "avx2-vnni": ("avx2.h", "x86.h"),
    "avx512": ("avx512.h", "x86.h"),
    "avx512-vnni": ("avx512.h", "x86.h"),
    "neon": ("neon.h",),
}
FUNCTION = re.compile(
    r"^(?!template|using|typedef|constexpr|struct)[\w:<>*&][\w:<>*& ]*[ *&]([a-z]\w*)\(", re.MULTILINE
)
MEMBER = re.compile(r"^ +SPARSERVE_MEMBER [\w:]+ (?!operator)(\w+)\(", re.MULTILINE)


def build(folder: Path, *variables: str) -> Path:
    """Compile the tests, without optimization: it takes a fifth of the time."""
    command = ["make", "-j2", "-C", str(SOURCES / "tests"), f"OUT={folder}", "CXXFLAGS=-O0 -g0", *variables, "unit"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "unit"


@pytest.fixture(scope="module")
def unit(sparse_runtime: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, with the instruction sets of this machine."""
    if shutil.which("make") is None or shutil.which(os.environ.get("CXX", "c++").split()[0]) is None:
        pytest.skip("no make or no C++ compiler here")
    isas = " ".join(name.replace("-", "_") for name in supported_isas())
    return build(tmp_path_factory.mktemp("unit"), f"ISAS={isas}")


@pytest.mark.slow
def test_unit_tests_of_every_kernel_pass(unit: Path) -> None:
    done = subprocess.run([unit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in supported_isas():
        assert re.search(rf"^{name}: \d+ rows$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.slow
def test_unit_list_names_every_kernel(unit: Path) -> None:
    """A function without a row is a kernel without a test."""
    listed = subprocess.run([unit, "--list"], capture_output=True, text=True, check=True).stdout
    rows: dict[str, set[str]] = {}
    for line in listed.splitlines():
        isa, _, kernels = line.split("\t")
        rows.setdefault(isa, set()).update(kernels.split())
    assert rows.keys() >= set(supported_isas())
    shared = [path.read_text() for path in (SOURCES / "isa").glob("*.inc.h")]
    every: set[str] = set()
    for isa, vectors in VECTORS.items():
        texts = [*shared, *((SOURCES / "simd" / name).read_text() for name in vectors)]
        functions = {name for text in texts for pattern in (FUNCTION, MEMBER) for name in pattern.findall(text)}
        every |= functions
        if isa in rows:
            assert not functions - rows[isa], f"no row of kernels/csrc/tests/unit/rows.inc.h names these of {isa}"
    assert not set().union(*rows.values()) - every, "these are listed, but no longer exist"


def test_unit_tests_of_neon_pass_in_emulator(tmp_path: Path) -> None:
    """Compiling takes as long as for this machine: on request only."""
    compiler, emulator = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
    if not os.environ.get("SPARSERVE_TEST_EMULATOR"):
        pytest.skip("SPARSERVE_TEST_EMULATOR is not set")
    if shutil.which(compiler) is None or shutil.which(emulator) is None:
        pytest.skip(f"no {compiler} or no {emulator} here")
    program = build(tmp_path, f"CXX={compiler}", "LDFLAGS=-static")
    done = subprocess.run([emulator, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "neon: " in done.stdout
