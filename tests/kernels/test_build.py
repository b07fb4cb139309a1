"""Without a compiler the install succeeds, and says once what is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools.command.bdist_wheel")
ROOT = Path(__file__).parents[2]


def test_without_a_compiler_the_build_succeeds_and_says_what_to_do(tmp_path):
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


def test_every_source_of_an_instruction_set_has_its_flags():
    text = (ROOT / "setup.py").read_text()
    special = {path.name for path in (ROOT / "kernels" / "csrc").glob("isa_*.cpp")} - {
        "isa_portable.cpp",
        "isa_neon.cpp",
    }
    assert special
    assert all(f'"{name}"' in text for name in special)
