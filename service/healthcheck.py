"""Health check of the container: `python -m sparserve.service.healthcheck` exits with 0 if the service answers.

It cannot see the service's command line: where that has a `--port`, so must this one's.
"""

import argparse
import http.client
import os
import sys
from typing import Final

TIMEOUT_SECONDS: Final = 2.5
DEFAULT_PORT: Final = "8000"
# Settings of the host that mean every address, and the one of them to ask.
EVERY_ADDRESS: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def main(argv: list[str] | None = None) -> int:
    """Ask /livez on this machine; host and port are the service's own settings, unless a port is given."""
    parser = argparse.ArgumentParser(
        prog="python -m sparserve.service.healthcheck", description="Exit with 0 if it answers."
    )
    set_port = os.environ.get("SPARSERVE_PORT", DEFAULT_PORT)
    if "://" in set_port:  # set by Kubernetes for a Service of that name, and ignored by the service too
        set_port = DEFAULT_PORT
    parser.add_argument("--port", type=int, default=set_port, help="by default SPARSERVE_PORT, or 8000")
    port: int = parser.parse_args(argv).port
    set_host = os.environ.get("SPARSERVE_HOST", "")
    host = EVERY_ADDRESS.get(set_host, set_host)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        # What `docker inspect` shows.
        print(f"nothing answers on port {port} ({error}): set SPARSERVE_PORT, or --port here, too", file=sys.stderr)
        return 1
    finally:
        connection.close()
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
