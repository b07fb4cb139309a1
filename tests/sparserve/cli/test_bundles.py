"""`sparserve promote`, `rollback` and `bundles`, on a store that was not made by the job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sparserve.cli import app
from sparserve.models.bundle.store import Store
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


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_store_rolls_back_until_the_first_version(store: Store) -> None:
    first, second, third = store.versions(TASK, "dense")
    assert store.current(TASK, "dense") == third
    assert store.rollback(TASK, "dense") == second == store.current(TASK, "dense")
    assert store.rollback(TASK, "dense") == first
    with pytest.raises(StoreError, match="no version before"):
        store.rollback(TASK, "dense")
    assert store.current(TASK, "dense") == first


def test_promote_and_rollback_move_the_pointer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERVE_STORE", str(store.root))
    first, second, third = store.versions(TASK, "dense")
    result = run("rollback", TASK, "dense")
    assert (result.exit_code, result.stdout) == (0, f"{TASK}/dense: {second} in place of {third}\n")
    assert run("promote", TASK, "dense", first).exit_code == 0
    assert store.current(TASK, "dense") == first
    result = run("rollback", TASK, "dense")
    assert result.exit_code == 3
    assert "no version before" in result.stderr


@pytest.mark.parametrize(("task", "version"), [(TASK, "0" * 16), (TASK, "x"), ("none", "0" * 16)])
def test_promote_refuses_an_unknown_version(store: Store, task: str, version: str) -> None:
    current = store.current(TASK, "dense")
    assert run("promote", task, "dense", version, "--store", store.root).exit_code == 3
    assert store.current(TASK, "dense") == current


def test_promote_repairs_a_damaged_pointer(store: Store) -> None:
    last = store.versions(TASK, "dense")[-1]
    (store.root / TASK / "dense" / "current").write_text("what?")
    result = run("rollback", TASK, "dense", "--store", store.root)
    assert result.exit_code == 3
    assert last in result.stderr
    result = run("promote", TASK, "dense", last, "--store", store.root)
    assert (result.exit_code, result.stdout) == (0, f"{TASK}/dense: {last} in place of no version\n")


def test_rollback_needs_no_library_of_the_job_or_the_service(store: Store) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from sparserve.cli import app; "
        f"result = CliRunner().invoke(app, ['rollback', {TASK!r}, 'dense', '--store', {str(store.root)!r}]); "
        "print(result.exit_code, *({'torch', 'transformers', 'onnxruntime', 'fastapi', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@pytest.mark.parametrize("command", ["list", "verify"])
def test_bundles_reports_a_missing_store(command: str, tmp_path: Path) -> None:
    result = run("bundles", command, "--store", tmp_path / "stroe")
    assert result.exit_code == 3
    assert "there is no store" in result.stderr


def test_bundles_lists_verifies_and_sets_the_default(store: Store) -> None:
    publish(store, variant="sparse90")
    assert run("bundles", "default", TASK, "sparse90", "--store", store.root).exit_code == 0
    assert store.default_variant(TASK) == "sparse90"
    listed = run("bundles", "list", "--store", store.root).stdout
    assert all(version in listed for version in store.versions(TASK, "dense"))
    assert "current, default" in listed
    assert run("bundles", "verify", "--store", store.root).exit_code == 0
    model = store.folder(TASK, "dense") / "model.onnx"
    model.write_bytes(model.read_bytes()[:-10])
    result = run("bundles", "verify", "--store", store.root)
    assert result.exit_code == 3
    assert "model.onnx has" in result.stdout


def test_bundles_reports_refused_tasks_beside_the_others(store: Store) -> None:
    (store.root / "linked").symlink_to(store.root / TASK)
    (store.root / TASK / "sparse90").symlink_to(store.root / TASK / "dense")
    listed = run("bundles", "list", "--store", store.root)
    assert listed.exit_code == 0
    assert listed.stdout.count("is a link") == 2
    assert store.current(TASK, "dense") in listed.stdout
    verified = run("bundles", "verify", "--store", store.root)
    assert verified.exit_code == 3
    assert "linked is a link" in verified.stdout
    assert f"{store.current(TASK, 'dense')}: good" in verified.stdout


def test_completion_offers_what_the_store_holds(store: Store) -> None:
    def complete(line: str) -> list[str]:
        variables = {"_SPARSERVE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        environment = {**os.environ, **variables, "SPARSERVE_STORE": str(store.root)}
        code = "import sys; sys.argv[0] = 'sparserve'; from sparserve.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    assert complete("sparserve rol") == ["rollback"]
    assert complete("sparserve rollback ") == [TASK]
    assert complete(f"sparserve promote {TASK} dense ") == store.versions(TASK, "dense")
