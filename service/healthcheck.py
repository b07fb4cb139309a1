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


def main(argv: list[str] | None = None) -> int:
    """Ask /livez on this machine; the port is the service's own setting, unless it is given."""
    parser = argparse.ArgumentParser(
        prog="python -m sparserve.service.healthcheck", description="Exit with 0 if it answers."
    )
    set_port = os.environ.get("SPARSERVE_PORT", DEFAULT_PORT)
    parser.add_argument("--port", type=int, default=set_port, help="by default SPARSERVE_PORT, or 8000")
    port: int = parser.parse_args(argv).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
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
