"""Run the service: `python -m sparserve.service --store store --port 8000`, or `sparserve serve`."""

import asyncio
import functools
import logging
import os
import re
import sys
from typing import cast

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import SettingsError

from sparserve.models.errors import StoreError
from sparserve.service.app import create_app
from sparserve.service.drain import Drain
from sparserve.service.observability.logs import configure_logging
from sparserve.service.security.authorizer import exposure_warning
from sparserve.service.server.connection import Connection, allow_descriptors
from sparserve.service.server.graceful_shutdown import DrainingServer
from sparserve.service.settings import Settings

EXIT_USAGE = 2
EXIT_NOT_STARTED = 3
EXIT_DROPPED = 1

# Seconds that a thread with a finished batch waits for a busy event loop to release the GIL. Python's default of 5 ms
# is as long as many batches take.
SWITCH_SECONDS = 0.0005


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return 0 if every accepted request was answered.

    Other exit codes: 1, requests were not finished within the grace time; 2, a wrong setting; 3, the server did not
    start.
    """
    try:
        settings = Settings(_cli_parse_args=sys.argv[1:] if argv is None else argv)
    except ValidationError as error:
        for item in error.errors():
            setting, *within = map(str, item["loc"]) if item["loc"] else ("",)
            name = f"{_spellings(setting)}: " if setting else ""
            inside = f"{'.'.join(within)}: " if within else ""
            print(f"{name}{inside}{str(item['msg']).removeprefix('Value error, ')}", file=sys.stderr)
        return EXIT_USAGE
    except SettingsError as error:
        match = re.search(r'field "(\w+)"|encountered for (\w+)', str(error))
        setting = (match[1] or match[2]) if match else ""
        if setting in Settings.model_fields:
            description = Settings.model_fields[setting].description
            print(f"{_spellings(setting)}: invalid JSON. Expected: {description}", file=sys.stderr)
        else:
            print(error, file=sys.stderr)
        return EXIT_USAGE
    configure_logging(settings.log_level, settings.log_format)
    if warning := exposure_warning(
        settings.host,
        settings.port,
        has_keys=settings.keys_file is not None,
        admin_without_key=settings.admin_without_key,
    ):
        logging.getLogger("sparserve").warning("%s", warning)
    # The tokenizers library reads this at its first use. By default it starts a thread for every core of the host.
    os.environ.setdefault("RAYON_NUM_THREADS", str(settings.total_threads))
    drain = Drain()
    try:
        app = create_app(settings, drain)
    except StoreError as error:
        print(f"sparserve: {error}", file=sys.stderr)
        return EXIT_USAGE
    allow_descriptors()
    sys.setswitchinterval(SWITCH_SECONDS)
    server = DrainingServer(uvicorn_config(app, settings), drain, delay_seconds=settings.shutdown_delay_seconds)
    server.run()
    if not server.started:
        return EXIT_NOT_STARTED
    if drain.dropped:
        # Inferences may still be running; waiting for them would exceed the grace time.
        logging.getLogger("sparserve").error("%d requests were not finished within the grace time", drain.dropped)
        logging.shutdown()
        os._exit(EXIT_DROPPED)
    return 0


def _spellings(setting: str) -> str:
    """Return the option and the environment variable of a setting."""
    return f"--{setting.replace('_', '-')} (SPARSERVE_{setting.upper()})"


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


if __name__ == "__main__":
    sys.exit(main())
