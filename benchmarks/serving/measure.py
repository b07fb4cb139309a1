"""Measurement of a server: a search for its highest rate in several turns, then loads around that rate."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.loopback import free_port
from benchmarks.serving.arms import THREADS, Arm
from benchmarks.serving.rate_search import RateSearch, summary
from benchmarks.serving.server_process import ROOT, Server, cpus, pinned, running

POINTS_A_TURN: Final = 4
CLOSED_CLIENTS: Final = 32
OVERLOAD: Final = 3.0
# Fractions of the peak rate of onnxruntime alone: equal loads for all servers.
SAME_LOADS: Final = (0.25, 0.5, 0.75)
# Ten times the latency limit: a longer wait does not change the result of the search.
SEARCH_PATIENCE: Final = 1.0
OVERLOAD_PATIENCE: Final = 10.0
SETTLE_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Plan:
    """Duration of a load, limit of the p99 latency and client timeout in the overload, all in seconds."""

    seconds: float
    p99_limit: float
    timeout: float
    resolution: float
    max_points: int


@dataclass
class Progress:
    """Search state and results of one arm."""

    search: RateSearch
    points: list[dict[str, Any]] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """Return the record for the results file."""
        record = {
            "best_rate": self.search.passed,
            "searched": self.search.is_finished,
            "points": self.points,
            "starts": self.starts,
        }
        return {**record, **self.record}


def ask(module: str, request: Mapping[str, Any], to: set[int] | None, seconds: float) -> dict[str, Any]:
    """Run a module of `benchmarks` as a process on these CPUs and return its answer.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
        subprocess.TimeoutExpired: it took longer than `seconds`.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    with pinned(to):
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    with process:
        try:
            output, errors = process.communicate(json.dumps(request), timeout=seconds)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"{module} failed: {errors[-400:]}")
    answer: dict[str, Any] = json.loads(output)
    return answer


