"""Server processes: start on a given CPU, wait for readiness, measure memory, stop with all children."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx
import psutil

ROOT: Final = Path(__file__).parents[2]
START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 15.0
CHILDREN_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.02
LOG_TAIL: Final = 600


class ServerFailed(RuntimeError):
    """A server did not start or has ended. The message has the end of its log."""


def cpus() -> tuple[set[int], set[int]] | None:
    """Return CPUs for the server and the load, or None with fewer than two CPUs or without CPU affinity."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return ({allowed[-1]}, {allowed[0]}) if len(allowed) > 1 else None


@contextlib.contextmanager
def pinned(to: set[int] | None) -> Iterator[None]:
    """Run this thread, and processes started within the context, on these CPUs."""
    if to is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """A server that has answered its first request, `start_seconds` after its start."""

    def __init__(self, process: subprocess.Popen[bytes], start_seconds: float) -> None:
        self._process = process
        self.pid = process.pid
        self.start_seconds = start_seconds

    def memory_bytes(self) -> int:
        """Return the memory of all its processes, as PSS (shared pages count once) where available."""
        total = 0
        for process in _tree(self._process.pid):
            with contextlib.suppress(psutil.Error):
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
        return total

    def check_running(self) -> None:
        """Check that the server is running.

        Raises:
            ServerFailed: the server has ended.
        """
        if (status := self._process.poll()) is not None:
            raise ServerFailed(f"the server has ended with {status}")


@contextlib.contextmanager
def running(
    command: Sequence[str], url: str, body: str, *, to: set[int] | None, environment: Mapping[str, str], log: Path
) -> Iterator[Server]:
    """Run a command from the repository root, yield once it answers `body` at `url`, and stop it with its children.

    Raises:
        ServerFailed: the server ended or did not answer in time.
    """
    with log.open("wb") as output, pinned(to):
        began = time.perf_counter()
        process = subprocess.Popen(
            list(command), cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_for_answer(process, url, body, began, log)
        yield Server(process, time.perf_counter() - began)
    finally:
        _stop(process)


def _wait_for_answer(process: subprocess.Popen[bytes], url: str, body: str, began: float, log: Path) -> None:
    headers = {"Content-Type": "application/json"}
    with httpx.Client(timeout=START_SECONDS, trust_env=False) as client:
        while time.perf_counter() < began + START_SECONDS and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if client.post(url, content=body, headers=headers).status_code == httpx.codes.OK:
                    return
            time.sleep(POLL_SECONDS)
    tail = " ".join(log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].split())
    state = "did not answer in time" if process.poll() is None else f"ended with {process.returncode}"
    raise ServerFailed(f"the server {state}: {tail}")


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and its descendants, ended ones included."""
    total = 0.0
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            # A parent's children_* has the time of its ended children alone.
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Listed before the parent ends: orphaned children could not be found afterwards.
    children = _tree(process.pid)[1:]
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(children, timeout=CHILDREN_SECONDS)
    for child in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(left, timeout=CHILDREN_SECONDS)


def installed_bytes(python: Path) -> int:
    """Return the size on disk of an interpreter's virtual environment, without symbolic links."""
    folder = python.parent.parent
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
