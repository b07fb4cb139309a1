"""Messages between two processes: order, answers, errors, and the end of the other process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from sparserve.service.errors import InvalidRequest, Unavailable
from sparserve.service.workers.channel import Channel, ChannelClosed, Handlers


@contextlib.asynccontextmanager
async def connected(handlers: Handlers) -> AsyncIterator[tuple[Channel, Channel]]:
    """Yield a channel without handlers, and its other end."""
    ends = socket.socketpair()
    one, other = Channel("the other", {}), Channel("the one", handlers)
    await one.open(ends[0])
    await other.open(ends[1])
    yield one, other
    one.close()
    await asyncio.gather(one.closed.wait(), other.closed.wait())


def test_channel_messages_arrive_in_order() -> None:
    async def run() -> list[int]:
        received: list[int] = []
        async with connected({"note": lambda value: received.append(value)}) as (one, _):
            for value in range(100):
                assert one.tell("note", value=value)
            await one.ask("note", value=100)
        return received

    assert asyncio.run(run()) == list(range(101))


def test_channel_answers_while_another_answer_takes_long() -> None:
    async def run() -> tuple[str, str]:
        release = asyncio.Event()

        async def slow() -> str:
            await release.wait()
            return "slow"

        async with connected({"slow": slow, "quick": lambda: "quick"}) as (one, _):
            waiting = asyncio.create_task(one.ask("slow"))
            quick = await one.ask("quick")
            release.set()
            return quick, await waiting

    assert asyncio.run(run()) == ("quick", "slow")


def test_channel_errors_keep_their_class_and_message() -> None:
    def refuse() -> None:
        raise InvalidRequest("no such version")

    def fail() -> None:
        raise KeyError("secret")

    async def run() -> None:
        async with connected({"refuse": refuse, "fail": fail}) as (one, _):
            with pytest.raises(InvalidRequest, match="no such version"):
                await one.ask("refuse")
            with pytest.raises(RuntimeError, match="KeyError in another process"):
                await one.ask("fail")

    asyncio.run(run())


def test_channel_end_of_the_other_process_ends_waiting() -> None:
    async def run() -> None:
        async def never() -> None:
            await asyncio.Event().wait()

        async with connected({"never": never}) as (one, other):
            waiting = asyncio.create_task(one.ask("never"))
            other.close()
            with pytest.raises(ChannelClosed, match="the other ended meanwhile"):
                await waiting
            with pytest.raises(Unavailable):
                await one.ask("never")
            assert not one.tell("never")

    asyncio.run(run())
