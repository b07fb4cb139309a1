"""`sparserve keys`: the commands that create, list and revoke API keys."""

from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner, Result

from sparserve.cli import app
from sparserve.cli.keys import KeyScope
from sparserve.service.security.api_keys import Keyring, Scope


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of keys, which the environment names."""
    path = tmp_path / "secrets" / "keys"
    monkeypatch.setenv("SPARSERVE_KEYS_FILE", str(path))
    return path


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments], catch_exceptions=False)


def test_keys_scopes_are_those_of_the_service() -> None:
    assert tuple(KeyScope) == get_args(Scope)


def test_keys_create_list_and_revoke(path: Path) -> None:
    created = keys("create", "ci", "--scope", "admin", "--rate", "60", "--weight", "4", "--days", "2")
    assert created.exit_code == 0
    assert "not shown again" in created.stderr
    sent = created.stdout.strip()
    key = Keyring(path).find(sent)
    assert key and key.scopes == {"admin"} and key.rate == 60 and key.weight == 4
    listed = keys("list")
    assert listed.exit_code == 0
    assert "ci" in listed.stdout and "admin" in listed.stdout and "60/min" in listed.stdout
    assert "weight 4" in listed.stdout
    assert sent not in listed.stdout and key.sha256 not in listed.stdout
    assert keys("revoke", "ci").exit_code == 0
    assert Keyring(path).find(sent) is None


def test_keys_create_allows_classification_by_default(path: Path) -> None:
    sent = keys("create", "ci").stdout.strip()
    key = Keyring(path).find(sent)
    assert key and key.scopes == {"classify"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["list"], 2, "there is no file"),
        (["revoke", "ci"], 2, "no key 'ci'"),
        (["create", "a b"], 2, "cannot be a key's name"),
        (["create", "ci", "--scope", "all"], 2, "all"),
        (["create", "ci", "--rate", "many"], 2, "--rate"),
        (["create"], 2, "name"),
    ],
)
def test_keys_reports_wrong_input(path: Path, arguments: list[str], code: int, message: str) -> None:
    result = keys(*arguments)
    assert result.exit_code == code
    assert message in result.stderr.lower()
    assert not path.exists()


def test_keys_needs_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSERVE_KEYS_FILE")
    result = keys("list")
    assert result.exit_code == 2
    assert "--file" in result.stderr


def test_keys_reports_an_unreadable_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\xff")
    result = keys("create", "ci")
    assert result.exit_code == 4
    assert "cannot be read" in result.stderr
    assert path.read_bytes() == b"\xff"
