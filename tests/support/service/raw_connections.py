"""An app behind the service's own connections, and a client that sends bytes as they are."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from sparserve.service.observability.metrics import Metrics
from sparserve.service.server.connection import Connection

DEADLINE_SECONDS = 20


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, metrics: Metrics, seconds: float = DEADLINE_SECONDS, connection: type[Connection] = Connection
) -> AsyncIterator[int]:
    http = cast(type[asyncio.Protocol], partial(connection, seconds=seconds, metrics=metrics))
    config = uvicorn.Config(app, port=0, http=http, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server._serve([listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await running


async def exchange(port: int, *parts: bytes) -> bytes:
    """Send the parts, and read until the service closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    async with asyncio.timeout(DEADLINE_SECONDS):
        content = await reader.read()
    writer.close()
    return content