class Bench:
    """Runs servers over the same texts, one at a time; with `pin`, server and load generator on separate CPUs."""

    def __init__(self, plan: Plan, texts: list[str], bundle: Path, *, pin: bool = True) -> None:
        self.plan = plan
        self.texts = texts
        self.bundle = bundle
        self.server_cpus: set[int] | None = None
        self.own_cpus: set[int] | None = None
        if pin and (places := cpus()) is not None:
            self.server_cpus, self.own_cpus = places

    @contextlib.contextmanager
    def serving(self, arm: Arm, progress: Progress) -> Iterator[tuple[Server, str]]:
        """Start the server of an arm and yield it with the URL of the arm's path, once it has answered."""
        port = free_port()
        url = f"http://127.0.0.1:{port}{arm.path}"
        # Without these settings some frameworks use one thread per CPU of the machine.
        environment = {"OMP_NUM_THREADS": str(THREADS), "RAYON_NUM_THREADS": str(THREADS)}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            environment["TMPDIR"] = folder
            log = Path(folder) / "log"
            body = arm.bodies(self.texts[:1])[0]
            with running(arm.command(port), url, body, to=self.server_cpus, environment=environment, log=log) as server:
                progress.starts.append(server.start_seconds)
                self.load(arm, url, clients=4, seconds=min(1.0, self.plan.seconds))
                yield server, url

    def load(self, arm: Arm, url: str, *, seconds: float | None = None, limit: float | None = None, **how: Any) -> Any:
        """Return figures of one load (see `load_generator.Load`). `limit` is the latency limit of the goodput."""
        seconds = seconds or self.plan.seconds
        request = {"url": url, "bodies": arm.bodies(self.texts), "seconds": seconds, **how}
        patience = how.get("patience", OVERLOAD_PATIENCE)
        outcome = ask("serving.load_generator", request, self.own_cpus, 2 * seconds + patience + 30)
        return summary(outcome, seconds, limit or self.plan.timeout)

    def point(self, arm: Arm, url: str, progress: Progress) -> bool:
        """Measure at the next rate of the search. Return True if the server recovered afterwards."""
        search, rate = progress.search, progress.search.rate
        figures = self.load(
            arm, url, rate=rate, seed=search.points, limit=self.plan.p99_limit, patience=SEARCH_PATIENCE
        )
        within = search.record(figures["p99"])
        progress.points.append({"rate": rate, "within": within, **figures})
        print(
            f"  {arm.name:18}{rate:8.1f}/s  p99 {seconds_text(figures['p99'])}  {'ok' if within else 'over'}",
            flush=True,
        )
        return within or self.settled(arm, url)

    def settled(self, arm: Arm, url: str) -> bool:
        """Wait until the latency for one client is that of an idle server. Return False if this takes too long."""
        for _ in range(int(SETTLE_SECONDS / 2)):
            figures = self.load(arm, url, clients=1, seconds=0.5, patience=1.5)
            if figures["p99"] is not None and figures["p99"] <= self.plan.p99_limit:
                return True
        return False

    def search_turn(self, arm: Arm, progress: Progress) -> None:
        """Measure a few points of the search with one start of the server."""
        with self.serving(arm, progress) as (server, url):
            self.check(arm, url, progress)
            for _ in range(POINTS_A_TURN):
                if progress.search.rate is None or not self.point(arm, url, progress):
                    break
                server.check_running()

    def check(self, arm: Arm, url: str, progress: Progress) -> None:
        """Record the scores of the first text, which must be equal for all arms."""
        answer = httpx.post(url, content=arm.bodies(self.texts[:1])[0], headers={"Content-Type": "application/json"})
        progress.record["scores"] = arm.scores(answer.raise_for_status().json())

    def last_turn(self, arm: Arm, progress: Progress, best: float, *, beside_process: bool) -> None:
        """Measure memory, one client, fractions of `best`, half the highest rate, many clients and an overload.

        With `beside_process`, compare a single client with the same computation in a process without a server.
        """
        plan, record, rate = self.plan, progress.record, progress.search.passed
        with self.serving(arm, progress) as (server, url):
            record["memory_bytes"] = server.memory_bytes()
            record["idle"] = self.load(arm, url, clients=1, seconds=plan.seconds / 2)
            if beside_process:
                record["beside_process"] = self.beside_process(arm, url)
            record["same_loads"] = self.same_loads(arm, url, best)
            if rate:
                record["half"] = self.load(arm, url, rate=rate / 2, seed=1)
            record["closed"] = self.load(arm, url, clients=CLOSED_CLIENTS, limit=OVERLOAD_PATIENCE)
            if rate and self.settled(arm, url):
                headers = dict(arm.overload_headers)
                figures = self.load(arm, url, rate=OVERLOAD * rate, seed=2, headers=headers, patience=OVERLOAD_PATIENCE)
                record["overload"] = {"rate": OVERLOAD * rate, **figures}
                record["memory_bytes_after"] = server.memory_bytes()
                server.check_running()
        print(f"  {arm.name:18}{rate:8.1f}/s at best, idle p50 {seconds_text(record['idle']['p50'])}", flush=True)

    def same_loads(self, arm: Arm, url: str, best: float) -> list[dict[str, Any]]:
        """Measure the loads that are equal for all servers, until one from which the server does not recover."""
        loads: list[dict[str, Any]] = []
        for part in SAME_LOADS:
            if loads and not self.settled(arm, url):
                break
            rate = part * best
            loads.append({"part": part, "rate": rate, **self.load(arm, url, rate=rate, seed=3)})
        return loads

    def beside_process(self, arm: Arm, url: str) -> dict[str, list[float]]:
        """Measure the seconds of single texts from the server and in a process without a server, alternately."""
        request = {
            "measure": "idle", "bundle": str(self.bundle), "threads": THREADS, "url": url, "texts": self.texts,
            "bodies": arm.bodies(self.texts), "seconds": self.plan.seconds,
            "server_cpus": sorted(self.server_cpus or ()), "own_cpus": sorted(self.own_cpus or ()),
        }  # fmt: skip
        return ask("serving.raw_onnxruntime", request, self.own_cpus, self.plan.seconds + 60)

    def ceiling(self, budgets: list[int]) -> dict[str, Any]:
        """Measure onnxruntime without a server, on the CPU of the server."""
        request = {
            "measure": "ceiling", "bundle": str(self.bundle), "threads": THREADS, "texts": self.texts,
            "budgets": budgets, "seconds": self.plan.seconds / 2,
        }  # fmt: skip
        return ask("serving.raw_onnxruntime", request, self.server_cpus, self.plan.seconds * len(budgets) + 60)


def seconds_text(seconds: float | None) -> str:
    """Format seconds as milliseconds for the terminal."""
    return "     -   " if seconds is None else f"{1000 * seconds:6.1f} ms"
