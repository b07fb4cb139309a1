"""httptools' parser for a server that takes up no offer of another protocol, as RFC 9110 (7.8) lets it."""

from typing import Protocol

import httptools


class Offered(Protocol):
    """What the parser calls back, uvicorn's connection; `headers` are those of the head that it reads."""

    parser: httptools.HttpRequestParser
    url: bytes
    headers: list[tuple[bytes, bytes]]


class Parser(httptools.HttpRequestParser):
    """Reads on as HTTP/1.1 where httptools takes what follows an Upgrade header for that other protocol.

    A body would be lost: Java's HttpClient and `curl --http2` offer HTTP/2 with every request. The head is read once
    more without the header, so its connection has to pass over the first end of the head, and of the message that
    seems to be without a body: see `offers_upgrade`.
    """

    def __init__(self, connection: Offered) -> None:
        self._connection = connection
        self._begin()

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Read what the client has sent.

        Raises:
            httptools.HttpParserError: it is not HTTP.
            httptools.HttpParserUpgrade: it is CONNECT, which is for proxies.
        """
        rest = memoryview(data)
        while True:
            try:
                super().feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                if not offers_upgrade(self._connection):
                    raise
                rest = rest[offer.args[0] :]
            else:
                return
            head = self._head_without_offer()
            self._begin()  # what a parser has read with `Connection: close` is the last that it reads
            super().feed_data(head)

    def _begin(self) -> None:
        super().__init__(self._connection)
        # As uvicorn has it: a client may close its side with its first request and send more all the same.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def _head_without_offer(self) -> bytes:
        version = self.get_http_version().encode()
        line = self.get_method() + b" " + self._connection.url + b" HTTP/" + version + b"\r\n"
        kept = [name + b": " + value + b"\r\n" for name, value in self._connection.headers if name != b"upgrade"]
        return b"".join([line, *kept, b"\r\n"])


def offers_upgrade(connection: Offered) -> bool:
    """Whether the head that a connection has just read offers another protocol."""
    return connection.parser.should_upgrade() and any(name == b"upgrade" for name, _ in connection.headers)
