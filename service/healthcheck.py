"""Health check of the container: `python -m sparserve.service.healthcheck` exits with 0 if the service answers.

It cannot see the service's command line: where that has a `--port` or a `--host`, so must this one's.
"""

import argparse
import http.client
import os
import sys
from typing import Final

TIMEOUT_SECONDS: Final = 2.5
DEFAULT_PORT: Final = "8000"
DEFAULT_HOST: Final = "127.0.0.1"
# Settings of the host that mean every address, and those to ask. A system without IPv6 serves `::` on IPv4 alone.
EVERY_ADDRESS: Final = {"0.0.0.0": ("127.0.0.1",), "::": ("::1", "127.0.0.1")}


def main(argv: list[str] | None = None) -> int:
    """Ask /livez on this machine; host and port are the service's own settings, unless they are given."""
    parser = argparse.ArgumentParser(
        prog="python -m sparserve.service.healthcheck", description="Exit with 0 if it answers."
    )
    set_port = os.environ.get("SPARSERVE_PORT") or DEFAULT_PORT
    if "://" in set_port:  # set by Kubernetes for a Service of that name, and ignored by the service too
        set_port = DEFAULT_PORT
    parser.add_argument("--port", type=int, default=set_port, help="by default SPARSERVE_PORT, or 8000")
    parser.add_argument(
        "--host", default=os.environ.get("SPARSERVE_HOST") or DEFAULT_HOST, help="by default SPARSERVE_HOST"
    )
    options = parser.parse_args(argv)
    port: int = options.port
    host: str = options.host.strip().removeprefix("[").removesuffix("]")
    reason = ""
    for address in EVERY_ADDRESS.get(host, (host,)):
        connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/livez")
            return 0 if connection.getresponse().status == 200 else 1
        except (OSError, http.client.HTTPException) as error:
            reason = f"{address}: {error}"
        finally:
            connection.close()
    # What `docker inspect` shows.
    print(
        f"nothing answers on port {port} ({reason}): set SPARSERVE_PORT and SPARSERVE_HOST, or --port and --host here, "
        "too",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
