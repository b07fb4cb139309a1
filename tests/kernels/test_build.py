"""Builds with and without a compiler."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparserve.kernels.library import find_library

ROOT = Path(__file__).parents[2]


def test_build_with_compiler_makes_library(tmp_path: Path) -> None:
    """Else every test of the sparse runtime would be skipped, and a library that no longer compiles go unnoticed."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler here")
    source = tmp_path / "concept.cpp"
    source.write_text("template <class T> concept Any = true; static_assert(Any<int>);\n")
    command = [*compiler.split(), "-std=c++20", "-fsyntax-only", str(source)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{compiler} knows no C++20")
    assert find_library().isa


def test_build_without_compiler_succeeds_with_warning(tmp_path: Path) -> None:
    pytest.importorskip("setuptools.command.bdist_wheel")
    nowhere = str(tmp_path / "no-such-compiler")
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path / "temp")],
        cwd=ROOT,
        env={**os.environ, "CC": nowhere, "CXX": nowhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    said = result.stdout + result.stderr
    assert said.count("The sparse runtime was not built") == 1
    assert "install a C++20 compiler" in said
    assert not list(tmp_path.rglob("*.so"))


def test_build_without_compiler_fails_if_library_is_required(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no-such-compiler")
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path / "temp")],
        cwd=ROOT,
        env={**os.environ, "CC": nowhere, "CXX": nowhere, "SPARSERVE_REQUIRE_LIBRARY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "error: the sparse runtime was not built" in result.stderr


@pytest.mark.parametrize(("built", "tag"), [(True, "py3-none-linux_.*"), (False, "py3-none-any")])
def test_wheel_tag_without_library_is_any(tmp_path: Path, built: bool, tag: str) -> None:
    """Else it could be cached or published in its place."""
    pytest.importorskip("setuptools.command.bdist_wheel")
    if sys.platform != "linux":
        pytest.skip("the sparse runtime is for Linux")
    if built:
        (tmp_path / "wheel" / "sparserve" / "kernels").mkdir(parents=True)
        (tmp_path / "wheel" / "sparserve" / "kernels" / "libsparserve.so").touch()
    program = (
        "import runpy, setuptools\n"
        "setuptools.setup = lambda **_: None\n"
        "made = runpy.run_path('setup.py')['PlatformWheel'](setuptools.Distribution({'ext_modules': [1]}))\n"
        f"made.bdist_dir = {str(tmp_path / 'wheel')!r}\n"
        "made.finalize_options()\n"
        "print('-'.join(made.get_tag()))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert re.fullmatch(tag, result.stdout.strip()), result.stderr


def test_flag_table_lists_every_instruction_set() -> None:
    table = (ROOT / "kernels" / "csrc" / "isa" / "flags.txt").read_text().splitlines()
    special = {path.stem for path in (ROOT / "kernels" / "csrc" / "isa").glob("*.cpp")} - {"portable", "neon"}
    assert special
    assert special | {"common"} == {line.partition(":")[0] for line in table if not line.startswith("#")}
