"""Experiments of several workers: one set of statistics, one decision of the guard, known to all."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from sparserve.service.experiments.experiment import Experiment, Observation
from sparserve.service.experiments.ledger import ExperimentLedger
from sparserve.service.observability.metrics import Metrics
from sparserve.service.settings import Guard, Policy
from sparserve.service.types import ModelRef
from sparserve.service.workers.channel import Channel
from sparserve.service.workers.coordinator import Coordinator, Member
from sparserve.service.workers.remote_ledger import RemoteLedger

POLICY = Policy(mode="shadow", candidate="c", share=1, guard=Guard(agreement=0.9, inputs=10))
DEFAULT, CANDIDATE = (ModelRef(task="t", variant=variant, version="1" * 16) for variant in ("d", "c"))
NEWER = ModelRef(task="t", variant="c", version="2" * 16)


def observation(*digests: int, agree: bool = True) -> Observation:
    count = len(digests)
    return Observation(digests, [agree] * count, [0.1] * count, default_seconds=0.01, candidate_seconds=0.001)


@contextlib.asynccontextmanager
async def two_workers() -> AsyncIterator[list[RemoteLedger]]:
    """Yield the ledgers of two workers; the first one leads."""
    coordinator = Coordinator(ExperimentLedger({}, Metrics().experiments))
    ledgers: list[RemoteLedger] = []
    channels = []
    for number in range(2):
        ends = socket.socketpair()
        channel = Channel(
            "the supervisor",
            {
                "experiments": lambda experiments, number=number: ledgers[number].update(experiments),
                "lead": lambda: None,
                "reason": lambda reason: None,
            },
        )
        ledgers.append(RemoteLedger(channel))
        await coordinator.add(Member(number, True), ends[0])
        await channel.open(ends[1])
        ledgers[number].leads = (await channel.ask("join", pid=1))["leads"]
        channels.append(channel)
    yield ledgers
    for channel in channels:
        channel.close()


async def figures(ledger: RemoteLedger) -> Experiment:
    experiment = await ledger.read("t")
    assert experiment is not None
    return experiment


def test_ledger_counts_each_input_once_across_workers() -> None:
    async def run() -> None:
        async with two_workers() as (first, second):
            begun = await first.begin("t", POLICY, (DEFAULT, CANDIDATE))
            await figures(second)
            assert second.experiments["t"].id == begun.id and second.experiments["t"].key == begun.key
            first.observe("t", begun, observation(1, 2, 3))
            assert (await figures(first)).agreement.inputs == 3
            second.observe("t", second.experiments["t"], observation(2, 3, 4))
            second.not_compared("t", begun)
            seen = await figures(second)
            assert (seen.agreement.inputs, seen.repeated, seen.not_compared) == (4, 2, 1)
            ended = await second.end("t")
            assert ended is not None and ended.agreement.inputs == 4
            assert await first.read("t") is None
            assert not first.experiments

    asyncio.run(run())


def test_ledger_guard_stops_the_candidate_in_every_worker() -> None:
    async def run() -> None:
        async with two_workers() as ledgers:
            begun = await ledgers[0].begin("t", POLICY, (DEFAULT, CANDIDATE))
            for number, ledger in enumerate(ledgers):
                ledger.observe("t", begun, observation(*range(10 * number, 10 * number + 10), agree=False))
                await figures(ledger)
            for ledger in ledgers:
                await figures(ledger)
                assert "agreement is under 0.9" in (ledger.experiments["t"].stopped or "")

    asyncio.run(run())


def test_ledger_restarts_when_the_leader_serves_another_version() -> None:
    async def run() -> None:
        async with two_workers() as (leader, other):
            begun = await leader.begin("t", POLICY, (DEFAULT, CANDIDATE))
            leader.observe("t", begun, observation(1))
            await figures(leader)
            other.restart("t", begun, (DEFAULT, NEWER))
            assert (await figures(other)).models == (DEFAULT, CANDIDATE)
            leader.restart("t", begun, (DEFAULT, NEWER))
            leader.restart("t", begun, (DEFAULT, NEWER))
            seen = await figures(leader)
            assert (seen.models, seen.agreement.inputs) == ((DEFAULT, NEWER), 0)
            # An observation of the old versions that arrives later is not counted.
            other.observe("t", begun, observation(2))
            assert (await figures(other)).agreement.inputs == 0

    asyncio.run(run())
