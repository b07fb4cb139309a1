"""Order of the serving benchmark's turns, and the loop over them: time, failures, resumption."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.arms import Arm, Graph, default_python, peer_arm, sparserve, workers_arms
from benchmarks.serving.run import started
from benchmarks.serving.turns import CEILING, SECOND_CEILING, Turn, plan, run
from sparserve.models.bundle.store import Store
from tests.support.tiny_bundles import TASK, publish

VARIANTS = ("dense", "dense-int8", "sparse90", "sparse90-int8")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    store = Store(tmp_path_factory.mktemp("store"))
    return {name: Graph(publish(store, TASK, name), "onnx") for name in VARIANTS}


def service(graph: Graph) -> Arm:
    return sparserve(default_python(), Path("store"), graph, timeout=1.0, options={})


def turns_of(graphs: dict[str, Graph]) -> list[Turn]:
    own = {name: service(graph) for name, graph in graphs.items()}
    peers = [
        peer_arm(name, default_python(), graphs[variant], 1.0)
        for name in ("litserve", "ray")
        for variant in ("dense", "sparse90-int8")
    ]
    infinity = [peer_arm("infinity", default_python(), graphs[variant], 1.0) for variant in ("dense", "dense-int8")]
    bare = [peer_arm(name, default_python(), graphs["dense"], 1.0) for name in ("bare ASGI", "bare ASGI with a queue")]
    workers = workers_arms(default_python(), Path("s"), graphs["sparse90-int8"], timeout=1.0, options={}, counts=(1, 2))
    return plan(own, bare, workers, [*peers, *infinity])


def test_plan_has_targets_first(graphs: dict[str, Graph]) -> None:
    names = [(turn.arm.name, turn.parts) for turn in turns_of(graphs)]
    assert names[0] == ("sparserve sparse90-int8", (CEILING, "closed", "idle", "many"))
    assert names[1] == ("sparserve dense", (CEILING, "closed", "idle", "many"))
    assert names[2:4] == [(f"sparserve {name}", (CEILING, "closed", "idle")) for name in ("dense-int8", "sparse90")]
    assert names[4] == ("sparserve sparse90-int8", (SECOND_CEILING, "rates"))
    assert [name for name, _ in names[8:12]] == [
        "bare ASGI", "bare ASGI with a queue dense", "sparserve sparse90-int8 --workers 1",
        "sparserve sparse90-int8 --workers 2",
    ]  # fmt: skip
    assert [name for name, parts in names if parts == ("closed", "rates")] == [
        "infinity dense", "infinity dense-int8", "litserve sparse90-int8", "ray sparse90-int8", "litserve dense",
        "ray dense",
    ]  # fmt: skip
    assert names[12:14] == [("sparserve sparse90-int8", ("around",)), ("sparserve dense", ("around",))]
    assert [name for name, parts in names[14:] if parts == ("around",)] == [name for name, _ in names[-5:]]
    assert len(names) == len(set(names))


def test_workers_arms_have_one_thread_per_process(graphs: dict[str, Graph]) -> None:
    one, two = workers_arms(
        default_python(), Path("s"), graphs["dense"], timeout=1.0, options={"max-items": "8"}, counts=(1, 2)
    )
    command = two.command(80)
    assert [command[command.index(name) + 1] for name in ("--workers", "--threads", "--max-items")] == ["2", "2", "8"]
    assert one.all_cpus and one.name == "sparserve dense --workers 1"


class Bench:
    """Measures parts at once, and fails where it is asked to."""

    def __init__(self, *failing: tuple[str, str]) -> None:
        self.failing = failing
        self.now = 0.0
        self.saved = 0
        self.measured: list[tuple[str, str]] = []

    def measure(self, arm: Arm, parts: Sequence[str], record: dict[str, Any]) -> Iterator[str]:
        for part in parts:
            self.now += 10
            if (arm.name, part) in self.failing:
                raise RuntimeError(f"no {part}")
            self.measured.append((arm.name, part))
            yield part

    def run(self, turns: Sequence[Turn], records: dict[str, Any], ends: float = 1e9) -> list[dict[str, Any]]:
        for turn in turns:
            records.setdefault(turn.arm.name, {"measured": []})
        return run(turns, records, self.measure, self.save, load_seconds=5, ends=ends, clock=lambda: self.now)

    def save(self) -> None:
        self.saved += 1


def test_run_saves_after_every_turn_and_resumes(graphs: dict[str, Graph]) -> None:
    dense, int8 = (service(graphs[name]) for name in ("dense", "dense-int8"))
    turns = [Turn(dense, ("closed", "idle")), Turn(int8, ("closed",)), Turn(dense, ("rates",))]
    records: dict[str, Any] = {}
    first = Bench(("sparserve dense", "idle"))
    assert first.run(turns, records) == []
    assert first.saved == 3
    assert records["sparserve dense"]["error"] == "RuntimeError: no idle"
    assert records["sparserve dense"]["measured"] == ["closed", "rates"]
    second = Bench()
    second.run(turns, records)
    assert second.measured == [("sparserve dense", "idle")]


def test_run_gives_up_server_that_never_ran(graphs: dict[str, Graph]) -> None:
    dense = service(graphs["dense"])
    turns = [Turn(dense, (CEILING, "closed")), Turn(dense, (SECOND_CEILING, "rates"))]
    records: dict[str, Any] = {}
    bench = Bench(("sparserve dense", "closed"))
    bench.run(turns, records)
    assert bench.measured == [("sparserve dense", CEILING)]
    assert records["sparserve dense"]["measured"] == [CEILING]


def test_run_leaves_out_turns_without_time(graphs: dict[str, Graph]) -> None:
    dense, int8 = (service(graphs[name]) for name in ("dense", "dense-int8"))
    long = Turn(dense, ("closed", "rates", "around"))
    short = Turn(int8, ("idle",))
    bench = Bench()
    skipped = bench.run([long, short], {}, ends=short.seconds(5) + 1)
    assert skipped == [{"arm": "sparserve dense", "parts": ["closed", "rates", "around"]}]
    assert bench.measured == [("sparserve dense-int8", "idle")]


def test_started_resumes_same_settings_alone(tmp_path: Path) -> None:
    output = tmp_path / "serving.json"
    fresh = started({"seconds": 5}, output, resume=True)
    assert fresh["arms"] == {} and fresh["minutes"] == 0
    fresh["arms"]["a"] = {"measured": ["closed"], "error": "gone"}
    output.write_text(json.dumps(fresh))
    assert started({"seconds": 5}, output, resume=True)["arms"] == {"a": {"measured": ["closed"]}}
    assert started({"seconds": 5}, output, resume=False)["arms"] == {}
    with pytest.raises(SystemExit, match="other settings"):
        started({"seconds": 8}, output, resume=True)
