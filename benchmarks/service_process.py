"""The service in a separate process on a free port, for tests and measurements."""

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loopback import DEADLINE_SECONDS, ask, free_port

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class RunningService:
    """A ready service. It became ready `ready_seconds` after the start of its process."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    ready_seconds: float

    def ask(self, path: str, method: str = "GET", body: object = None) -> tuple[int, Any]:
        """Send a request on a new connection and return the status and the content.

        Raises:
            OSError: the service does not answer.
        """
        return ask(self.port, path, method, body)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that have these labels."""
        _, text = self.ask("/metrics")
        samples = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        pairs = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(value) for sample_labels, value in samples if all(pair in sample_labels for pair in pairs))

    def logged(self) -> str:
        """Return its standard error output."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)


def wait_until(condition: Any, awaited: str, seconds: float = DEADLINE_SECONDS) -> float:
    """Poll until the condition is true and return the seconds that this took.

    Raises:
        TimeoutError: the condition is still false after `seconds`; the message names what was `awaited`.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"waited {seconds:g} s for {awaited}")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began


@contextlib.contextmanager
def running(
    store: Path, *options: str, warnings: str = "error", limits: dict[int, int] | None = None
) -> Iterator[RunningService]:
    """Run the service over a store. Yield when it is ready, and kill it at the end if it is still running.

    Args:
        store: the folder of bundles.
        options: command-line options.
        warnings: Python's -W; by default a warning is an error.
        limits: resource limits of the process, by the RLIMIT_* constants of the `resource` module. Linux only.

    Raises:
        RuntimeError: the service ended or was not ready in time. The message contains its log.
    """
    port = free_port()
    command = [sys.executable, "-W", warnings, "-m", "sparserve.service", "--store", str(store), "--port", str(port)]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        began = time.monotonic()
        process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=log)
        try:
            for limit, value in (limits or {}).items():
                import resource

                resource.prlimit(process.pid, limit, (value, value))
            service = RunningService(process, port, Path(log.name), 0.0)
            try:
                wait_until(lambda: process.poll() is not None or _is_ready(service), "the service to be ready")
            except TimeoutError as error:
                raise RuntimeError(f"{error}: {service.logged()}") from error
            if process.poll() is not None:
                raise RuntimeError(f"the service ended with {process.returncode}: {service.logged()}")
            yield RunningService(process, port, service.log, time.monotonic() - began)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _is_ready(service: RunningService) -> bool:
    try:
        return bool(service.ask("/readyz")[0] == 200)
    except OSError:
        return False
