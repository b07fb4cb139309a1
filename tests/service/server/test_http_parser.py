"""Offers of another protocol are let be: the request is answered as it stands, with its body."""

import asyncio
import json
import shutil
import subprocess
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from starlette.types import Receive, Scope, Send

from sparserve.service.observability.metrics import Metrics
from sparserve.service.server.connection import MAX_HEAD_BYTES, Connection
from tests.support.service.raw_connections import exchange, serving

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
PLAIN = b"POST /a?b=%20c HTTP/1.1\r\nHost: x\r\nX-Twice: 1\r\nX-Twice: 2\r\nContent-Length: 5\r\n"
CHUNKED = b"POST /chunked HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: chunked\r\n"
GET = b"GET /get HTTP/1.1\r\nHost: x\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was asked, but for the offer."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    offer = (b"connection", b"upgrade", b"http2-settings")
    headers = [(name.decode(), value.decode()) for name, value in scope["headers"] if name not in offer]
    target = scope["path"] + "?" + scope["query_string"].decode()
    content = json.dumps([scope["method"], target, headers, body.decode()]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})


def answers(*parts: bytes) -> tuple[list[Any], bytes]:
    """The bodies of the answers on one connection, and all that came."""

    async def main() -> bytes:
        async with serving(app, Metrics()) as port:
            return await exchange(port, *parts)

    content = asyncio.run(main())
    return read(content), content


def read(content: bytes) -> list[Any]:
    """The bodies of the answers that came, up to the first that is no 200."""
    found, rest = [], content
    while rest.startswith(b"HTTP/1.1 200 "):
        head, _, rest = rest.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append(json.loads(rest[:length]))
        rest = rest[length:]
    return found


@pytest.mark.parametrize("offer", [OFFER, OFFER.lower(), OFFER.replace(b"h2c", b"websocket")], ids=["1", "2", "3"])
@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
def test_parser_upgrade_offer_keeps_body(offer: bytes, apart: bool) -> None:
    plain = [(PLAIN, b"hello"), (CHUNKED, b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"), (GET, b"")]
    expected, _ = answers(*(head + b"\r\n" + body for head, body in plain), LAST)
    requests = [(head + offer + b"\r\n", body) for head, body in plain]
    parts = [part for request in requests for part in request] if apart else [b"".join(map(b"".join, requests))]
    found, _ = answers(*parts, LAST)
    assert found == expected and len(found) == 4


class InPieces(Connection):
    """A connection whose first bytes come in pieces that end at `places`."""

    places: ClassVar[list[int]] = []

    def data_received(self, data: bytes) -> None:
        places, self.places = self.places, []  # type: ignore[misc]
        for start, end in pairwise([0, *places, len(data)]):
            super().data_received(data[start:end])


def test_parser_upgrade_offer_at_any_cut() -> None:
    sent = PLAIN + OFFER + b"\r\nhello" + GET + OFFER + b"\r\n" + LAST

    async def main() -> None:
        async with serving(app, Metrics(), connection=InPieces) as port:
            for places in [[place] for place in range(1, len(sent))] + [list(range(1, len(sent)))]:
                InPieces.places = places
                content = await exchange(port, sent)
                assert [one[1] for one in read(content)] == ["/a?b=%20c", "/get?", "/last?"], places
                assert b"hello" in content

    asyncio.run(main())


def test_a_last_request_may_offer_one_too() -> None:
    found, content = answers(PLAIN + OFFER.replace(b"Upgrade,", b"close, Upgrade,") + b"\r\nhello")
    assert len(found) == 1 and b"hello" in content and b"connection: close" in content.lower()


def test_many_offers_at_once_are_as_many_requests() -> None:
    found, _ = answers((GET + OFFER + b"\r\n") * 500, LAST)
    assert len(found) == 501


def test_what_follows_an_offer_has_to_be_http() -> None:
    _, content = answers(GET + OFFER + b"\r\n\x00\x00 no HTTP\r\n\r\n")
    assert b"HTTP/1.1 400 " in content
    _, content = answers(GET + OFFER + b"X-Long: " + b"a" * MAX_HEAD_BYTES)
    assert b"HTTP/1.1 431 " in content


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_may_ask_for_http_2() -> None:
    async def main() -> bytes:
        async with serving(app, Metrics()) as port:
            url = f"http://127.0.0.1:{port}/curl"
            command = ["curl", "--silent", "--http2", "--max-time", "20", "--data", "hello", url]
            curl = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            content, _ = await curl.communicate()
            return content

    content = asyncio.run(main())
    assert json.loads(content)[3] == "hello"
