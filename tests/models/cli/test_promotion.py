"""`sparserve promote` and `rollback`, which need no extra: the store's pointer goes to another version and back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparserve.models.bundle.store import Store
from sparserve.models.cli.base_commands import base_command
from sparserve.models.cli.promotion import main
from sparserve.models.errors import StoreError
from tests.support.tiny_bundles import TASK, graph, publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with three versions of one variant, published in turn."""
    store = Store(tmp_path / "store")
    for turn in range(3):
        bundle = publish(store, variant="dense", model=graph(seed=turn))
        os.utime(bundle.folder / "manifest.json", (1000 + turn, 1000 + turn))
    return store


def test_rolling_back_goes_to_the_version_before_until_there_is_none(store: Store) -> None:
    first, second, third = store.versions(TASK, "dense")
    assert store.current(TASK, "dense") == third
    assert store.rollback(TASK, "dense") == second == store.current(TASK, "dense")
    assert store.rollback(TASK, "dense") == first
    with pytest.raises(StoreError, match="no version before"):
        store.rollback(TASK, "dense")
    assert store.current(TASK, "dense") == first


def test_the_commands_move_the_pointer(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSERVE_STORE", str(store.root))
    first, second, third = store.versions(TASK, "dense")
    assert main(["rollback", TASK, "dense"]) == 0
    assert capsys.readouterr().out == f"{TASK}/dense: {second} in place of {third}\n"
    assert main(["promote", TASK, "dense", first]) == 0
    assert store.current(TASK, "dense") == first
    assert main(["rollback", TASK, "dense"]) == 3
    assert "no version before" in capsys.readouterr().err
    assert main(["promote", TASK, "dense", "0" * 16]) == 3
    assert main(["promote", TASK, "dense", "x"]) == 3
    assert main(["promote", "none", "dense", first]) == 3
    assert store.current(TASK, "dense") == first


def test_a_damaged_pointer_is_mended_by_a_promotion(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    last = store.versions(TASK, "dense")[-1]
    (store.root / TASK / "dense" / "current").write_text("what?")
    assert main(["rollback", TASK, "dense", "--store", str(store.root)]) == 3
    assert last in capsys.readouterr().err
    assert main(["promote", TASK, "dense", last, "--store", str(store.root)]) == 0
    assert capsys.readouterr().out == f"{TASK}/dense: {last} in place of no version\n"


def test_they_need_none_of_the_jobs_libraries(store: Store) -> None:
    code = (
        "import sys; from models.base_commands import base_command; "
        f"status = base_command('rollback')([{TASK!r}, 'dense', '--store', {str(store.root)!r}]); "
        "base_command('keys'); print(status, *({'typer', 'torch', 'rich', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize("name", ["", "compress", "bundles", "Serve"])
def test_other_commands_are_the_extras(name: str) -> None:
    assert base_command(name) is None
