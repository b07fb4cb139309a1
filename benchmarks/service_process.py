"""The service in a process of its own, on a free port: for tests and measurements of what a process does."""

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
    """A service that has said that it is ready, `ready_seconds` after its process began."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    ready_seconds: float

    def ask(self, path: str, method: str = "GET", body: object = None) -> tuple[int, Any]:
        """Status and content of an answer, on a connection of its own.

        Raises:
            OSError: the service does not answer.
        """
        return ask(self.port, path, method, body)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with these labels among theirs."""
        _, text = self.ask("/metrics")
        found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(value) for given, value in found if all(one in given for one in wanted))

    def logged(self) -> str:
        """What it has written to standard error."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Send SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)


def wait_until(true: Any, what: str, seconds: float = DEADLINE_SECONDS) -> float:
    """Ask again and again until the answer is true; the seconds that this took.

    Raises:
        TimeoutError: naming what did not come.
    """
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not after {seconds:g} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began


@contextlib.contextmanager
def running(
    store: Path, *options: str, warnings: str = "error", limits: dict[int, int] | None = None
) -> Iterator[RunningService]:
    """Run the service over a store; yields once it is ready, and kills it at the end if it still runs.

    Args:
        options: of its command line.
        warnings: Python's -W; by default a warning is an error.
        limits: of the process, from the `resource` module's RLIMIT_* to their values; on Linux.

    Raises:
        RuntimeError: it has ended or was not ready in time; with its log.
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
                wait_until(lambda: process.poll() is not None or _is_ready(service), "the service is not ready")
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
