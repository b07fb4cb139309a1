"""The limit on the bytes of all bodies together: a request gives its bytes back however it ends."""

import asyncio
import zlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparserve.service.app import create_app
from sparserve.service.http.middleware.body_limit import BodyLimitMiddleware, BodyReader
from sparserve.service.limits import BodyBudget
from sparserve.service.observability.metrics import Metrics
from sparserve.service.settings import Settings
from tests.support.tiny_bundles import TASK

URL = f"/v1/models/{TASK}/classify"
MAX_BYTES, ALL_BYTES = 100, 250
SECONDS = 20.0


class Request:
    """A POST whose parts come, and whose answer goes out, when the test says so: to the service or to an app here."""

    def __init__(self, to: BodyBudget | ASGIApp, *, encoding: str = "", seconds: float = SECONDS) -> None:
        self.sent: list[Any] = []
        self.got: bytes | None = None
        self._parts = asyncio.Queue[Message]()
        self._end = asyncio.Future[None]()
        headers = [(b"content-encoding", encoding.encode())] if encoding else []
        scope = {"type": "http", "method": "POST", "path": URL, "headers": headers, "state": {}}
        if isinstance(to, BodyBudget):
            to = BodyLimitMiddleware(self._app, reader=BodyReader(max_bytes=MAX_BYTES, seconds=seconds), budget=to)
        self.done = asyncio.ensure_future(to(scope, self._parts.get, self._send))

    async def part(self, content: bytes, more: bool = True) -> None:
        self._parts.put_nowait({"type": "http.request", "body": content, "more_body": more})
        await settled()

    async def gone(self) -> None:
        self._parts.put_nowait({"type": "http.disconnect"})
        await settled()

    async def end(self, error: Exception | None = None) -> None:
        """The app answers, or fails."""
        if not self._end.done():
            if error is None:
                self._end.set_result(None)
            else:
                self._end.set_exception(error)
                self._end.exception()  # it is no leak if the request has ended already
        await settled()

    async def cancel(self) -> None:
        self.done.cancel()
        await asyncio.wait([self.done])

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.got = (await receive())["body"]
        await self._end
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


async def settled() -> None:
    """Let all tasks run until they wait: here they wait for queues and futures only."""
    for _ in range(10):
        await asyncio.sleep(0)


def shed(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("sparserve_requests_shed_total", {"reason": "bodies"})


def test_body_budget_holds_bytes_until_the_answer() -> None:
    async def test() -> None:
        metrics = Metrics()
        budget = BodyBudget(ALL_BYTES, metrics.requests.shed.labels("bodies").inc)
        first, second, third = (Request(budget) for _ in range(3))
        await first.part(b"a" * 100, more=False)
        await second.part(b"b" * 100)
        assert (first.got, first.status, budget.held) == (b"a" * 100, None, 200)
        await third.part(b"c" * 50)
        assert budget.held == 250
        probe = Request(budget)
        await probe.part(b"", more=False)
        await probe.end()
        assert probe.status == 200
        await third.part(b"c")
        assert (third.status, budget.held, shed(metrics)) == (None, 200, 1)  # its client still sends
        await third.part(b"c" * 20, more=False)
        headers = dict(third.sent[0]["headers"])
        assert (third.status, headers[b"retry-after"], headers[b"connection"]) == (503, b"1", b"close")
        assert headers[b"content-type"] == b"application/problem+json"
        await first.end()
        assert (first.status, budget.held) == (200, 100)
        await second.gone()
        assert (second.status, budget.held, shed(metrics)) == (None, 0, 1)

    asyncio.run(test())


def test_body_budget_counts_decompressed_bytes() -> None:
    async def test() -> None:
        budget = BodyBudget(ALL_BYTES)
        requests = [Request(budget, encoding="deflate") for _ in range(3)]
        for request in requests:
            await request.part(zlib.compress(b" " * 100), more=False)
        assert (budget.held, [request.status for request in requests]) == (200, [None, None, 503])
        for request in requests:
            await request.end()
        assert budget.held == 0

    asyncio.run(test())


def test_body_budget_is_free_after_a_timeout() -> None:
    async def test() -> None:
        budget = BodyBudget(ALL_BYTES)
        late = Request(budget, seconds=0.01)
        await late.part(b"a" * 100)
        await late.done
        assert (late.status, budget.held) == (408, 0)

    asyncio.run(test())


STEPS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["part", "part", "part", "last", "gone", "end", "fail", "cancel"]),
        st.integers(0, 130),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(STEPS, st.lists(st.sampled_from(["", "gzip", "deflate", "br"]), min_size=6, max_size=6))
def test_body_budget_is_kept_however_requests_end(steps: list[tuple[int, str, int]], encodings: list[str]) -> None:
    async def test() -> None:
        budget = BodyBudget(ALL_BYTES)
        requests = [Request(budget, encoding=encoding) for encoding in encodings]
        for which, step, count in steps:
            request = requests[which]
            if step in ("part", "last"):
                content = zlib.compress(bytes(count)) if encodings[which] == "deflate" else bytes(count)
                await request.part(content, more=step == "part")
            elif step in ("end", "fail"):
                await request.end(RuntimeError() if step == "fail" else None)
            else:
                await getattr(request, step)()
            assert 0 <= budget.held <= ALL_BYTES
        for request in requests:
            await request.end()
            await request.gone()
            await asyncio.wait([request.done])
            request.done.cancelled() or request.done.exception()
        assert budget.held == 0

    asyncio.run(test())


def test_body_budget_is_that_of_the_settings() -> None:
    async def test() -> None:
        app = create_app(Settings(threads=1, max_body_bytes=1000, max_bodies_bytes=1000))
        first, second = Request(app), Request(app)
        await first.part(b"a" * 600)
        await second.part(b"a" * 600, more=False)
        assert (first.status, second.status, shed(app.state.service.metrics)) == (None, 503, 1)
        await first.gone()

    asyncio.run(test())
