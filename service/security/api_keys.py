"""API keys: what one is, the file that holds their digests, and which key a client has sent.

The file has one JSON object a line; blank lines and those that begin with # are let be. The key itself is nowhere: who
reads the file cannot send requests with it.
"""

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

logger = logging.getLogger(__name__)

Scope = Literal["classify", "admin"]
NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
LOOK_SECONDS: Final = 1.0
_KEY: Final = re.compile(r"sparserve_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")


class ApiKey(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    id: Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
    scopes: frozenset[Scope] = Field(min_length=1)
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    rate: int | None = Field(None, ge=1, description="requests a minute")
    expires: AwareDatetime | None = None

    def line(self) -> str:
        """The key's line in the file, without the line's end."""
        return self.model_dump_json(exclude_none=True)


@dataclass(frozen=True)
class KeysFile:
    """What a file holds: its keys by their id, and the numbers of the lines that are not keys."""

    keys: dict[str, ApiKey]
    damaged: list[int]


def new_key(
    name: str, scopes: frozenset[Scope], *, rate: int | None = None, expires: datetime | None = None
) -> tuple[str, ApiKey]:
    """A new key, as the client sends it and as the file holds it.

    Raises:
        ValueError: the name, a scope or the rate (requests a minute) is not possible.
    """
    identity = secrets.token_hex(4)
    sent = f"sparserve_{identity}_{secrets.token_urlsafe(32)}"
    return sent, ApiKey(name=name, id=identity, scopes=scopes, sha256=_digest(sent), rate=rate, expires=expires)


def read_keys(text: str) -> KeysFile:
    """Read a file's content; a line that is not a key is no key, and takes nothing away from the others."""
    keys, damaged = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            key = ApiKey.model_validate_json(line)
        except ValidationError:
            damaged.append(number)
        else:
            keys[key.id] = key
    return KeysFile(keys, damaged)


class Keyring:
    """The keys of a file, which is read again when it has changed: a key that is revoked stops working.

    A file that is gone or cannot be read holds no key: then every request is refused.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] | None = None
    ) -> None:
        self._path = path
        self._clock = clock
        self._now = now or (lambda: datetime.now(UTC))
        self._keys: dict[str, ApiKey] = {}
        self._seen: tuple[int, ...] | None = None
        self._look_at = clock()
        self._look()

    def find(self, sent: str) -> ApiKey | None:
        """The key that a client has sent; None where it is not in the file, or has expired."""
        self._look()
        form = _KEY.fullmatch(sent)
        if form is None:
            return None
        key = self._keys.get(form[1])
        # The same steps for an id that is not in the file, so that the time tells nobody which there are.
        same = hmac.compare_digest(_digest(sent), key.sha256 if key else "0" * 64)
        if not same or key is None or (key.expires is not None and key.expires <= self._now()):
            return None
        return key

    def _look(self) -> None:
        if self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_SECONDS
        try:
            state = self._path.stat()
            seen = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            if seen == self._seen:
                return
            found = read_keys(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            if self._keys or self._seen is None:
                logger.error("the keys in %s cannot be read, so every key is refused: %s", self._path, error)
            self._keys, self._seen = {}, ()
            return
        for number in found.damaged:
            logger.error("line %d of %s is not a key and is left out", number, self._path)
        logger.info("%d keys in %s", len(found.keys), self._path)
        self._keys, self._seen = found.keys, seen


def _digest(sent: str) -> str:
    # A plain SHA-256 is right here, and fast, as it is computed for every request: a key has 256 random bits, so there
    # is no dictionary to try, which is what salts and slow functions such as scrypt are against.
    return hashlib.sha256(sent.encode()).hexdigest()
