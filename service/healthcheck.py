"""The container's health check: `python -m service.healthcheck` exits with 0 if the service answers on its port."""

import http.client
import os
import sys

TIMEOUT_SECONDS = 2.5


def main() -> int:
    """Ask /livez on this machine; the port is the service's own setting."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(os.environ.get("SPARSERVE_PORT", "8000")), timeout=TIMEOUT_SECONDS
    )
    try:
        connection.request("GET", "/livez")
        return 0 if connection.getresponse().status == 200 else 1
    except OSError:
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
