"""Bench: starts a server, sends it loads, and asks for measurements without a server."""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.loopback import free_port
from benchmarks.serving.arms import THREADS, Arm, Graph
from benchmarks.serving.load.rate_search import summary
from benchmarks.serving.server_process import ROOT, Server, cpus, pinned, running

OVERLOAD_PATIENCE: Final = 10.0
SETTLE_SECONDS: Final = 20.0
WARM_UP_CLIENTS: Final = 4


@dataclass(frozen=True)
class Plan:
    """Duration of a load, limit of the p99 latency and client timeout in the overload, all in seconds."""

    seconds: float
    p99_limit: float
    timeout: float
    resolution: float
    max_points: int


@dataclass(frozen=True)
class Running:
    """The running server of an arm and the URL of the arm's path."""

    arm: Arm
    server: Server
    url: str


def ask(module: str, request: Mapping[str, Any], to: set[int] | None, seconds: float) -> Any:
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
    return json.loads(output)


class Bench:
    """Runs servers over the same texts, one at a time; with `pin`, server and load generator on separate CPUs."""

    def __init__(self, plan: Plan, texts: list[str], *, pin: bool = True) -> None:
        self.plan = plan
        self.texts = texts
        self.server_cpus: set[int] | None = None
        self.own_cpus: set[int] | None = None
        if pin and (places := cpus()) is not None:
            self.server_cpus, self.own_cpus = places

    @contextlib.contextmanager
    def serving(self, arm: Arm) -> Iterator[Running]:
        """Start the server of an arm and yield it once it has answered and was warmed up."""
        port = free_port()
        url = f"http://127.0.0.1:{port}{arm.path}"
        # Without the numbers of threads some frameworks use one thread per CPU of the machine.
        environment = {
            "OMP_NUM_THREADS": str(THREADS), "RAYON_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            environment["TMPDIR"] = folder
            log = Path(folder) / "log"
            body = arm.bodies(self.texts[:1])[0]
            to = None if arm.all_cpus else self.server_cpus
            with running(arm.command(port), url, body, to=to, environment=environment, log=log) as server:
                one = Running(arm, server, url)
                self.load(one, clients=WARM_UP_CLIENTS, seconds=min(1.0, self.plan.seconds))
                yield one

    def load(self, one: Running, *, seconds: float | None = None, limit: float | None = None, **how: Any) -> Any:
        """Return figures of one load (see `load.generator.Load`). `limit` is the latency limit of the goodput."""
        seconds = seconds or self.plan.seconds
        bodies = one.arm.bodies(self.texts)
        request = {"url": one.url, "bodies": bodies, "seconds": seconds, "server": one.server.pid, **how}
        patience = how.get("patience", OVERLOAD_PATIENCE)
        to = None if one.arm.all_cpus else self.own_cpus
        before = self.batches(one)
        outcome = ask("serving.load.generator", request, to, 2 * seconds + patience + 30)
        figures = summary(outcome, seconds, limit or self.plan.timeout)
        if before is not None and (after := self.batches(one)) is not None and after[1] > before[1]:
            figures["mean_batch"] = (after[0] - before[0]) / (after[1] - before[1])
        return figures

    def batches(self, one: Running) -> tuple[float, float] | None:
        """Return the number of inputs and of batches that the server has run, or None if it does not tell them."""
        if one.arm.metrics is None:
            return None
        try:
            text = httpx.get(httpx.URL(one.url).join(one.arm.metrics), trust_env=False).raise_for_status().text
        except httpx.HTTPError:  # an overloaded server
            return None
        samples = re.findall(r"^\w*batch_inputs_(sum|count)(?:{.*})? (\S+)$", text, re.MULTILINE)
        inputs, batches = (sum(float(value) for name, value in samples if name == kind) for kind in ("sum", "count"))
        return inputs, batches

    def settled(self, one: Running) -> bool:
        """Wait until the latency for one client is that of an idle server. Return False if this takes too long."""
        for _ in range(int(SETTLE_SECONDS / 2)):
            figures = self.load(one, clients=1, seconds=0.5, patience=1.5)
            if figures["p99"] is not None and figures["p99"] <= self.plan.p99_limit:
                return True
        return False

    def alone(self, measure: str, graph: Graph, *, seconds: float, limit: float, **request: Any) -> Any:
        """Ask `raw_onnxruntime` for a measurement of a graph on the CPU of the server."""
        content = {
            "measure": measure, "bundle": str(graph.bundle.folder), "runtime": graph.runtime, "threads": THREADS,
            "texts": self.texts, "seconds": seconds, "server_cpus": sorted(self.server_cpus or ()),
            "own_cpus": sorted(self.own_cpus or ()), **request,
        }  # fmt: skip
        return ask("serving.raw_onnxruntime", content, self.server_cpus, seconds + limit)


def seconds_text(seconds: float | None) -> str:
    """Format seconds as milliseconds for the terminal."""
    return "     -   " if seconds is None else f"{1000 * seconds:6.1f} ms"
