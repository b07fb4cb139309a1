"""Recognition of recorded runs of the accuracy benchmark, without their teachers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.benchmark import Benchmark
from benchmarks.accuracy.results import merge_results, read_results
from benchmarks.accuracy.scales.grid import cells
from benchmarks.accuracy.scales.small import SMALL, SMALLER
from benchmarks.accuracy.scores import logits
from benchmarks.accuracy.tasks import TASKS
from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.pipeline.plan import plan_job
from sparserve.models.progress import PlainReporter


@pytest.fixture
def benchmark(tmp_path: Path, tiny_checkpoint: Path) -> Any:
    folder = tmp_path / "data" / "mrpc"
    folder.mkdir(parents=True)
    for name, count in (("train", 60), ("validation", 12), ("test", 9)):
        rows = [
            {"text": f"{row} of {name}", "text_pair": "another", "label": ("different", "equivalent")[row % 2]}
            for row in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoint = resolve_checkpoint(str(tiny_checkpoint))
    return Benchmark(SMALL, checkpoint, folder.parent, tmp_path / "here", tmp_path / "accuracy.json", threads=1)


def test_is_recorded_on_other_machine_until_inputs_change(benchmark: Any, tmp_path: Path) -> None:
    first, second = (next(cells(SMALL, ["mrpc"], ["magnitude"], [level], seeds=1)) for level in ("95 %", "90 %"))
    assert not benchmark.is_recorded(first)
    record = {"key": benchmark.key(first), "scale": "minilm-l6", "method": "magnitude", "level": "95 %", "drop": {}}
    (tmp_path / "accuracy.json").write_text(json.dumps({"runs": [record, {}], "latency": []}))
    elsewhere = replace(benchmark, work=tmp_path / "there", threads=2, datasets={})
    assert elsewhere.is_recorded(first)
    assert not elsewhere.is_recorded(second)
    assert not elsewhere.is_recorded(replace(first, seed=1))
    assert not elsewhere.is_recorded(replace(first, scale=replace(SMALL, name="choices")))  # another table
    changed = replace(SMALL, finds_teacher=False)
    assert not elsewhere.is_recorded(replace(first, scale=changed))
    rows = tmp_path / "data" / "mrpc" / "train.jsonl"
    rows.write_text(rows.read_text() + '{"text": "a", "text_pair": "b", "label": "different"}\n')
    assert not replace(elsewhere, datasets={}).is_recorded(first)


def test_remaining_parts_of_runs_share_the_teacher(benchmark: Any) -> None:
    trained, unpruned = (next(cells(SMALL, ["mrpc"], [name], seeds=1)) for name in ("magnitude", "dense int8"))
    first, second = benchmark.remaining(trained), benchmark.remaining(unpruned)
    for parts in (first, second):  # the rows are too few for a search
        assert sorted(seconds > 0 for seconds in parts.values()) == [False] + [True] * (len(parts) - 1)
    # The teacher's search and training, the student, and the scores; the export and int8 in place of the student.
    assert (len(first), len(second), len(first.keys() & second.keys())) == (4, 5, 2)


def test_unlabelled_rows_are_those_of_the_task(benchmark: Any) -> None:
    names = ["sparsebert-best, 2,000 steps", "sparsebert-best, 2,000 steps, unlabelled rows"]
    plain, more = cells(SMALL, ["mrpc"], names, seeds=1)
    assert benchmark.job(plain).unlabeled is None
    assert benchmark.job(more).unlabeled.split.texts == [f"{row} of test" for row in range(9)]
    assert len(set(map(benchmark.key, (plain, more)))) == 2
    assert len({plan_job(benchmark.job(cell)).teacher.key for cell in (plain, more)}) == 1
    assert not list(cells(SMALL, ["rte"], [names[1]], seeds=1))


def test_student_of_a_bigger_teacher_is_compared_with_the_one_of_the_labels(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TASKS, "mrpc", replace(TASKS["mrpc"], max_length=32))
    short = {"finds_teacher": False, "epochs": {"mrpc": (0.5, 1)}}
    larger = replace(benchmark, scale=replace(SMALL, **short), datasets={})
    unexported = {"recipe": "post-training", "kind": "units", "levels": {"half": {"squeeze.flops": 0.5}}}
    methods = tuple(replace(method, **unexported) for method in SMALLER.methods)
    small = replace(benchmark, scale=replace(SMALLER, methods=methods, **short), bigger_scales={SMALL.name: larger})
    plain, taught = cells(small.scale, ["mrpc"], seeds=1)
    assert (plain.method.taught_by, taught.method.taught_by) == (None, SMALL)
    # This tiny network is that of both scales, so the bigger teacher is the dense one of the labels.
    assert small.key(taught) != small.key(plain)
    own = {taught.title, f"{taught.title}: dense teacher"}
    assert small.remaining(taught).keys() - own == small.remaining(plain).keys() - {plain.title}
    assert small.remaining(taught)[f"{taught.title}: dense teacher"] > 0
    assert not small.has_teacher(taught)
    small.run(taught, PlainReporter())
    assert small.has_teacher(taught) and small.is_recorded(taught) and not small.is_recorded(plain)
    chain, labels = small.plan(taught, PlainReporter()), small.teacher("mrpc", PlainReporter())
    assert chain.job.bigger_teacher.digest == larger.teacher("mrpc", PlainReporter()).digest == labels.digest
    assert chain.job.teacher.digest != labels.digest
    (record,) = read_results(small.results)["runs"]
    dataset = chain.job.dataset
    answers = logits(labels, dataset, 32, "test").argmax(-1)
    assert record["dense"] == TASKS["mrpc"].score(answers, dataset.test.labels, dataset.label_names)
    assert "taught by MiniLM-L6" in capsys.readouterr().out


def test_merge_results_keeps_the_newer_record(tmp_path: Path) -> None:
    def written(name: str, *runs: tuple[str, int, str]) -> Path:
        path = tmp_path / name
        fields = ("method", "score", "finished_at")
        rest = {"scale": "mpnet-base", "task": "rte", "level": "95 %", "seed": 0}
        path.write_text(
            json.dumps({"runs": [{**rest, **dict(zip(fields, r, strict=True))} for r in runs], "latency": []})
        )
        return path

    here = written("here.json", ("obert", 1, "2026-11-02"), ("platon", 2, "2026-11-02"))
    there = written(
        "there.json", ("obert", 3, "2026-11-03"), ("platon", 4, "2026-11-01"), ("magnitude", 5, "2026-11-01")
    )
    assert merge_results(there, here) == 2
    assert {record["method"]: record["score"] for record in read_results(here)["runs"]} == {
        "magnitude": 5,
        "obert": 3,
        "platon": 2,
    }
    assert merge_results(there, here) == 0
