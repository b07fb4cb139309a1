"""The container files, checked without an engine: by linters, and by running what their RUN lines run."""

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
BIN = Path(sys.executable).parent


def tool(name: str) -> str:
    found = shutil.which(name, path=BIN) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not built for this platform")
    return found


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_pass_the_linter(path: Any) -> None:
    result = subprocess.run([tool("hadolint"), str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker/keys.compose.yml"])
def test_the_compose_files_pass_the_linter(name: Any) -> None:
    command = [tool("compose-lint"), "check", str(ROOT / name)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_dockerfiles_run_only_make_steps_and_mkdir(tmp_path: Path) -> None:
    executed = re.findall(r"^\t(SPARSERVE\S+ sh docker/\S+) build/", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in DOCKERFILES:
        for line in re.findall(r"^RUN (.*)$", path.read_text(), re.MULTILINE):
            if line.startswith("install -d "):
                made = line.replace(" /", f" {tmp_path}/")
                subprocess.run(made.split(), check=True)
                assert all(stat.S_IMODE(folder.stat().st_mode) == 0o1777 for folder in tmp_path.iterdir())
            else:
                assert line.removesuffix(" /opt/venv") in executed, f"{path.name}: {line}"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_copy_existing_files(path: Any) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", path.read_text(), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored or f"!{Path(source).parent}/*{Path(source).suffix}" in ignored, source


def test_service_container_is_unprivileged_and_limited() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    service = services["service"]
    assert service["read_only"] is True
    assert "./store:/store:ro" in service["volumes"]
    assert service["user"] == "10001:10001"
    assert service["cap_drop"] == ["ALL"]
    assert services["job"]["profiles"] == ["job"]
    assert service["init"] is services["job"]["init"] is True  # PID 1 would lose signals until it handles them
    for limits in services.values():
        assert limits["mem_limit"] and limits["cpus"]


def test_service_image_has_health_check_and_no_torch() -> None:
    text = (ROOT / "docker" / "service.Dockerfile").read_text()
    assert "HEALTHCHECK" in text
    assert "curl" not in text
    assert "compress" not in (ROOT / "docker" / "install-service.sh").read_text().replace("extra `compress`", "")
