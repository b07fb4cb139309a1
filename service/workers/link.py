"""A worker's side of the channel to its supervisor."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from sparserve.service.catalog.overrides import CatalogChange, CatalogOverrides
from sparserve.service.core import ServingCore
from sparserve.service.errors import Unavailable
from sparserve.service.settings import Settings
from sparserve.service.workers.assignment import Assignment
from sparserve.service.workers.channel import Channel
from sparserve.service.workers.remote_ledger import RemoteLedger

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.1
# An order waits this long for the first models of a worker that has just started.
LOADED_TIMEOUT_SECONDS: Final = 30.0
# `/metrics` answers with what is known after this time.
STATE_TIMEOUT_SECONDS: Final = 2.0


class WorkerLink:
    """Makes one worker of several behave as a part of one service.

    It gets the state of the service before it answers a request. It makes the changes that the supervisor orders, sends
    its own readiness, and knows that of the whole.

    Attributes:
        settings: those of the whole service.
        count: workers of the service.
        folder: of the files that the workers share.
        ledger: experiments of the whole service.
        lost: called when the supervisor has ended: the worker cannot be a part of the service any more.
        hurry: called for a second signal to stop.
    """

    def __init__(self, assignment: Assignment, settings: Settings) -> None:
        self.settings = settings
        self.count = assignment.count
        self.folder = Path(assignment.folder)
        self.lost: Callable[[], object] = lambda: None
        self.hurry: Callable[[bool], object] = lambda force: None
        self.orphaned = False
        self._assignment = assignment
        self._core: ServingCore | None = None
        self._reason: str | None = "the other workers are starting"
        self._channel = Channel(
            "the supervisor",
            {
                "apply": self._apply,
                "adopt": self._adopt,
                "check": self._check,
                "publish": self._publish,
                "reason": self._set_reason,
                "lead": self._lead,
                "read": self._read_store,
                "experiments": lambda experiments: self.ledger.update(experiments),
                "hurry": lambda force: self.hurry(force),
            },
        )
        self.ledger = RemoteLedger(self._channel)
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, core: ServingCore) -> None:
        """Become a part of the service, with its present state."""
        self._core = core
        await self._channel.open(socket.socket(fileno=self._assignment.channel))
        self._start(self._watch_supervisor())
        state = await self._channel.ask("join", pid=os.getpid())
        core.catalog.overrides = CatalogOverrides.from_message(state["overrides"])
        core.catalog.follows = not state["leads"]
        self.ledger.leads = state["leads"]
        self.ledger.update(state["experiments"])
        self._reason = state["reason"]

    async def listening(self) -> None:
        """Begin to report the readiness; a replacement waits here until its models are loaded."""
        core = self._joined
        self._start(self._report())
        if self._assignment.replacement:
            loaded = asyncio.ensure_future(core.loaded())
            while not loaded.done() and not core.drain.draining:
                await asyncio.wait([loaded], timeout=POLL_SECONDS)
            loaded.cancel()
        self._channel.tell("listening")

    async def leave(self) -> None:
        """Stop to report; the channel stays open until the process ends."""
        self.ledger.flush()
        for task in self._tasks:
            task.cancel()

    def reason_not_ready(self) -> str | None:
        """Return why the service as a whole is not ready, or None if it is."""
        return self._reason

    async def change(self, change: CatalogChange) -> None:
        """Have a change made by every worker."""
        await self._channel.ask("change", **asdict(change))

    async def state(self) -> dict[str, Any]:
        """Return the state of the whole service; empty if the supervisor does not answer in time."""
        with contextlib.suppress(TimeoutError, Unavailable):
            answer: dict[str, Any] = await asyncio.wait_for(self._channel.ask("state"), STATE_TIMEOUT_SECONDS)
            return answer
        return {}

    @property
    def _joined(self) -> ServingCore:
        assert self._core is not None
        return self._core

    async def _apply(self, **fields: Any) -> dict[str, Any]:
        """Make a change; return it as the other workers have to make it, and all changes so far."""
        core = self._joined
        await self._models_loaded()
        change = await core.run_admin(partial(core.catalog.apply, CatalogChange(**fields)))
        return {"change": asdict(change), "overrides": core.catalog.overrides.to_message()}

    async def _adopt(self, overrides: dict[str, Any]) -> None:
        core = self._joined
        await core.run_admin(partial(core.catalog.adopt, CatalogOverrides.from_message(overrides)))

    async def _check(self, task: str, variant: str) -> None:
        """Raise an error if a variant cannot answer here."""
        await self._models_loaded()
        self._joined.catalog.engine(task, variant)

    async def _models_loaded(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._joined.loaded(), LOADED_TIMEOUT_SECONDS)

    def _publish(self) -> dict[str, float]:
        """Write the gauges that are functions; return those that describe the store."""
        return self._joined.metrics.publish()

    def _set_reason(self, reason: str | None) -> None:
        self._reason = reason

    async def _read_store(self) -> None:
        await self._joined.run_admin(self._joined.catalog.sync)

    def _lead(self) -> None:
        self.ledger.leads = True
        self._joined.catalog.lead()

    async def _report(self) -> None:
        """Send the readiness when it changes, and what experiments have observed."""
        reported: object = self
        mirrored = not self.settings.store_url
        while True:
            if self.ledger.leads and not mirrored and self._joined.catalog.loaded.done():
                mirrored = self._channel.tell("mirrored")
            reason = self._joined.catalog.reason_not_ready()
            if reason != reported and self._channel.tell("ready", reason=reason):
                reported = reason
            for task in self.ledger.experiments:
                self._joined.experiments.follow_versions(task)
            self.ledger.flush()
            await asyncio.sleep(POLL_SECONDS)

    async def _watch_supervisor(self) -> None:
        await self._channel.closed.wait()
        self.orphaned = True
        logger.error("the supervisor has ended: worker %d stops", self._assignment.number)
        self.lost()

    def _start(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))
