"""Settings: the command line takes precedence over the environment, and that over the defaults."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from sparserve.service.__main__ import main
from sparserve.service.settings import Settings


def test_settings_environment_below_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERVE_MAX_ITEMS", "5")
    monkeypatch.setenv("SPARSERVE_PORT", "9")
    settings = Settings(_cli_parse_args=["--port", "10", "--store", "here", "--max-body-bytes", "99"])
    assert (settings.max_items, settings.port, settings.store, settings.max_body_bytes) == (5, 10, Path("here"), 99)


@pytest.mark.parametrize(
    "threads, concurrency, batches, per_session", [(1, None, 1, 1), (7, None, 1, 7), (16, None, 4, 13), (8, 3, 3, 6)]
)
def test_settings_divide_the_threads(threads: int, concurrency: int | None, batches: int, per_session: int) -> None:
    settings = Settings(threads=threads, concurrency=concurrency)
    assert (settings.concurrent_batches, settings.threads_per_session) == (batches, per_session)


def test_settings_refuse_more_batches_than_threads() -> None:
    with pytest.raises(ValidationError, match="concurrency 3 is more than the 2 available threads"):
        Settings(threads=2, concurrency=3)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--port", "70000"], "--port (SPARSERVE_PORT)"),
        (["--max-items", "0"], "--max-items (SPARSERVE_MAX_ITEMS)"),
        (["--threads", "1", "--concurrency", "2"], "concurrency 2 is more than"),
        (
            ["--max-body-bytes", "9", "--max-bodies-bytes", "8"],
            "max_bodies_bytes 8 is less than max_body_bytes 9",
        ),
        (["--trusted-proxies", "10.0.0.1/8"], "--trusted-proxies (SPARSERVE_TRUSTED_PROXIES): 0: "),
        (
            ["--experiments", '{"a": {"mode": "shadow", "candidate": "x"}}'],
            "--experiments (SPARSERVE_EXPERIMENTS): a.share: Field required",
        ),
        (["--pins", "foo"], "--pins (SPARSERVE_PINS): invalid JSON. Expected: versions to serve"),
    ],
)
def test_settings_wrong_value_is_named_with_exit_status_2(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_settings_wrong_json_variable_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSERVE_TRUSTED_PROXIES", "10.0.0.0/8")
    assert main([]) == 2
    told = capsys.readouterr().err
    assert "(SPARSERVE_TRUSTED_PROXIES): invalid JSON" in told and '["10.0.0.0/8"]' in told


def test_settings_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in told


def test_settings_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--stroe", "x"])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rows.db", "write sqlite:///FILE"),
        ("nothing://host/rows", "write sqlite:///FILE"),
        ("oracle+cx_oracle://host/rows", "the driver cx_Oracle is not installed"),
    ],
)
def test_settings_refuse_a_database_without_a_driver(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(disagreements_url=url)
    assert Settings(disagreements_url="sqlite:///rows.db").disagreements_url == "sqlite:///rows.db"


def test_settings_ignore_the_addresses_that_kubernetes_sets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SPARSERVE_PORT", "SPARSERVE_GRPC_PORT", "SPARSERVE_PORT_8000_TCP"):
        monkeypatch.setenv(name, "tcp://10.96.0.7:8000")
    monkeypatch.setenv("SPARSERVE_SERVICE_HOST", "10.96.0.7")
    settings = Settings()
    assert (settings.port, settings.grpc_port) == (8000, None)
    assert "SPARSERVE_GRPC_PORT=tcp://10.96.0.7:8000 is not a port but an address" in capsys.readouterr().err
    assert Settings(_cli_parse_args=["--port", "9"]).port == 9


def test_settings_empty_variables_are_those_that_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"SPARSERVE_{name.upper()}", "")
    with pytest.raises(ValidationError, match="SPARSERVE_KEYS_FILE is empty: name a file, or unset it"):
        Settings()
    monkeypatch.delenv("SPARSERVE_KEYS_FILE")
    assert Settings() == Settings(_env_prefix="UNSET_")


@pytest.mark.parametrize("host", ["::1", "[::1]", " ::1\n"])
def test_settings_host_may_have_the_brackets_of_a_url(host: str) -> None:
    assert Settings(host=host).host == "::1"
