import threading

import pytest

from sparserve.models.errors import EnvironmentFault
from sparserve.models.pipeline.step_cache import Step, Workspace
from sparserve.models.progress import PlainReporter
from sparserve.models.recipes.schema import Pruning

REPORTER = PlainReporter()


def test_a_step_is_built_once_and_its_key_depends_on_every_input(tmp_path):
    built = []
    workspace = Workspace(tmp_path)
    step = Step("student", {"pruning": Pruning(), "seed": 0})

    def build(folder):
        built.append(folder)
        (folder / "result").write_text("x")

    first = workspace.run(step, build, REPORTER)
    assert workspace.run(step, build, REPORTER) == first
    assert len(built) == 1
    assert (first / "result").read_text() == "x"
    assert not workspace.has(Step("student", {"pruning": Pruning(sparsity=0.95), "seed": 0}))
    assert not workspace.has(Step("student", {"pruning": Pruning(), "seed": 1}))
    assert not workspace.has(Step("teacher", {"pruning": Pruning(), "seed": 0}))


def test_a_killed_step_goes_on_in_its_folder(tmp_path):
    workspace, step = Workspace(tmp_path), Step("teacher", {})

    def killed(folder):
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workspace.run(step, killed, REPORTER)
    assert not workspace.has(step)
    seen = []
    workspace.run(step, lambda folder: seen.append((folder / "checkpoint").read_text()), REPORTER)
    assert seen == ["half"]


def test_two_runs_do_not_work_on_one_step(tmp_path):
    workspace, step = Workspace(tmp_path), Step("teacher", {})
    started, release = threading.Event(), threading.Event()

    def slow(folder):
        started.set()
        release.wait(10)

    thread = threading.Thread(target=workspace.run, args=(step, slow, REPORTER))
    thread.start()
    started.wait(10)
    with pytest.raises(EnvironmentFault, match="another run"):
        workspace.run(step, slow, REPORTER)
    release.set()
    thread.join()
    assert workspace.has(step)


def test_a_work_folder_that_is_a_file_is_explained(tmp_path):
    (tmp_path / "work").write_text("")
    with pytest.raises(EnvironmentFault, match="work"):
        Workspace(tmp_path / "work").run(Step("a", {}), lambda folder: None, REPORTER)
