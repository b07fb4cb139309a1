"""API keys: their format, the file of their digests, and the lookup of the key that a client has sent.

The file has one JSON object per line; blank lines and lines that begin with # are ignored. It holds digests only:
reading the file is not enough to send requests.
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
POLL_SECONDS: Final = 1.0
MIN_WEIGHT: Final = 0.01
MAX_WEIGHT: Final = 100.0
_KEY: Final = re.compile(r"sparserve_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")


class ApiKey(BaseModel):
    """A key as the file stores it, one per line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    id: Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
    scopes: frozenset[Scope] = Field(min_length=1)
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    rate: int | None = Field(None, ge=1, description="requests per minute")
    weight: float | None = Field(
        None, ge=MIN_WEIGHT, le=MAX_WEIGHT, description="share of the machine under load, relative to keys of weight 1"
    )
    expires: AwareDatetime | None = None

    def line(self) -> str:
        """Return the line of the file, without a newline."""
        return self.model_dump_json(exclude_none=True)


@dataclass(frozen=True)
class KeysFile:
    """Content of a file: its keys by id, and the numbers of the lines that are not keys."""

    keys: dict[str, ApiKey]
    damaged: list[int]


def new_key(
    name: str,
    scopes: frozenset[Scope],
    *,
    rate: int | None = None,
    weight: float | None = None,
    expires: datetime | None = None,
) -> tuple[str, ApiKey]:
    """Create a key; return it as the client sends it and as the file stores it.

    Raises:
        ValueError: the name, a scope, the rate (requests per minute) or the weight is invalid.
    """
    identity = secrets.token_hex(4)
    sent = f"sparserve_{identity}_{secrets.token_urlsafe(32)}"
    return sent, ApiKey(
        name=name, id=identity, scopes=scopes, sha256=_digest(sent), rate=rate, weight=weight, expires=expires
    )


def read_keys(text: str) -> KeysFile:
    """Parse the content of a file. Damaged lines do not affect the others."""
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
    """The keys of a file. The file is read again when it has changed, so a revoked key stops working.

    If the file is missing or unreadable there are no keys, and every request is refused.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] | None = None
    ) -> None:
        self._path = path
        self._clock = clock
        self._now = now or (lambda: datetime.now(UTC))
        self._keys: dict[str, ApiKey] = {}
        self._seen: tuple[int, ...] | None = None
        self._next_poll = clock()
        self._poll()

    def find(self, sent: str) -> ApiKey | None:
        """Return the key that a client has sent; None if it is not in the file, or has expired."""
        self._poll()
        form = _KEY.fullmatch(sent)
        if form is None:
            return None
        key = self._keys.get(form[1])
        # Unknown ids take the same steps, so that the response time does not reveal which ids exist.
        same = hmac.compare_digest(_digest(sent), key.sha256 if key else "0" * 64)
        if not same or key is None or (key.expires is not None and key.expires <= self._now()):
            return None
        return key

    def _poll(self) -> None:
        if self._clock() < self._next_poll:
            return
        self._next_poll = self._clock() + POLL_SECONDS
        try:
            state = self._path.stat()
            seen = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            if seen == self._seen:
                return
            content = read_keys(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            if self._keys or self._seen is None:
                logger.error("the keys file %s cannot be read, so every key is refused: %s", self._path, error)
            self._keys, self._seen = {}, ()
            return
        for number in content.damaged:
            logger.error("line %d of %s is not a key and is ignored", number, self._path)
        logger.info("%d keys in %s", len(content.keys), self._path)
        self._keys, self._seen = content.keys, seen


def _digest(sent: str) -> str:
    # A plain SHA-256 is sufficient, and fast enough for every request: a key has 256 random bits. Salts and slow
    # functions such as scrypt protect guessable passwords.
    return hashlib.sha256(sent.encode()).hexdigest()
