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

import psutil

from benchmarks.loopback import DEADLINE_SECONDS, ask, free_port

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class RunningService:
    """A ready service of one process, or of a supervisor and its workers.

    It became ready `ready_seconds` after the start of `process`, which is the supervisor if there are workers.
    """

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

    def processes(self) -> list[psutil.Process]:
        """Return the first process, then its workers."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def logged(self) -> str:
        """Return its standard error output."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def logs(self, text: str) -> bool:
        """Return True as soon as its log contains a text. A service writes its lines some time after their events."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: text in self.logged(), f"{text!r} in the log")
        return text in self.logged()

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)

    def kill(self) -> None:
        """Kill all processes at once, the supervisor first, so that it does not replace its workers."""
        if self.process.poll() is None:
            processes = self.processes()
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()
            wait_until(lambda: not any(map(lives, processes[1:])), "the workers to end")


def lives(process: psutil.Process) -> bool:
    """Return False for a process that has ended, even if its parent has not asked for its status."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


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
        limits: resource limits of each process from the moment when the service is ready, by the RLIMIT_* constants of
            the `resource` module. Linux only.

    Raises:
        RuntimeError: the service ended or was not ready in time. The message contains its log.
    """
    port = free_port()
    command = [sys.executable, "-W", warnings, "-m", "sparserve.service", "--store", str(store), "--port", str(port)]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        began = time.monotonic()
        process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=log)
        service = RunningService(process, port, Path(log.name), 0.0)
        try:
            try:
                wait_until(lambda: process.poll() is not None or _is_ready(service), "the service to be ready")
            except TimeoutError as error:
                raise RuntimeError(f"{error}: {service.logged()}") from error
            if process.poll() is not None:
                raise RuntimeError(f"the service ended with {process.returncode}: {service.logged()}")
            seconds = time.monotonic() - began
            for limited in service.processes():
                for limit, value in (limits or {}).items():
                    limited.rlimit(limit, (value, value))
            yield RunningService(process, port, service.log, seconds)
        finally:
            service.kill()


def _is_ready(service: RunningService) -> bool:
    try:
        return bool(service.ask("/readyz")[0] == 200)
    except OSError:
        return False
