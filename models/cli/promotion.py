"""`sparserve promote` and `sparserve rollback`: which version a variant answers with, moved in the store."""

import argparse
import os
import sys
from pathlib import Path

from sparserve.models.bundle.store import Store
from sparserve.models.errors import SparserveError, StoreError


def main(argv: list[str]) -> int:
    """Run `promote TASK VARIANT VERSION` or `rollback TASK VARIANT`; the exit status is 0, or that of the error."""
    arguments = _parser().parse_args(argv)
    store, task, variant = Store(arguments.store), arguments.task, arguments.variant
    try:
        if arguments.command == "rollback":
            before = store.current(task, variant)
            version = store.rollback(task, variant)
        else:
            before, version = _current(store, task, variant), arguments.version
            store.promote(task, variant, version)
    except SparserveError as error:
        print(f"sparserve: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{task}/{variant}: {version} in place of {before}")
    return 0


def _current(store: Store, task: str, variant: str) -> str:
    try:
        return store.current(task, variant)
    except StoreError:  # a damaged pointer: a promotion is what mends it
        return "no version"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sparserve", description="Move the version that a variant answers with.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("task")
    common.add_argument("variant")
    preset = Path(os.environ.get("SPARSERVE_STORE", "store"))
    common.add_argument("--store", type=Path, default=preset, help="folder of bundles; by default SPARSERVE_STORE")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    promote = commands.add_parser("promote", parents=[common], help="let a variant answer with another version")
    promote.add_argument("version", help="one of those that `sparserve bundles list` shows")
    commands.add_parser("rollback", parents=[common], help="let it answer with the version published before")
    return parser
