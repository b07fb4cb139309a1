"""The service on a free port, in a thread of this process, for network clients."""

import contextlib
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI


@contextlib.contextmanager
def listening(app: FastAPI, log_level: str = "warning", port: int = 0) -> Iterator[str]:
    """Run it, and end it as a signal does when the block ends; yields its host and port once its models are loaded."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level=log_level))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started or app.state.service.reason_not_ready():
            assert thread.is_alive(), "the service did not start"
            thread.join(0.01)
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
