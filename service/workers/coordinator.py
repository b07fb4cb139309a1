"""The state of a service of several workers, kept by the supervisor so that it outlives any worker.

Nothing here is part of a request: workers ask for changes by administrators and for the metrics, and are sent the rest.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sparserve.service.catalog.overrides import CatalogChange, CatalogOverrides
from sparserve.service.errors import Unavailable
from sparserve.service.experiments.experiment import Observation
from sparserve.service.experiments.ledger import ExperimentLedger, Models
from sparserve.service.settings import Policy
from sparserve.service.types import ModelRef
from sparserve.service.workers.channel import Channel, ChannelClosed
from sparserve.service.workers.shared_folder import SUPERVISOR

logger = logging.getLogger(__name__)

PUBLISH_TIMEOUT_SECONDS: Final = 1.0
# Time for a worker to make a change; loading a large model takes seconds. A worker that hangs must not hold up others.
CHANGE_TIMEOUT_SECONDS: Final = 300.0


@dataclass(eq=False)
class Member:
    """A worker that runs.

    Attributes:
        counts: True if the service is not ready without this worker: it is one of the first, or has begun to listen.
        joined: True once it has the state of the service.
        reason: why it is not ready.
    """

    number: int
    counts: bool
    channel: Channel | None = None
    pid: int = 0
    joined: bool = False
    listening: bool = False
    reason: str | None = "starting"

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"worker {self.number}"


class Coordinator:
    """Keeps the overrides of the catalog, lets one change happen at a time, and knows if the service is ready.

    Args:
        ledger: keeps the experiments.
    """

    def __init__(self, ledger: ExperimentLedger) -> None:
        self._ledger = ledger
        self.members: list[Member] = []
        self._overrides = CatalogOverrides()
        self._changing = asyncio.Lock()
        self._leader: Member | None = None
        self._announced: str | None = None

    async def add(self, member: Member, end: socket.socket) -> None:
        """Begin to talk to a worker."""

        async def join(pid: int) -> dict[str, Any]:
            return await self._join(member, pid)

        async def change(**fields: Any) -> None:
            await self._change(CatalogChange(**fields))

        member.channel = Channel(
            member.name,
            {
                "join": join,
                "change": change,
                "state": self._state,
                "begin": self._begin_experiment,
                "end": self._end_experiment,
                "read": self._read_experiment,
                "restart": self._restart_experiment,
                "observe": self._observe,
                "ready": lambda reason: self._set_ready(member, reason),
                "listening": lambda: self._set_listening(member),
                "mirrored": lambda: self._have_others_read_store(member),
            },
        )
        self.members.append(member)
        await member.channel.open(end)

    def remove(self, member: Member) -> None:
        """Forget a worker that has ended."""
        self.members.remove(member)
        if member is self._leader:
            self._leader = None
            self._choose_leader()
        self._announce()

    @property
    def listening(self) -> bool:
        """True if any worker accepts connections."""
        return any(member.listening for member in self.members)

    def reason_not_ready(self) -> str | None:
        """Return why the service is not ready, or None if every worker that counts is."""
        return next((f"{one.name}: {one.reason}" for one in self.members if one.counts and one.reason), None)

    def tell(self, kind: str, **fields: Any) -> None:
        """Send a message to every worker that has joined."""
        for member in self._joined():
            assert member.channel is not None
            member.channel.tell(kind, **fields)

    def _joined(self) -> list[Member]:
        """Return the workers that have the state of the service, the leader first."""
        members = [member for member in self.members if member.joined]
        return sorted(members, key=lambda member: (member is not self._leader, member.number))

    async def _join(self, member: Member, pid: int) -> dict[str, Any]:
        async with self._changing:  # a change that is under way is not known to this worker: it waits for the result
            member.joined, member.pid = True, pid
            self._choose_leader()
            return {
                "overrides": self._overrides.to_message(),
                "leads": member is self._leader,
                "reason": self.reason_not_ready(),
                "experiments": self._experiments(),
            }

    def _choose_leader(self) -> None:
        """Have one worker do what only one may do: mirror the store's URL."""
        if self._leader is None and (joined := self._joined()):
            self._leader = joined[0]
            assert self._leader.channel is not None
            self._leader.channel.tell("lead")

    def _set_ready(self, member: Member, reason: str | None) -> None:
        member.reason = reason
        self._announce()

    def _set_listening(self, member: Member) -> None:
        member.counts = member.listening = True
        self._announce()

    def _have_others_read_store(self, leader: Member) -> None:
        """Have the other workers read the store now that a URL has been mirrored into it."""
        for member in self._joined():
            if member is not leader and member.channel is not None:
                member.channel.tell("read")

    def _announce(self) -> None:
        reason = self.reason_not_ready()
        if reason != self._announced:
            self._announced = reason
            self.tell("reason", reason=reason)

    async def _change(self, change: CatalogChange) -> None:
        """Let every worker make a change. If one refuses, the others return to what was before.

        A worker that ends meanwhile does not matter: the one that replaces it gets the new state.

        Raises:
            ServiceError: as raised by the worker that refused.
        """
        async with self._changing:
            members = self._joined()
            if not members:
                raise Unavailable("no worker is running: try again in a moment")
            leader, others = members[0], members[1:]
            try:
                if change.action == "default":
                    checked: dict[str, Any] = {"task": change.task, "variant": change.variant}
                    _raise_first(await _all(self._ask(one, "check", **checked) for one in others))
                done = await self._ask(leader, "apply", **asdict(change))
                _raise_first(await _all(self._ask(one, "apply", **done["change"]) for one in others))
            except Exception:
                before = self._overrides.to_message()
                await _all(self._ask(one, "adopt", overrides=before) for one in members)
                raise
            self._overrides = CatalogOverrides.from_message(done["overrides"])

    async def _state(self) -> dict[str, Any]:
        """Have each worker write its gauges, and return the state of the whole service."""
        members = self._joined()
        asked = await _all(self._ask(one, "publish", seconds=PUBLISH_TIMEOUT_SECONDS) for one in members)
        known = [one for one in asked if isinstance(one, dict)]
        return {
            "workers": sum(member.listening for member in members),
            "readable": min((one["readable"] for one in known), default=0),
            "last_read": max((one["last_read"] for one in known), default=0),
            "refused": max((one["refused"] for one in known), default=0),
            "experiments": [
                [task, one.policy.candidate, one.agreement.rate, one.agreement.drift.mean, one.agreement.inputs]
                for task, one in self._ledger.experiments.items()
                if one.agreement.inputs
            ],
            "processes": {SUPERVISOR: os.getpid(), **{str(one.number): one.pid for one in members}},
        }

    async def _begin_experiment(
        self, task: str, policy: dict[str, Any], models: Sequence[dict[str, str]]
    ) -> dict[str, Any]:
        experiment = await self._ledger.begin(task, Policy(**policy), _models(models))
        self._announce_experiments()
        return experiment.to_message()

    async def _end_experiment(self, task: str) -> dict[str, Any] | None:
        experiment = await self._ledger.end(task)
        self._announce_experiments()
        return experiment.to_message() if experiment else None

    async def _read_experiment(self, task: str) -> dict[str, Any] | None:
        experiment = await self._ledger.read(task)
        return experiment.to_message() if experiment else None

    def _restart_experiment(self, task: str, id: str, models: Sequence[dict[str, str]]) -> None:
        experiment = self._ledger.experiments.get(task)
        if experiment is not None and experiment.id == id:
            self._ledger.restart(task, experiment, _models(models))
            self._announce_experiments()

    def _observe(self, observations: Sequence[dict[str, Any]]) -> None:
        """Count what a worker has observed; a decision of the guard reaches all workers at once."""
        for one in observations:
            task, observation = one["task"], one["observation"]
            experiment = self._ledger.experiments.get(task)
            if experiment is None or experiment.id != one["id"]:
                continue  # it has ended meanwhile
            if observation is None:
                self._ledger.not_compared(task, experiment)
                continue
            running = experiment.stopped is None
            self._ledger.observe(task, experiment, Observation(**observation))
            if running and experiment.stopped:
                self._announce_experiments()

    def _experiments(self) -> dict[str, Any]:
        return {task: experiment.to_message() for task, experiment in self._ledger.experiments.items()}

    def _announce_experiments(self) -> None:
        self.tell("experiments", experiments=self._experiments())

    async def _ask(self, member: Member, kind: str, *, seconds: float = CHANGE_TIMEOUT_SECONDS, **fields: Any) -> Any:
        """Ask a worker.

        Raises:
            ServiceError: it refuses, has ended, or does not answer in time.
        """
        assert member.channel is not None
        try:
            return await asyncio.wait_for(member.channel.ask(kind, **fields), seconds)
        except TimeoutError as error:
            raise Unavailable(f"{member.name} does not answer: try again, or restart the service") from error


def _models(models: Sequence[dict[str, str]]) -> Models:
    default, candidate = (ModelRef(**model) for model in models)
    return default, candidate


async def _all(asked: Iterable[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*asked, return_exceptions=True)


def _raise_first(results: Iterable[Any]) -> None:
    """Raise the first error of a worker that still runs."""
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, ChannelClosed):
            raise result
