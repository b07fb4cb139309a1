"""What is measured of a server: a search for its highest rate in several turns, then its behaviour around that rate."""

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
# Of what onnxruntime alone does at best: loads that are the same for all servers.
SAME_LOADS: Final = (0.25, 0.5, 0.75)
# In the search a client of ten times the latency that is allowed tells nothing more by waiting on.
SEARCH_PATIENCE: Final = 1.0
OVERLOAD_PATIENCE: Final = 10.0
SETTLE_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Plan:
    """Seconds of a load, the p99 to keep and the time that clients of an overloaded server have, all in seconds."""

    seconds: float
    p99_limit: float
    timeout: float
    resolution: float
    most_points: int


@dataclass
class Progress:
    """What is known of one arm."""

    search: RateSearch
    points: list[dict[str, Any]] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """For the results file."""
        found = {
            "best_rate": self.search.passed,
            "searched": self.search.found,
            "points": self.points,
            "starts": self.starts,
        }
        return {**found, **self.record}


def ask(module: str, request: Mapping[str, Any], to: set[int] | None, seconds: float) -> dict[str, Any]:
    """What a module of this folder answers as a process on these CPUs; `seconds` is how long it may take.

    Raises:
        RuntimeError: it failed, with the end of what it said; or `subprocess.TimeoutExpired`.
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
    """Servers over the same texts, one at a time; with `pin` on one CPU, and the load generator on another."""

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
        """Start an arm's server; it has answered, and its address is that of the arm's path."""
        port = free_port()
        url = f"http://127.0.0.1:{port}{arm.path}"
        # Frameworks that know of neither setting would take a thread for every CPU of the machine.
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
        """Figures of one load, see `serving_load.Load`; `limit` is of goodput, by default the clients' own."""
        seconds = seconds or self.plan.seconds
        request = {"url": url, "bodies": arm.bodies(self.texts), "seconds": seconds, **how}
        patience = how.get("patience", OVERLOAD_PATIENCE)
        outcome = ask("serving.load_generator", request, self.own_cpus, 2 * seconds + patience + 30)
        return summary(outcome, seconds, limit or self.plan.timeout)

    def point(self, arm: Arm, url: str, progress: Progress) -> bool:
        """Measure at the rate that the search asks for; whether the server has come to rest after it."""
        search, rate = progress.search, progress.search.rate
        found = self.load(arm, url, rate=rate, seed=search.points, limit=self.plan.p99_limit, patience=SEARCH_PATIENCE)
        within = search.tell(found["p99"])
        progress.points.append({"rate": rate, "within": within, **found})
        print(
            f"  {arm.name:18}{rate:8.1f}/s  p99 {seconds_text(found['p99'])}  {'ok' if within else 'over'}", flush=True
        )
        return within or self.settled(arm, url)

    def settled(self, arm: Arm, url: str) -> bool:
        """Wait until the server answers one client as an idle one does; False if it does not in time."""
        for _ in range(int(SETTLE_SECONDS / 2)):
            found = self.load(arm, url, clients=1, seconds=0.5, patience=1.5)
            if found["p99"] is not None and found["p99"] <= self.plan.p99_limit:
                return True
        return False

    def search_turn(self, arm: Arm, progress: Progress) -> None:
        """A few points of the search with one start of the server."""
        with self.serving(arm, progress) as (server, url):
            self.check(arm, url, progress)
            for _ in range(POINTS_A_TURN):
                if progress.search.rate is None or not self.point(arm, url, progress):
                    break
                server.check_running()

    def check(self, arm: Arm, url: str, progress: Progress) -> None:
        """Write down what the server says of the first text: all arms have to say the same."""
        answer = httpx.post(url, content=arm.bodies(self.texts[:1])[0], headers={"Content-Type": "application/json"})
        progress.record["scores"] = arm.scores(answer.raise_for_status().json())

    def last_turn(self, arm: Arm, progress: Progress, best: float, *, beside_process: bool) -> None:
        """Memory, one client alone, parts of `best` and of the own highest rate, many clients, three times the rate.

        With `beside_process` the single client's texts are computed in a process of their own in turn.
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
                found = self.load(arm, url, rate=OVERLOAD * rate, seed=2, headers=headers, patience=OVERLOAD_PATIENCE)
                record["overload"] = {"rate": OVERLOAD * rate, **found}
                record["memory_bytes_after"] = server.memory_bytes()
                server.check_running()
        print(f"  {arm.name:18}{rate:8.1f}/s at best, idle p50 {seconds_text(record['idle']['p50'])}", flush=True)

    def same_loads(self, arm: Arm, url: str, best: float) -> list[dict[str, Any]]:
        """The same loads for all servers, up to the first one that this one does not recover from in time."""
        found: list[dict[str, Any]] = []
        for part in SAME_LOADS:
            if found and not self.settled(arm, url):
                break
            rate = part * best
            found.append({"part": part, "rate": rate, **self.load(arm, url, rate=rate, seed=3)})
        return found

    def beside_process(self, arm: Arm, url: str) -> dict[str, list[float]]:
        """Seconds of single texts by the server and in a process without one, in turn."""
        request = {
            "measure": "idle", "bundle": str(self.bundle), "threads": THREADS, "url": url, "texts": self.texts,
            "bodies": arm.bodies(self.texts), "seconds": self.plan.seconds,
            "server_cpus": sorted(self.server_cpus or ()), "own_cpus": sorted(self.own_cpus or ()),
        }  # fmt: skip
        return ask("serving.raw_onnxruntime", request, self.own_cpus, self.plan.seconds + 60)

    def ceiling(self, budgets: list[int]) -> dict[str, Any]:
        """onnxruntime without a server, on the server's CPU."""
        request = {
            "measure": "ceiling", "bundle": str(self.bundle), "threads": THREADS, "texts": self.texts,
            "budgets": budgets, "seconds": self.plan.seconds / 2,
        }  # fmt: skip
        return ask("serving.raw_onnxruntime", request, self.server_cpus, self.plan.seconds * len(budgets) + 60)


def seconds_text(seconds: float | None) -> str:
    """Milliseconds for the terminal."""
    return "     -   " if seconds is None else f"{1000 * seconds:6.1f} ms"
