"""What the service image installs, alone in a virtual environment, serves a store that the job made.

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

import pytest

from benchmarks.loopback import free_port

ROOT = Path(__file__).parents[2]
VENV = ROOT / "build" / "service-venv"
ABSENT = ("torch", "transformers", "onnx", "sklearn", "pyarrow")


def is_current():
    """Whether the environment was made from the sources as they are now."""
    sources = [
        path for package in ("kernels", "models", "service", "sparserve") for path in (ROOT / package).rglob("*.py")
    ]
    made = VENV / "pyvenv.cfg"
    return made.is_file() and max(path.stat().st_mtime for path in sources) <= made.stat().st_mtime


pytestmark = pytest.mark.skipif(not is_current(), reason="`make service-venv` makes it, from these sources")


def run(*arguments, cwd):
    command = [str(VENV / "bin" / "python"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ABSENT)
def test_the_job_s_packages_are_not_there(package, tmp_path):
    assert run("-c", f"import {package}", cwd=tmp_path).returncode == 1


def test_other_commands_say_what_to_install(tmp_path):
    result = subprocess.run(
        [str(VENV / "bin" / "sparserve"), "report", "tiny"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 4
    assert "sparserve[compress]" in result.stderr


def test_the_sparse_runtime_was_installed_where_it_can_be_built(sparse_runtime, tmp_path):
    result = run("-c", "from sparserve.kernels.library import find_library; print(find_library().isa)", cwd=tmp_path)
    assert result.stdout.strip() == sparse_runtime.isa, result.stderr


def test_it_serves_a_store_that_the_job_made(tiny_store, tmp_path):
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


def wait_until_ready(address, process):
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
