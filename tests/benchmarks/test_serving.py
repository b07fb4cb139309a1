"""Arithmetic of the serving benchmark, and a run from a store to a page with the real service."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving import publish as publish_serving
from benchmarks.serving.arms import PEERS, default_python, peer_arm, sparserve, store_of_one
from benchmarks.serving.measure import Bench, Plan, Progress
from benchmarks.serving.publish import section
from benchmarks.serving.rate_search import RateSearch, summary
from benchmarks.serving.raw_onnxruntime import ceiling, sorted_batches
from benchmarks.serving.texts import LONGEST, SHORTEST, lengths, poisson_arrivals, texts
from sparserve.models.bundle.inference import load_bundle
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.text_tokenizer import Tokens
from tests.support.tiny_bundles import TASK, publish


def test_poisson_arrivals_have_given_rate() -> None:
    arrivals = poisson_arrivals(200, 100, seed=3)
    assert arrivals[0] >= 0 and arrivals[-1] < 100
    gaps = np.diff(arrivals)
    assert (gaps >= 0).all()
    # Gaps are exponential: their mean is 1 / rate, their deviation equals it, and 1 - 1/e are shorter than it.
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.03)
    assert (gaps < 1 / 200).mean() == pytest.approx(1 - 1 / math.e, abs=0.02)
    counts = np.histogram(arrivals, bins=100)[0]
    assert counts.var() == pytest.approx(200, rel=0.4)


def test_load_is_reproducible() -> None:
    assert np.array_equal(poisson_arrivals(50, 4, 1), poisson_arrivals(50, 4, 1))
    assert not np.array_equal(poisson_arrivals(50, 4, 1), poisson_arrivals(50, 4, 2))
    assert texts(20, 0) == texts(20, 0) != texts(20, 1)


def test_lengths_have_realistic_spread() -> None:
    found = lengths(5_000, 0)
    assert found.min() == SHORTEST and found.max() == LONGEST
    assert np.median(found) < found.mean() < 2 * np.median(found)
    assert [len(text.split()) + 2 for text in texts(50, 0)] == lengths(50, 0).tolist()
    assert max(lengths(500, 0, longest=16)) == 16


def outcome(rows: Any) -> Any:
    due, latency, status = zip(*rows, strict=True)
    return {"due": due, "latency": latency, "status": status, "lag": [0.0] * len(rows), "processor": 0.1}


def test_summary_goodput_counts_timely_answers() -> None:
    rows = [
        (0.2, 0.1, 200),  # in the first second
        (0.5, 0.9, 200),
        (2.0, 1.5, 200),  # too late for its client
        (3.0, 0.2, 503),
        (3.5, 10.0, 0),
        (4.0, 0.5, 200),
        (4.9, 0.3, 200),  # after the end
    ]
    found = summary(outcome(rows), seconds=5, limit=1.0)
    assert found["goodput"] == 2 / 4
    assert found["statuses"] == {"0": 1, "200": 5, "503": 1}
    assert found["shed"] == pytest.approx(1 / 7)
    assert found["failed"] == pytest.approx(2 / 7)
    assert found["longest"] == 10.0
    assert found["p99_answered"] == 1.5


def test_summary_treats_missing_answer_as_infinite() -> None:
    rows = [(0.0, 0.01 * (index + 1), 200) for index in range(98)]
    assert summary(outcome([*rows, (0.0, 0.001, 429)]), 1, 1)["p99"] is None
    many = rows + [(0.0, 0.5, 200)] * 900
    found = summary(outcome([*many, (0.0, 0.001, 429)]), 1, 1)
    assert found["p99"] == pytest.approx(0.90)  # the 990th of 999
    assert found["p50"] == 0.5
    assert summary(outcome([*many, *[(0.0, 0.001, -1)] * 20]), 1, 1)["p99"] is None


def drive(search: Any, capacity: Any, *, hiccups: Any = ()) -> Any:
    """Drive a search against a server of this capacity; at the points of `hiccups` the machine is slightly busy."""
    asked = []
    while (rate := search.rate) is not None:
        asked.append(rate)
        near = 0.15 if len(asked) - 1 in hiccups else 0.05
        search.record(near if rate <= capacity else None)
    return asked


@pytest.mark.parametrize("capacity", [3.0, 47.0, 50.0, 1234.0])
def test_rate_search_finds_highest_rate(capacity: Any) -> None:
    search = RateSearch(start=50, limit=0.1, max_points=30)
    asked = drive(search, capacity)
    assert search.is_finished and search.passed <= capacity < search.passed * 1.05
    assert len(asked) < 14


def test_rate_search_survives_one_slow_moment() -> None:
    search = RateSearch(start=50, limit=0.1, max_points=30)
    asked = drive(search, 300, hiccups=(1,))
    assert asked[:4] == [50, 100, 100, 200]
    assert search.passed == pytest.approx(300, rel=0.05)


def test_rate_search_fails_after_two_slow_moments() -> None:
    search = RateSearch(start=50, limit=0.1, max_points=30)
    asked = drive(search, 300, hiccups=(1, 2))
    assert asked[1:3] == [100, 100]
    assert 90 < search.passed < 100


def test_rate_search_ends_for_dead_server() -> None:
    search = RateSearch(start=50, limit=0.1, max_points=6)
    assert len(drive(search, 0)) == 6
    assert search.passed == 0 and not search.is_finished


def test_sorted_batches_keep_budget() -> None:
    inputs = [Tokens([1] * length, [0] * length, truncated=False) for length in (9, 3, 3, 40, 5)]
    batches = sorted_batches(inputs, 20)
    assert [[len(item) for item in batch] for batch in batches] == [[3, 3, 5], [9], [40]]


@pytest.mark.parametrize("name", PEERS)
def test_peer_arm_sends_text_and_reads_scores(name: Any, tmp_path: Path) -> None:
    bundle = publish(Store(tmp_path / "store"))
    arm = peer_arm(name, default_python(), bundle, 1.0)
    assert "the film" in json.dumps(json.loads(arm.bodies(["the film"])[0]))
    scores = {"negative": 0.25, "positive": 0.75}
    rows = [{"label": label, "score": score} for label, score in scores.items()]
    answers = {
        "mlserver": {"outputs": [{"name": label, "data": [score]} for label, score in scores.items()]},
        "bentoml": [scores],
        "infinity": {"data": [rows]},
    }
    assert arm.scores(answers.get(name, {"scores": scores})) == scores
    assert f"benchmarks.serving.peers.{name}_server" in arm.command(1234)


def figures(**changes: Any) -> Any:
    found = {
        "requests": 800, "statuses": {"200": 800}, "p50": 0.02, "p99": 0.09, "p99_answered": 0.09, "longest": 0.1,
        "goodput": 100.0, "shed": 0.0, "failed": 0.0, "generator_cpu": 0.12, "generator_lag_p99": 0.001,
    }  # fmt: skip
    return found | changes


def arm(rate: Any, **changes: Any) -> Any:
    found = {
        "package": "a", "version": "1.2", "settings": "batches", "installed_bytes": 200_000_000, "best_rate": rate,
        "searched": True,
        "points": [figures()], "starts": [2.0, 3.0, 4.0], "scores": {"negative": 0.25, "positive": 0.75},
        "memory_bytes": 240_000_000, "memory_bytes_after": 250_000_000, "idle": figures(p50=0.012),
        "half": figures(p50=0.015, p99=0.03), "closed": figures(goodput=97.0),
        "same_loads": [{"part": 0.25, "rate": 25.0, **figures(p50=0.013, p99=0.0145)}],
        "overload": {"rate": 3 * rate, **figures(goodput=0.95 * rate, shed=0.5, failed=0.6, p99_answered=1.2)},
    }  # fmt: skip
    return found | changes


def record(**arms: Any) -> Any:
    beside = {"server_seconds": [0.0105, 0.0107, 0.9], "process_seconds": [0.0100, 0.0101, 0.02]}
    raw = {
        "load_seconds": 0.5, "load_bytes": 1, "tokens": {"mean": 35.0, "p50": 28.0, "p95": 90.0},
        "texts_per_second": {"4096": 80.0, "256": 100.0}, "padded_tokens_per_token": {"4096": 1.1, "256": 1.0},
    }  # fmt: skip
    variants = {
        "dense": {
            "best_rate": 80.0,
            "searched": True,
            "points": [],
            "starts": [],
            "idle": figures(p50=0.02),
            "runtime": "onnx",
        },
        "sparse90": {
            "best_rate": 320.0,
            "searched": False,
            "points": [],
            "starts": [],
            "idle": figures(p50=0.005),
            "runtime": "sparse",
        },
    }
    return {
        "measured_at": "2026-11-21T12:00:00+00:00", "minutes": 21.0,
        "machine": {"cpu": "a processor", "isa": ["avx2"], "cores": 2, "onnxruntime": "1.31.1"},
        "settings": {
            "seconds": 8.0, "p99_limit": 0.1, "timeout": 1.0, "threads": 1, "pinned": True, "shared": False,
            "quick": False, "task": TASK, "texts": 512, "variant": "dense", "model_bytes": 100_000_000, "options": {},
            "budget": 4096,
        },
        "raw": [raw], "arms": {"sparserve": arm(90.0, beside_process=beside), **arms},
        "endpoints": {"variants": variants, "error": None},
    }  # fmt: skip


def rows_of(text: Any, begins: Any) -> Any:
    return [line for line in text.splitlines() if line.startswith(f"| {begins}")]


def test_serving_page_shows_targets() -> None:
    text = section(record(bentoml=arm(50.0), ray=arm(60.0, scores={"negative": 0.2501, "positive": 0.7499})))
    met = {row.split("|")[1].strip(): row.split("|")[2:4] for row in text.split("###")[1].splitlines() if "| " in row}
    found = {what: (measured.strip(), yes.strip()) for what, (measured, yes) in met.items()}
    assert found["idle: at most 1.0 ms (median) more than tokenizer and session.run in a process"] == (
        "0.60 ms (10.70 and 10.10)", "yes",
    )  # fmt: skip
    assert found["at least 1.3 times the highest rate of the best other server (ray)"] == ("1.50 times", "yes")
    assert found["memory at most 150 MB more than the model file"] == ("140 MB", "yes")
    assert found["first answer at most 2 s later than the loading time of the model"] == ("2.5 s", "**no**")
    assert found["goodput of at least 90 % of the highest rate at 3 times that rate"] == ("95 %", "yes")
    assert ("97 % (97 of 100 texts/s)", "yes") in found.values()
    assert "differ by at most 0.0001" in text
    servers = [row.split("|")[1].strip() for row in rows_of(text, "") if "1.2" in row]
    assert servers[:3] == ["sparserve 1.2", "ray 1.2", "bentoml 1.2"]
    assert "| sparserve 1.2 | 13.0 / 14.5 |" in text and "at 25/s (25 %)" in text
    (sparse,) = rows_of(text, "`sparse90`")
    assert sparse == "| `sparse90` | sparse | over 320 | over 4.0 | 5.0 | 4.0 |"


def test_serving_page_lists_failures_without_rank() -> None:
    text = section(record(mlserver={**arm(0.0), "error": "ServerFailed: the server\nended with 1"}, bentoml=arm(50.0)))
    assert "- mlserver: `ServerFailed: the server ended with 1`" in text
    assert "best other server (bentoml)" in text


def test_serving_page_survives_immediate_failure() -> None:
    failed = {name: value for name, value in arm(0.0, error="gone").items() if name in ("settings", "version", "error")}
    text = section(record(ray=failed | {"best_rate": 0.0, "points": [], "starts": []}))
    assert not rows_of(text, "ray")
    assert "best other server" not in text


def test_times_as_many_of_unfinished_search() -> None:
    def found(best: Any, *failed: Any, searched: Any = False) -> Any:
        points = [{"rate": best, "within": True}, *({"rate": rate, "within": False} for rate in failed)]
        return {"best_rate": best, "searched": searched, "points": points}

    dense, ended = found(20.0, 40.0, 30.0, 10.0), found(25.0, 26.0, searched=True)
    assert publish_serving.times_as_many(dense, dense) == "1.0"
    assert publish_serving.times_as_many(found(50.0, 51.0, searched=True), ended) == "2.0"
    assert publish_serving.times_as_many(found(120.0, 180.0), dense) == "4.0 to 9.0"
    assert publish_serving.times_as_many(found(120.0, 180.0), ended) == "4.8 to 7.2"
    assert publish_serving.times_as_many(found(120.0), dense) == "over 4.0"
    assert publish_serving.times_as_many(ended, found(20.0)) == "-"
    assert publish_serving.times_as_many(found(0.0, 10.0), dense) == "-"


def test_serving_page_rejects_quick_run() -> None:
    quick = record()
    quick["settings"]["quick"] = True
    with pytest.raises(SystemExit, match="quick"):
        section(quick)


def test_serving_publish_fills_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "serving.json").write_text(json.dumps(record()))
    (tmp_path / "serving-shared.json").write_text(json.dumps(record(bentoml=arm(50.0))))
    copy = tmp_path / "serving.md"
    copy.write_text(publish_serving.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(publish_serving, "RESULTS", tmp_path / "serving.json")
    monkeypatch.setattr(publish_serving, "SHARED", tmp_path / "serving-shared.json")
    monkeypatch.setattr(publish_serving, "PAGE", copy)
    publish_serving.main()
    one, all_of_them = copy.read_text(encoding="utf-8").split("## On all CPUs")
    assert "| sparserve 1.2 |" in one and "bentoml 1.2" not in one
    assert "bentoml 1.2" in all_of_them
    assert "### Targets" in capsys.readouterr().out


@pytest.mark.thorough
def test_bench_measures_and_stops_real_service(tmp_path: Path) -> None:
    bundle = publish(Store(tmp_path / "store"))
    alone = store_of_one(bundle, tmp_path / "alone")
    plan = Plan(seconds=0.2, p99_limit=5.0, timeout=5.0, resolution=0.5, max_points=1)
    bench = Bench(plan, texts(8, 0, longest=16), bundle.folder)
    service = sparserve(default_python(), alone, TASK, "dense", runtime="onnx", timeout=5.0, options={})
    progress = Progress(RateSearch(start=50, limit=5.0, passed=20))
    bench.last_turn(service, progress, 40.0, beside_process=True)
    found = progress.as_record()
    assert found["half"]["statuses"].keys() == found["closed"]["statuses"].keys() == {"200"}
    assert found["closed"]["goodput"] > 0
    assert [load["rate"] for load in found["same_loads"]] == [10, 20, 30]
    assert found["overload"]["requests"] == pytest.approx(12, abs=12)
    assert 10_000_000 < found["memory_bytes"] < 1_000_000_000
    assert len(found["beside_process"]["server_seconds"]) == len(found["beside_process"]["process_seconds"]) > 0
    assert found["starts"][0] > 0


def test_bench_ceiling_measures_every_budget(tmp_path: Path) -> None:
    model = load_bundle(publish(Store(tmp_path / "store")), threads=1)
    found = ceiling(model, texts(8, 0, longest=16), [16, 64], seconds=0.01)
    assert found["texts_per_second"].keys() == {"16", "64"} and min(found["texts_per_second"].values()) > 0
    assert found["padded_tokens_per_token"]["16"] == 1 <= found["padded_tokens_per_token"]["64"]
    assert found["tokens"]["p50"] <= found["tokens"]["p95"] <= 16
