"""One process that serves: alone, or as a worker of several."""

import asyncio
import functools
import gc
import logging
import os
import shutil
import signal
import sys
from typing import cast

import uvicorn
from fastapi import FastAPI
from prometheus_client import values

from sparserve.models.errors import StoreError
from sparserve.service.app import create_app
from sparserve.service.drain import Drain
from sparserve.service.observability.worker_metrics import FileValues
from sparserve.service.server.connection import Connection, allow_descriptors
from sparserve.service.server.graceful_shutdown import DrainingServer
from sparserve.service.server.listener import ConnectionCounts, inherited_socket
from sparserve.service.server.stop_signals import StopSignals
from sparserve.service.settings import Settings
from sparserve.service.workers.assignment import Assignment
from sparserve.service.workers.exit_codes import EXIT_DROPPED, EXIT_NOT_STARTED, EXIT_USAGE
from sparserve.service.workers.link import WorkerLink
from sparserve.service.workers.sockets import bind_sockets, is_every_address

# Seconds that a thread with a finished batch waits for a busy event loop to release the GIL. Python's default of 5 ms
# is as long as many batches take.
SWITCH_SECONDS = 0.0005
# New containers before the garbage collector runs; Python's default is 700, those of a few requests.
COLLECT_AFTER = 20_000


def serve(settings: Settings, signals: StopSignals, assignment: Assignment | None) -> int:
    """Serve until a signal stops the process, and return the exit code."""
    link = None
    if assignment is not None:
        link = WorkerLink(assignment, settings)
        settings = assignment.settings_of(settings)
        values.ValueClass = FileValues(link.folder, assignment.number)
    # The tokenizers library reads this at its first use. By default it starts a thread for every core of the host.
    os.environ.setdefault("RAYON_NUM_THREADS", str(settings.total_threads))
    if signals.received:
        return 0
    drain = Drain()
    try:
        app = create_app(settings, drain, peers=link)
    except StoreError as error:
        print(f"sparserve: {error}", file=sys.stderr)
        return EXIT_USAGE
    app.state.service.catalog.loaded.add_done_callback(exempt_from_collection)
    allow_descriptors()
    sys.setswitchinterval(SWITCH_SECONDS)
    shared = None
    if assignment is not None and link is not None:
        listeners = [inherited_socket(descriptor) for descriptor in assignment.listeners]
        shared = listeners, ConnectionCounts(link.folder, assignment.number)
    server = DrainingServer(
        uvicorn_config(app, settings),
        drain,
        delay_seconds=settings.shutdown_delay_seconds,
        signals=signals,
        shared=shared,
    )
    if link is not None:
        link.lost = functools.partial(server.handle_exit, signal.SIGTERM, None)
        link.hurry = lambda force: server.hurry(force=force)
    try:
        # uvicorn would listen on the addresses of IPv6 alone.
        sockets = bind_sockets(settings.host, settings.port) if not shared and is_every_address(settings.host) else None
    except OSError as error:
        logging.getLogger("sparserve").error("the service cannot start: %s", error)
        return EXIT_NOT_STARTED
    server.run(sockets)
    if link is not None and assignment is not None and link.orphaned:
        shutil.rmtree(assignment.folder, ignore_errors=True)
    if not server.started:
        return EXIT_NOT_STARTED
    if drain.dropped:
        # Inferences may still be running; waiting for them would exceed the grace time.
        logging.getLogger("sparserve").error("%d requests were not finished within the grace time", drain.dropped)
        logging.shutdown()
        os._exit(EXIT_DROPPED)
    return 0


def exempt_from_collection(_: object = None) -> None:
    """Let Python's cyclic garbage collector ignore all present objects: modules, classes, loaded models.

    They stay until the end. Under load the collector would traverse them, a fifth of the time of a short request. New
    objects are mostly those of running requests, without cycles, so it looks at them less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return the configuration of uvicorn for an app."""
    connection = functools.partial(
        Connection, seconds=settings.receive_timeout_seconds, metrics=app.state.service.metrics
    )
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=cast(type[asyncio.Protocol], connection),  # uvicorn calls it for every connection
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        # By default uvicorn trusts X-Forwarded-For of any client on this machine.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.grace_seconds,
    )
