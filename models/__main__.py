"""The `sparserve` command: serving needs only the base install, everything else the extra `compress`."""

import sys


def main() -> None:
    """Run the command line; the exit status is the process's."""
    if sys.argv[1:2] == ["serve"]:
        from service.__main__ import main as serve

        sys.exit(serve(sys.argv[2:]))
    try:
        from models.cli import app
    except ModuleNotFoundError as error:
        message = f"sparserve: {error.name} is missing: install sparserve[compress] for every command but `serve`\n"
        sys.stderr.write(message)
        sys.exit(4)
    app()


if __name__ == "__main__":
    main()
