"""Create, read and revoke the API keys of a file, which is written atomically and is readable by its owner only."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from sparserve.models.errors import EnvironmentFault, InputError
from sparserve.models.files import faults_explained, write_atomically
from sparserve.service.security.api_keys import MAX_WEIGHT, MIN_WEIGHT, KeysFile, Scope, new_key, read_keys


def create(
    path: Path,
    name: str,
    scopes: frozenset[Scope],
    *,
    rate: int | None = None,
    weight: float | None = None,
    days: float | None = None,
) -> str:
    """Add a key to a file and return it in the form that clients send. The file holds only its digest.

    `rate` is in requests per minute. `weight` is the client's share of the machine under load, relative to keys of
    weight 1. The key expires after `days`.

    Raises:
        InputError: the name is in use, or an argument is out of range.
        EnvironmentFault: the file cannot be read or written.
    """
    with _locked(path):
        text = _read(path)
        if any(key.name == name for key in read_keys(text).keys.values()):
            raise InputError(f"{path} already has a key {name!r}: revoke it first, or choose another name")
        try:
            if days is not None and not days > 0:
                raise InputError(f"{days} days: give a number above 0")
            expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
            text_of_key, key = new_key(name, scopes, rate=rate, weight=weight, expires=expires)
        except ValidationError as error:
            if error.errors()[0]["loc"] == ("weight",):
                raise InputError(f"the weight {weight} is not from {MIN_WEIGHT} to {MAX_WEIGHT:.0f}") from error
            if error.errors()[0]["loc"] == ("name",):
                raise InputError(
                    f"{name!r} cannot be a key's name: use 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-'"
                ) from error
            raise InputError("the rate must be at least 1 request per minute") from error
        except OverflowError as error:
            raise InputError(f"{days} days are too many: leave --days out for a key that never expires") from error
        before = text if not text or text.endswith("\n") else text + "\n"
        _write(path, f"{before}{key.line()}\n")
    return text_of_key


def read(path: Path) -> KeysFile:
    """Return the keys of a file.

    Raises:
        InputError: there is no such file.
        EnvironmentFault: the file cannot be read.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}: create it with `sparserve keys create`")
    return read_keys(_read(path))


def revoke(path: Path, name: str) -> None:
    """Remove a key from a file.

    Raises:
        InputError: there is no such key.
        EnvironmentFault: the file cannot be read or written.
    """
    with _locked(path):
        lines = _read(path).splitlines()
        kept = [line for line in lines if all(key.name != name for key in read_keys(line).keys.values())]
        if len(kept) == len(lines):
            raise InputError(f"{path} has no key {name!r}")
        _write(path, "".join(f"{line}\n" for line in kept))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"{path} cannot be read: {error}") from error


def _write(path: Path, text: str) -> None:
    # Keep the permissions of the owner and the group (the group may be the service's); others get none.
    mode = path.stat().st_mode & 0o770 if path.is_file() else 0o600
    write_atomically(path, text, mode=mode)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file, so that of two concurrent commands neither loses the other's change."""
    with faults_explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
