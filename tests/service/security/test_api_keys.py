"""API keys: the file that holds their digests, and which key is valid."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserve.models.errors import InputError
from sparserve.service.security.api_keys import POLL_SECONDS, Keyring, read_keys
from sparserve.service.security.key_file import create, revoke
from tests.support.service.stopped_clock import StoppedClock

CLASSIFY = frozenset({"classify"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "keys"


def test_keyring_finds_key_by_digest(path: Path) -> None:
    sent = create(path, "ci", frozenset({"classify", "admin"}), rate=600)
    found = Keyring(path).find(sent)
    assert found is not None
    assert (found.name, found.scopes, found.rate, found.expires) == ("ci", frozenset({"classify", "admin"}), 600, None)
    assert sent not in path.read_text() and sent.rpartition("_")[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keyring_reads_weight(path: Path) -> None:
    sent = {weight: create(path, f"of-{weight}", CLASSIFY, weight=weight) for weight in (2.5, None)}
    ring = Keyring(path)
    assert [(key.name, key.weight) for one in sent.values() if (key := ring.find(one))] == [
        ("of-2.5", 2.5),
        ("of-None", None),
    ]
    assert path.read_text().count("weight") == 1  # a key without one has the line of versions before


def test_two_keys_are_never_the_same(path: Path) -> None:
    one, other = create(path, "one", CLASSIFY), create(path, "other", CLASSIFY)
    ring = Keyring(path)
    assert [key.name for sent in (one, other) if (key := ring.find(sent))] == ["one", "other"]
    assert len(one) == len(other) == len("sparserve_") + 8 + 1 + 43
    swapped = one[:18] + other[18:]
    assert ring.find(swapped) is None


def test_keyring_refuses_altered_key(path: Path) -> None:
    sent = create(path, "ci", CLASSIFY)
    digest = json.loads(path.read_text())["sha256"]
    ring = Keyring(path)
    last = "A" if sent[-1] != "A" else "B"
    for wrong in ("", sent[:-1], sent + "A", sent[:-1] + last, sent.upper(), f" {sent}", f"{sent}\n", digest, "ci"):
        assert ring.find(wrong) is None, wrong
    assert ring.find(f"{sent[:19]}{digest[:43]}") is None


@given(st.text(max_size=80))
def test_no_text_is_a_key_or_an_error(tmp_path_factory: pytest.TempPathFactory, sent: str) -> None:
    path = tmp_path_factory.getbasetemp() / "given-keys"
    if not path.exists():
        create(path, "ci", CLASSIFY)
    assert Keyring(path).find(sent) is None


def test_an_expired_key_is_none(path: Path) -> None:
    sent = create(path, "ci", CLASSIFY, days=1)
    now = datetime.now(UTC)
    assert Keyring(path, now=lambda: now + timedelta(hours=23)).find(sent)
    assert Keyring(path, now=lambda: now + timedelta(hours=25)).find(sent) is None


def test_keyring_reloads_changed_file(path: Path) -> None:
    clock = StoppedClock()
    first = create(path, "first", CLASSIFY)
    ring = Keyring(path, clock=clock)
    second = create(path, "second", CLASSIFY)
    revoke(path, "first")
    assert ring.find(first) and not ring.find(second)  # the file is polled once per second
    clock.seconds += POLL_SECONDS
    assert ring.find(second) and not ring.find(first)


def test_keyring_without_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = StoppedClock()
    sent = create(path, "ci", CLASSIFY)
    ring = Keyring(path, clock=clock)
    hidden = path.rename(path.with_name("hidden"))
    for _ in range(3):
        clock.seconds += POLL_SECONDS
        assert ring.find(sent) is None
    assert caplog.text.count("every key is refused") == 1
    hidden.rename(path)
    clock.seconds += POLL_SECONDS
    assert ring.find(sent)


def test_read_keys_ignores_damaged_lines(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sent = create(path, "ci", CLASSIFY)
    line = path.read_text()
    wrong = ["{", "secret", line.replace('"ci"', '"a b"').strip(), line.replace("classify", "all").strip(), "[]"]
    path.write_text("\n".join(["# comment", "", *wrong, line]))
    assert read_keys(path.read_text()).damaged == [3, 4, 5, 6, 7]
    assert Keyring(path).find(sent)
    assert "line 4 of" in caplog.text and "secret\n" not in caplog.text
    assert json.loads(line)["sha256"] not in caplog.text
    revoke(path, "ci")
    assert path.read_text() == "\n".join(["# comment", "", *wrong, ""])


def test_keys_made_at_once_are_all_there(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda number: create(path, f"key{number}", CLASSIFY), range(16)))
    ring = Keyring(path)
    assert all(ring.find(one) for one in sent)


def test_whom_the_owner_lets_read_may_read_on(path: Path) -> None:
    create(path, "one", CLASSIFY)
    path.chmod(0o644)
    create(path, "two", CLASSIFY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "taken"}, "already has a key 'taken'"),
        ({"name": "a b"}, "'a b' cannot be a key's name"),
        ({"name": "x\n"}, "cannot be a key's name"),
        ({"rate": 0}, "at least 1 request per minute"),
        ({"weight": 0.0}, "the weight 0.0 is not from 0.01 to 100"),
        ({"weight": float("inf")}, "the weight inf is not from"),
        ({"days": 0}, "a number above 0"),
        ({"days": float("nan")}, "a number above 0"),
        ({"days": 1e12}, "too many"),
    ],
)
def test_what_cannot_be_a_key_is_said(path: Path, options: dict[str, Any], message: str) -> None:
    create(path, "taken", CLASSIFY)
    before = path.read_text()
    with pytest.raises(InputError, match=message):
        create(path, **{"name": "new", "scopes": CLASSIFY, **options})
    assert path.read_text() == before
