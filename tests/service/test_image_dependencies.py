"""The packages of the service image, alone in a virtual environment, serve a store of the job.

`make service-venv` makes that environment with the image's own script; .ci/run does so before the tests.
"""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loopback import free_port

ROOT = Path(__file__).parents[2]
VENV = ROOT / "build" / "service-venv"
ABSENT = ("torch", "transformers", "onnx", "sklearn", "pyarrow")


def is_current() -> bool:
    """Return True if the environment was made from the current sources."""
    sources = [
        path for package in ("kernels", "models", "service", "sparserve") for path in (ROOT / package).rglob("*.py")
    ]
    made = VENV / "pyvenv.cfg"
    return made.is_file() and max(path.stat().st_mtime for path in sources) <= made.stat().st_mtime


pytestmark = pytest.mark.skipif(not is_current(), reason="`make service-venv` makes it, from these sources")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(VENV / "bin" / "python"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ABSENT)
def test_image_has_no_packages_of_the_job(package: str, tmp_path: Path) -> None:
    assert run("-c", f"import {package}", cwd=tmp_path).returncode == 1


def test_image_other_commands_name_the_extra(tmp_path: Path) -> None:
    result = subprocess.run(
        [str(VENV / "bin" / "sparserve"), "report", "tiny"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 4
    assert "sparserve[compress]" in result.stderr


def test_image_has_the_sparse_runtime(sparse_runtime: Any, tmp_path: Path) -> None:
    result = run("-c", "from sparserve.kernels.library import find_library; print(find_library().isa)", cwd=tmp_path)
    assert result.stdout.strip() == sparse_runtime.isa, result.stderr


def test_image_serves_a_store_of_the_job(tiny_store: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SPARSERVE_STORE": str(tiny_store), "SPARSERVE_THREADS": "1"}
    port = free_port()
    command = [str(VENV / "bin" / "sparserve"), "serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", process)
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/models/tiny/classify",
                data=json.dumps({"inputs": "a good movie"}).encode(),
                headers={"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                body = json.load(answer)
            assert body["predictions"][0][0]["label"] in ("negative", "positive")
            health = {**environment, "SPARSERVE_PORT": str(port)}
            check = [str(VENV / "bin" / "python"), "-m", "sparserve.service.healthcheck"]
            assert subprocess.run(check, cwd=tmp_path, env=health, check=False).returncode == 0
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    check = [str(VENV / "bin" / "python"), "-m", "sparserve.service.healthcheck"]
    assert subprocess.run(check, cwd=tmp_path, env=health, check=False).returncode == 1


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.02)
    pytest.fail("the service was not ready in time")
