"""Settings: the command line goes before the environment, the environment before the defaults."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.__main__ import main
from service.settings import Settings


def test_the_environment_sets_what_the_command_line_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERVE_MAX_ITEMS", "5")
    monkeypatch.setenv("SPARSERVE_PORT", "9")
    settings = Settings(_cli_parse_args=["--port", "10", "--store", "here", "--max-body-bytes", "99"])
    assert (settings.max_items, settings.port, settings.store, settings.max_body_bytes) == (5, 10, Path("here"), 99)


def test_threads_are_divided_among_concurrent_inferences() -> None:
    assert Settings(threads=8, concurrency=3).threads_per_inference == 2
    with pytest.raises(ValidationError, match="concurrency 3 is more than the 2 threads"):
        Settings(threads=2, concurrency=3)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--port", "70000"], "--port (SPARSERVE_PORT)"),
        (["--max-items", "0"], "--max-items (SPARSERVE_MAX_ITEMS)"),
        (["--threads", "1", "--concurrency", "2"], "concurrency 2 is more than"),
    ],
)
def test_a_wrong_setting_is_named_and_the_exit_status_is_2(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_help_tells_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in told


def test_an_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--stroe", "x"])
    assert stopped.value.code == 2
