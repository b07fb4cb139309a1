"""Supervise the workers of a service: start them, replace those that die, and stop all on a signal.

Workers are new interpreters, not forks: threads and libraries' locks do not survive a fork. They inherit the listening
sockets, so a connection that waits in a socket is accepted by another worker if one dies.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, values

from sparserve.service.experiments.ledger import ExperimentLedger
from sparserve.service.observability.metrics import ExperimentMetrics, WorkerMetrics
from sparserve.service.observability.worker_metrics import FileValues, reserve_metrics
from sparserve.service.server.listener import ConnectionCounts
from sparserve.service.server.stop_signals import STOP_SIGNALS, StopSignals
from sparserve.service.settings import Settings
from sparserve.service.workers.assignment import Assignment
from sparserve.service.workers.coordinator import Coordinator, Member
from sparserve.service.workers.exit_codes import EXIT_DROPPED, EXIT_NOT_STARTED, EXIT_USAGE
from sparserve.service.workers.shared_folder import SUPERVISOR, shared_folder
from sparserve.service.workers.sockets import bind_sockets, reserve_grpc_port

logger = logging.getLogger(__name__)

# A worker that dies sooner than this after its start is replaced after a pause, which doubles up to the limit.
STABLE_SECONDS: Final = 30.0
FIRST_PAUSE_SECONDS: Final = 0.5
MAX_PAUSE_SECONDS: Final = 30.0
# Time that a worker needs to stop, beside the delay and the grace time of its requests.
STOP_SECONDS: Final = 10.0


def supervise(settings: Settings, count: int, argv: Sequence[str], signals: StopSignals) -> int:
    """Run `count` workers with the command line `argv` until a signal stops the service; return the exit code."""
    try:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(shared_folder(count))
            listeners = [stack.enter_context(one) for one in bind_sockets(settings.host, settings.port)]
            grpc_port, reserved = reserve_grpc_port(settings.host, settings.grpc_port)
            stack.enter_context(reserved)
            values.ValueClass = own_values = FileValues(folder, SUPERVISOR)
            stack.callback(own_values.close)
            command = [sys.executable, *(f"-W{option}" for option in sys.warnoptions), "-m", "sparserve.service", *argv]
            supervisor = Supervisor(
                settings, count, command, listeners=listeners, grpc_port=grpc_port, folder=folder, signals=signals
            )
            return asyncio.run(supervisor.run())
    except OSError as error:
        logging.getLogger("sparserve").error("the service cannot start: %s", error)
        return EXIT_NOT_STARTED


class Supervisor:
    """Runs workers and keeps their number.

    Args:
        settings: those of the service.
        count: number of workers.
        command: starts one; the assignment is in its environment.
        listeners: listening sockets.
        grpc_port: the port that the workers share for gRPC.
        folder: of the files that the workers share.
        signals: those that arrived before this process listens to them.
    """

    def __init__(
        self,
        settings: Settings,
        count: int,
        command: Sequence[str],
        *,
        listeners: Sequence[socket.socket],
        grpc_port: int | None,
        folder: Path,
        signals: StopSignals,
    ) -> None:
        self._settings = settings
        self._count = count
        self._command = command
        self._listeners = listeners
        self._grpc_port = grpc_port
        self._folder = folder
        self._signals = signals
        registries = CollectorRegistry(), CollectorRegistry()
        self._coordinator = Coordinator(ExperimentLedger(settings.experiments, ExperimentMetrics(*registries)))
        self._restarts = WorkerMetrics(*registries).restarts
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Run the workers until all have ended; return the exit code of the service."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop, number)
        for received in self._signals.received:
            self._stop(received)
        if not self._stopping.is_set():
            keeping = [asyncio.create_task(self._keep(number)) for number in range(self._count)]
            await asyncio.wait(keeping)
            for task in keeping:
                task.result()
        return self._exit_code

    async def _keep(self, number: int) -> None:
        """Run one worker after another until the service stops."""
        pause, restarted = 0.0, False
        while not self._stopping.is_set():
            began = time.monotonic()
            member = Member(number, counts=not restarted)
            try:
                status = await self._run_worker(member, restarted=restarted)
            except OSError as error:  # no memory, no descriptors, no processes
                logger.error("%s cannot be started: %s", member.name, error)
                status = EXIT_NOT_STARTED
            if self._stopping.is_set():
                if status and member.joined:
                    self._exit_code = self._exit_code or EXIT_DROPPED
                return
            if status in (EXIT_USAGE, EXIT_NOT_STARTED) and not (restarted or member.joined):
                self._exit_code = status
                self._stop(signal.SIGTERM)
                return
            restarted = True
            stable = time.monotonic() - began >= STABLE_SECONDS
            pause = 0.0 if stable else min(max(2 * pause, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
            self._restarts.inc()
            logger.error("%s %s; it is replaced in %g s", member.name, _ending(status), pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run_worker(self, member: Member, *, restarted: bool) -> int:
        """Start a worker, wait for its end, and return its exit status."""
        number = member.number
        replacement = restarted and self._coordinator.listening
        end, other_end = socket.socketpair()
        with other_end:
            assignment = Assignment(
                number=number,
                count=self._count,
                channel=other_end.fileno(),
                listeners=tuple(listener.fileno() for listener in self._listeners),
                grpc_port=self._grpc_port,
                folder=str(self._folder),
                replacement=replacement,
            )
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**os.environ, **assignment.to_environment()},
                pass_fds=(assignment.channel, *assignment.listeners),
                process_group=0,  # Ctrl-C in a terminal is for the supervisor, which stops the workers in order
            )
        self._processes[number] = process
        await self._coordinator.add(member, end)
        if self._stopping.is_set():
            process.terminate()
        status = await process.wait()
        del self._processes[number]
        self._coordinator.remove(member)
        ConnectionCounts(self._folder, number).leave()
        if not self._stopping.is_set():
            try:
                reserve_metrics(self._folder, number)
            except OSError as error:
                logger.error("%s has ended, but its gauges stay in the sums of /metrics: %s", member.name, error)
        return status

    def _stop(self, received: int) -> None:
        """Stop the service; a second signal skips the delay before the sockets are closed."""
        if self._stopping.is_set():
            self._coordinator.tell("hurry", force=received == signal.SIGINT)
            return
        self._stopping.set()
        logger.info("%d workers are stopping", len(self._processes))
        for listener in self._listeners:  # the workers have their own descriptors
            listener.close()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        limit = self._settings.shutdown_delay_seconds + self._settings.grace_seconds + STOP_SECONDS
        asyncio.get_running_loop().call_later(limit, self._kill)

    def _kill(self) -> None:
        for number, process in self._processes.items():
            logger.error("worker %d does not stop and is killed", number)
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def _ending(status: int) -> str:
    """Describe an exit status."""
    if status >= 0:
        return f"ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
