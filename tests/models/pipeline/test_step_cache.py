"""Steps are built once, resumed after a kill, and name themselves when they fail."""

import threading
from pathlib import Path

import pytest

from sparserve.models.errors import EnvironmentFault, TrainingError
from sparserve.models.pipeline.step_cache import Context, Step, Workspace
from sparserve.models.progress import PlainReporter
from sparserve.models.recipes.schema import Pruning


class RecordingReporter(PlainReporter):
    """Keeps the names of steps that began, and of those that were found."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.cached: list[str] = []

    def begin(self, step: str) -> None:
        self.begun.append(step)

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        if cached:
            self.cached.append(step)


def run(folder: Path, step: Step) -> Path:
    return Context(Workspace(folder), PlainReporter()).result(step)


def make_nothing(folder: Path, context: Context) -> None:
    """Leave the folder empty."""


def test_step_is_built_once(tmp_path: Path) -> None:
    builds: list[Path] = []

    def build(folder: Path, context: Context) -> None:
        builds.append(folder)
        (folder / "result").write_text("x")

    step = Step("student", {"pruning": Pruning(), "seed": 0}, build)
    first = run(tmp_path, step)
    assert run(tmp_path, step) == first
    assert len(builds) == 1
    assert (first / "result").read_text() == "x"


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("student", {"pruning": Pruning(sparsity=0.95), "seed": 0}),
        ("student", {"pruning": Pruning(), "seed": 1}),
        ("teacher", {"pruning": Pruning(), "seed": 0}),
    ],
)
def test_step_key_depends_on_name_and_every_input(name: str, inputs: dict[str, object]) -> None:
    step = Step("student", {"pruning": Pruning(), "seed": 0}, make_nothing)
    assert Step(name, inputs, make_nothing).key != step.key


def test_step_resumes_in_its_folder_after_a_kill(tmp_path: Path) -> None:
    def killed(folder: Path, context: Context) -> None:
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Step("teacher", {}, killed))
    assert not Workspace(tmp_path).has(Step("teacher", {}, killed))
    contents: list[str] = []
    run(tmp_path, Step("teacher", {}, lambda folder, context: contents.append((folder / "checkpoint").read_text())))
    assert contents == ["half"]


def test_context_builds_what_a_missing_step_needs_first(tmp_path: Path) -> None:
    teacher = Step("teacher", {}, make_nothing)
    outputs = Step("teacher outputs", {}, make_nothing, needs=(teacher,))
    student = Step("student", {}, make_nothing, needs=(teacher, outputs))
    first = RecordingReporter()
    Context(Workspace(tmp_path), first).result(student)
    assert first.begun == ["teacher", "teacher outputs", "student"]

    # The results that the student was made from are not needed again.
    Workspace(tmp_path).path(outputs).rmdir()
    second = RecordingReporter()
    context = Context(Workspace(tmp_path), second)
    context.result(student)
    context.result(student)
    assert (second.begun, second.cached) == ([], ["student"])


def test_failed_step_names_itself(tmp_path: Path) -> None:
    def fail(folder: Path, context: Context) -> None:
        raise TrainingError("the loss is nan")

    teacher = Step("teacher", {}, fail)
    with pytest.raises(TrainingError) as raised:
        run(tmp_path, Step("student", {}, make_nothing, needs=(teacher,)))
    assert raised.value.step == "teacher"


def test_step_refuses_a_second_run_at_the_same_time(tmp_path: Path) -> None:
    started, release = threading.Event(), threading.Event()

    def slow(folder: Path, context: Context) -> None:
        started.set()
        release.wait(10)

    step = Step("teacher", {}, slow)
    thread = threading.Thread(target=run, args=(tmp_path, step))
    thread.start()
    started.wait(10)
    with pytest.raises(EnvironmentFault, match="another run"):
        run(tmp_path, step)
    release.set()
    thread.join()
    assert Workspace(tmp_path).has(step)


def test_workspace_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("")
    with pytest.raises(EnvironmentFault, match="work"):
        run(tmp_path / "work", Step("a", {}, make_nothing))
