"""Run the service: `python -m sparserve.service --store store --port 8000`, or `sparserve serve`."""

import sys

from sparserve.service.server.stop_signals import StopSignals


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return 0 if every accepted request was answered.

    Other exit codes: 1, requests were not finished within the grace time; 2, a wrong setting; 3, the server did not
    start.
    """
    with StopSignals() as signals:
        from sparserve.service.workers.launch import launch  # takes a second

        return launch(sys.argv[1:] if argv is None else argv, signals)


if __name__ == "__main__":
    sys.exit(main())
