"""Contents of a wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = (".yaml", ".j2", ".html", ".js", ".css", ".svg", ".proto", ".typed")


def test_wheel_holds_one_top_level_package_and_all_its_data(tmp_path: Path) -> None:
    pytest.importorskip("setuptools.command.bdist_wheel")
    nowhere = str(tmp_path / "no-such-compiler")
    command = (
        f"setup.py -q build -b {tmp_path}/build egg_info -e {tmp_path} bdist_wheel -d {tmp_path} -b {tmp_path}/wheel"
    )
    environment = {**os.environ, "CC": nowhere, "CXX": nowhere}
    built = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"sparserve"}
    folders = ("models", "service", "kernels")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if "csrc" not in path.parts]
    expected = {f"sparserve/{path.relative_to(ROOT)}" for path in files if path.suffix in (".py", *DATA)}
    assert expected <= names, sorted(expected - names)
