"""The `sparserve` command: what serving needs works with the base install, the rest with the extra `compress`."""

import sys

from sparserve.models.cli.base_commands import base_command


def main() -> None:
    """Run the command line; the exit status is the process's."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if run := base_command(command):
        sys.exit(run(sys.argv[2:]))
    try:
        from sparserve.models.cli.app import app
    except ModuleNotFoundError as error:
        message = (
            f"sparserve: {error.name} is missing: install sparserve[compress] for every command but `serve`, `keys`, "
            "`promote` and `rollback`\n"
        )
        sys.stderr.write(message)
        sys.exit(4)
    app()


if __name__ == "__main__":
    main()
