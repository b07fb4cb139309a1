"""The supervisor's state: one change at a time, in all workers or in none, and known to every worker that starts."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import pytest

from sparserve.service.catalog.overrides import CatalogChange, CatalogOverrides
from sparserve.service.errors import InvalidRequest
from sparserve.service.experiments.ledger import ExperimentLedger
from sparserve.service.observability.metrics import Metrics
from sparserve.service.workers.channel import Channel
from sparserve.service.workers.coordinator import Coordinator, Member

PIN = CatalogChange("pin", "task", "dense", "1" * 16)
PINNED = CatalogOverrides({("task", "dense"): "1" * 16})


class FakeWorker:
    """A worker that notes its orders, and can refuse changes."""

    def __init__(self, number: int, *, counts: bool = True) -> None:
        self.member = Member(number, counts)
        self.orders: list[str] = []
        self.overrides = CatalogOverrides()
        self.refuses = False
        self.dies = False
        self.reason: str | None = "unknown"
        self.leads = False
        self.channel = Channel(
            "the supervisor",
            {
                "apply": self._apply,
                "adopt": self._adopt,
                "check": lambda **_: self.orders.append("check"),
                "publish": lambda: {"readable": 1.0, "last_read": float(number), "refused": 0.0},
                "reason": self._set_reason,
                "lead": self._lead,
            },
        )

    async def start(self, coordinator: Coordinator) -> dict[str, Any]:
        """Join; return the state that the worker got."""
        ends = socket.socketpair()
        await coordinator.add(self.member, ends[0])
        await self.channel.open(ends[1])
        state: dict[str, Any] = await self.channel.ask("join", pid=100 + self.member.number)
        self.overrides = CatalogOverrides.from_message(state["overrides"])
        return state

    def _apply(self, **fields: Any) -> dict[str, Any]:
        self.orders.append(fields["action"])
        if self.dies:
            self.channel.close()
        if self.refuses:
            raise InvalidRequest(f"{self.member.name} refuses")
        self.overrides = PINNED
        return {"change": fields, "overrides": PINNED.to_message()}

    def _adopt(self, overrides: dict[str, Any]) -> None:
        self.orders.append("adopt")
        self.overrides = CatalogOverrides.from_message(overrides)

    def _set_reason(self, reason: str | None) -> None:
        self.reason = reason

    def _lead(self) -> None:
        self.leads = True


@contextlib.asynccontextmanager
async def service(count: int = 2) -> AsyncIterator[tuple[Coordinator, list[FakeWorker]]]:
    coordinator = Coordinator(ExperimentLedger({}, Metrics().experiments))
    workers = [FakeWorker(number) for number in range(count)]
    for worker in workers:
        await worker.start(coordinator)
    yield coordinator, workers
    for worker in workers:
        worker.channel.close()


def test_change_is_made_by_every_worker_and_known_to_later_ones() -> None:
    async def run() -> None:
        async with service() as (coordinator, workers):
            await workers[1].channel.ask("change", **asdict(PIN))
            assert [worker.orders for worker in workers] == [["pin"], ["pin"]]
            later = FakeWorker(2)
            await later.start(coordinator)
            assert later.overrides == PINNED
            later.channel.close()

    asyncio.run(run())


@pytest.mark.parametrize("refusing", [0, 1])
def test_change_that_one_worker_refuses_is_kept_by_none(refusing: int) -> None:
    async def run() -> None:
        async with service() as (coordinator, workers):
            workers[refusing].refuses = True
            with pytest.raises(InvalidRequest, match=f"worker {refusing} refuses"):
                await workers[0].channel.ask("change", **asdict(PIN))
            assert [worker.overrides for worker in workers] == [CatalogOverrides()] * 2
            later = FakeWorker(2)
            await later.start(coordinator)
            assert later.overrides == CatalogOverrides()
            later.channel.close()

    asyncio.run(run())


def test_change_outlives_a_worker_that_dies_meanwhile() -> None:
    async def run() -> None:
        async with service() as (_, workers):
            workers[1].dies = True
            await workers[0].channel.ask("change", **asdict(PIN))
            assert workers[0].overrides == PINNED

    asyncio.run(run())


def test_default_is_set_only_if_every_worker_serves_the_variant() -> None:
    async def run() -> None:
        async with service() as (_, workers):
            await workers[0].channel.ask("change", **asdict(CatalogChange("default", "task", "dense")))
            assert [worker.orders for worker in workers] == [["default"], ["check", "default"]]

    asyncio.run(run())


def test_service_is_ready_when_every_first_worker_is() -> None:
    async def run() -> None:
        async with service() as (coordinator, workers):
            workers[0].channel.tell("ready", reason=None)
            await workers[0].channel.ask("state")
            assert coordinator.reason_not_ready() == "worker 1: starting"
            workers[1].channel.tell("ready", reason=None)
            await workers[1].channel.ask("state")
            assert coordinator.reason_not_ready() is None
            assert [worker.reason for worker in workers] == [None, None]
            # One that replaces another does not count before it listens.
            third = FakeWorker(2, counts=False)
            state = await third.start(coordinator)
            assert state["reason"] is None
            third.channel.tell("listening")
            await third.channel.ask("state")
            assert coordinator.reason_not_ready() == "worker 2: starting"
            third.channel.close()

    asyncio.run(run())


def test_another_worker_leads_when_the_leader_has_ended() -> None:
    async def run() -> None:
        async with service() as (coordinator, workers):
            assert [worker.leads for worker in workers] == [True, False]
            coordinator.remove(workers[0].member)
            await workers[1].channel.ask("state")
            assert workers[1].leads

    asyncio.run(run())


def test_state_is_that_of_the_whole_service() -> None:
    async def run() -> dict[str, Any]:
        async with service() as (_, workers):
            for worker in workers:
                worker.channel.tell("listening")
            state: dict[str, Any] = await workers[0].channel.ask("state")
            return state

    state = asyncio.run(run())
    assert (state["workers"], state["last_read"], state["readable"]) == (2, 1.0, 1.0)
    assert state["processes"].keys() == {"supervisor", "0", "1"}
