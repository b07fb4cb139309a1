"""`sparserve keys create|list|revoke`: the file of API keys, written whole or not at all, for its owner's eyes only."""

import argparse
import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, get_args

from pydantic import ValidationError

from sparserve.models.errors import EnvironmentFault, InputError, SparserveError
from sparserve.models.files import faults_explained, write_atomically
from sparserve.service.security.api_keys import ApiKey, Scope, new_key, read_keys

VARIABLE: Final = "SPARSERVE_KEYS_FILE"


def main(argv: list[str]) -> int:
    """Run `sparserve keys` and return its exit status: 0 done, 2 wrong input, 4 the file cannot be read or written."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.file is None:
            raise InputError(f"name the file of keys with --file, or in {VARIABLE}")
        run: Callable[[argparse.Namespace], None] = arguments.run
        run(arguments)
    except SparserveError as error:
        print(f"sparserve: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def create(
    path: Path,
    name: str,
    scopes: frozenset[Scope],
    *,
    rate: int | None = None,
    days: float | None = None,
) -> str:
    """Add a key to a file and return it as the client has to send it; it cannot be had again.

    `rate` is in requests a minute, `days` from now it expires.

    Raises:
        InputError: the name is taken, or an argument is out of range.
        EnvironmentFault: the file cannot be read or written.
    """
    with _only_one(path):
        text = _read(path)
        if any(key.name == name for key in read_keys(text).keys.values()):
            raise InputError(f"{path} has a key {name!r} already: revoke it first, or take another name")
        try:
            if days is not None and not days > 0:
                raise InputError(f"{days} days: give a number above 0")
            expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
            sent, key = new_key(name, scopes, rate=rate, expires=expires)
        except ValidationError as error:
            if error.errors()[0]["loc"] == ("name",):
                raise InputError(
                    f"{name!r} cannot be a key's name: use 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-'"
                ) from error
            raise InputError("the rate must be at least 1 request a minute") from error
        except OverflowError as error:
            raise InputError(f"{days} days are too many") from error
        before = text if not text or text.endswith("\n") else text + "\n"
        _write(path, f"{before}{key.line()}\n")
    return sent


def revoke(path: Path, name: str) -> None:
    """Take a key out of a file.

    Raises:
        InputError: there is no such key.
        EnvironmentFault: the file cannot be read or written.
    """
    with _only_one(path):
        lines = _read(path).splitlines()
        kept = [line for line in lines if all(key.name != name for key in read_keys(line).keys.values())]
        if len(kept) == len(lines):
            raise InputError(f"{path} has no key {name!r}")
        _write(path, "".join(f"{line}\n" for line in kept))


def _create(arguments: argparse.Namespace) -> None:
    scopes = frozenset(arguments.scope or ["classify"])
    sent = create(arguments.file, arguments.name, scopes, rate=arguments.rate, days=arguments.days)
    print(sent)
    print(f"shown this once; {arguments.file} has only its digest", file=sys.stderr)


def _list(arguments: argparse.Namespace) -> None:
    if not arguments.file.is_file():
        raise InputError(f"there is no file {arguments.file}: `sparserve keys create` makes one")
    found = read_keys(_read(arguments.file))
    for key in found.keys.values():
        print(describe_key(key))
    for number in found.damaged:
        print(f"line {number} is not a key", file=sys.stderr)


def _revoke(arguments: argparse.Namespace) -> None:
    revoke(arguments.file, arguments.name)


def describe_key(key: ApiKey) -> str:
    """Return one line about a key: name, beginning of the key, scopes, rate and expiry."""
    rate = f"{key.rate}/min" if key.rate else "no rate limit"
    expires = f"until {key.expires.isoformat()}" if key.expires else "for ever"
    return f"{key.name}\tsparserve_{key.id}_...\t{','.join(sorted(key.scopes))}\t{rate}\t{expires}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"{path} cannot be read: {error}") from error


def _write(path: Path, text: str) -> None:
    # Whom the owner has let read it, such as the service's group, goes on to; everybody else never may.
    mode = path.stat().st_mode & 0o770 if path.is_file() else 0o600
    write_atomically(path, text, mode=mode)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Let two commands on one file take turns, so that neither loses the other's key."""
    with faults_explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sparserve keys", description="Make, list and revoke API keys.")
    common = argparse.ArgumentParser(add_help=False)
    preset = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
    common.add_argument("--file", type=Path, default=preset, help=f"file of keys; by default {VARIABLE}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    made = commands.add_parser("create", parents=[common], help="make a key, and print it once")
    made.add_argument("name", help="whose it is; shown in the service's log")
    made.add_argument(
        "--scope", action="append", choices=get_args(Scope), help="what it is for; may be repeated; default: classify"
    )
    made.add_argument("--rate", type=int, help="requests a minute that it may send; default: no limit")
    made.add_argument("--days", type=float, help="days until it expires; default: never")
    made.set_defaults(run=_create)
    commands.add_parser("list", parents=[common], help="names, scopes and limits").set_defaults(run=_list)
    revoked = commands.add_parser("revoke", parents=[common], help="make a key invalid, within a second")
    revoked.add_argument("name")
    revoked.set_defaults(run=_revoke)
    return parser
