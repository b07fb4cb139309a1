"""Run the command line: `sparserve`, or `python -m sparserve`."""

import contextlib
import sys


def main() -> None:
    """Run the command line; the exit status is that of the process."""
    with contextlib.ExitStack() as stack:
        # Before the imports, which take a while: PID 1 of a container loses signals that it does not handle.
        if sys.argv[1:2] == ["serve"]:
            from sparserve.service.server.stop_signals import StopSignals

            stack.enter_context(StopSignals())
        else:
            from sparserve.termination import stopped_by_sigterm

            stack.enter_context(stopped_by_sigterm())
        from sparserve.cli import app
        from sparserve.cli.standard_output import checked_output

        with checked_output():
            app()


if __name__ == "__main__":
    main()
