"""Targets and page of the serving benchmark, from results of today and of earlier versions."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.publish import page, tables
from benchmarks.serving.publish.results import best_alone, closed, upgraded
from benchmarks.serving.publish.targets import targets
from tests.support.tiny_bundles import TASK


def figures(**changes: Any) -> Any:
    found = {
        "requests": 800, "statuses": {"200": 800}, "p50": 0.02, "p99": 0.09, "p99_answered": 0.09, "longest": 0.1,
        "goodput": 100.0, "shed": 0.0, "failed": 0.0, "generator_cpu": 0.12, "generator_lag_p99": 0.001,
    }  # fmt: skip
    return found | changes


def arm(server: str, variant: str, rate: Any, cpu: float, **changes: Any) -> Any:
    found = {
        "server": server, "variant": variant, "runtime": "onnx", "workers": 1, "all_cpus": False, "reference": False,
        "package": "a", "version": "1.2", "settings": "batches", "installed_bytes": 200_000_000, "best_rate": rate,
        "searched": True, "points": [{"rate": 1.0, "within": True, **figures()}], "starts": [2.0, 3.0, 4.0],
        "measured": ["closed", "rates"],
        "scores": {"negative": 0.25, "positive": 0.75}, "memory_bytes": 240_000_000, "memory_bytes_after": 250_000_000,
        "closed_loads": [
            {"clients": 1, **figures(p50=0.012, server_cpu=1.2 * cpu)},
            {"clients": 8, **figures(server_cpu=1.1 * cpu)},
            {"clients": 32, **figures(goodput=97.0, server_cpu=cpu)},
        ],
        "half": figures(p50=0.015, p99=0.03),
        "same_loads": [{"part": 0.25, "rate": 25.0, **figures(p50=0.013, p99=0.0145)}],
        "overload": {"rate": 3 * rate, **figures(goodput=0.95 * rate, shed=0.5, failed=0.6, p99_answered=1.2)},
    }  # fmt: skip
    return found | changes


def run_alone(variant: str, rate: float) -> Any:
    return {
        "variant": variant, "runtime": "onnx", "load_seconds": 0.5, "load_bytes": 1,
        "rate_without_overhead": 0.65 * rate,
        "tokens": {"mean": 35.0, "p50": 28.0, "p95": 90.0},
        "texts_per_second": {"4096": 0.8 * rate, "256": rate}, "padded_tokens_per_token": {"4096": 1.1, "256": 1.0},
    }  # fmt: skip


def counted(record: Any, model_cpu: float) -> Any:
    for load in record["closed_loads"]:
        load |= {"mean_batch": 4.0, "model_cpu": model_cpu}
    return record


def results(**arms: Any) -> Any:
    """Return results of a run: a dense graph, its int8 variant, and a fast graph, each in the service."""
    beside = {"server_seconds": [0.0105, 0.0107, 0.9], "process_seconds": [0.0100, 0.0103, 0.02]}
    many = {
        "texts": 256, "server_seconds": [0.25, 0.2, 0.9], "tokenize_seconds": [0.01, 0.01, 0.02],
        "graph_seconds": {"256": [0.24, 0.23, 0.25], "1024": [0.3, 0.3, 0.3]},
    }  # fmt: skip
    own = [
        arm("sparserve", "dense", 90.0, 0.0090, beside_process=beside),
        arm("sparserve", "dense-int8", 200.0, 0.0033),
        counted(arm("sparserve", "sparse90-int8", 700.0, 0.0010, many=many), 0.0007),
    ]
    workers = [
        arm("sparserve", "sparse90-int8", 0, 0.001, workers=count, all_cpus=True, best_rate=None,
            closed_loads=[{"clients": 32, **figures(goodput=rate)}])
        for count, rate in ((1, 500.0), (2, 950.0))
    ]  # fmt: skip
    bare = counted(arm("bare ASGI with a queue", "sparse90-int8", 800.0, 0.00096, reference=True), 0.0007)
    named = {f"sparserve {record['variant']}": record for record in own}
    named |= {f"sparserve --workers {record['workers']}": record for record in workers}
    return {
        "measured_at": "2026-11-21T12:00:00+00:00", "minutes": 21.0,
        "machine": {"cpu": "a processor", "isa": ["avx2"], "cores": 2, "onnxruntime": "1.31.1"},
        "settings": {
            "seconds": 8.0, "p99_limit": 0.1, "timeout": 1.0, "threads": 1, "pinned": True, "shared": False,
            "quick": False, "task": TASK, "texts": 512, "options": {},
            "graphs": {
                "dense": {"runtime": "onnx", "bytes": 100_000_000},
                "dense-int8": {"runtime": "onnx", "bytes": 25_000_000},
                "sparse90-int8": {"runtime": "sparse", "bytes": 15_000_000},
            },
        },
        "raw": [run_alone("dense", 100.0), run_alone("sparse90-int8", 1000.0), run_alone("sparse90-int8", 1100.0)],
        "arms": {**named, "bare": bare, **arms}, "skipped": [], "targets": [],
    }  # fmt: skip


def earlier(**arms: Any) -> Any:
    """Return results of an earlier version: one graph, and variants of one store apart."""

    def old(rate: float, **changes: Any) -> Any:
        found = arm("", "", rate, 0.01)
        for name in ("server", "variant", "runtime", "workers", "all_cpus", "reference", "measured", "closed_loads"):
            del found[name]
        return found | {"idle": figures(p50=0.012), "closed": figures(goodput=97.0)} | changes

    found = results()
    found["settings"] |= {"variant": "dense", "model_bytes": 100_000_000, "budget": 4096}
    del found["settings"]["graphs"], found["skipped"], found["targets"]
    variants = {
        "dense": {"best_rate": 80.0, "searched": True, "points": [], "starts": [], "idle": figures(p50=0.02)},
        "sparse90": {"best_rate": 320.0, "searched": False, "points": [], "starts": [], "idle": figures(p50=0.005)},
        "sparse95": {"best_rate": 0.0, "searched": False, "points": [], "starts": []},
    }
    for record in variants.values():
        record["runtime"] = "onnx"
    run = run_alone("dense", 100.0)
    del run["variant"], run["runtime"], run["rate_without_overhead"]
    beside = {"server_seconds": [0.0105, 0.0107, 0.9], "process_seconds": [0.0100, 0.0101, 0.02]}
    named = {name: old(rate) for name, rate in arms.items()}
    return {**found, "raw": [run], "arms": {"sparserve": old(90.0, beside_process=beside), **named}, "endpoints": {
        "variants": variants, "error": None,
    }}  # fmt: skip


def found_targets(found: Any) -> dict[str, tuple[str, bool]]:
    return {row["target"]: (row["measured"], row["met"]) for row in targets(found)}


def rows_of(text: str, begins: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {begins}")]


def test_targets_of_cpu_name_floor_and_parts() -> None:
    found = found_targets(results())
    assert found[
        "sparse90-int8, 32 clients: server CPU per request beyond the model's own in batches of the same size at most "
        "0.35 ms"
    ] == ("0.30 ms (1.00 and 0.70; the bare application with a queue: 0.26)", True)
    gain = "sparse90-int8, 32 clients, by server CPU per request: at least {} times {}"
    assert found[gain.format(9, "dense")] == ("9.0 times (9.00 and 1.00 ms)", True)
    assert found[gain.format(3, "dense-int8")] == ("3.3 times (3.30 and 1.00 ms)", True)


def test_targets_of_rates_against_onnxruntime() -> None:
    found = found_targets(results())
    rate = "{}, one CPU: highest rate at p99 <= 100 ms at least {} % of raw onnxruntime"
    assert found[rate.format("dense", 85)] == ("90 % (90 of 100 texts/s; a server without overhead: 65, 65 %)", True)
    assert found[rate.format("sparse90-int8", 75)] == (
        "67 % (700 of 1050 texts/s; a server without overhead: 682, 65 %)", False,
    )  # fmt: skip
    many = (
        "sparse90-int8, 256 texts in one request: at least 90 % of raw onnxruntime, tokenised and sorted, in its best "
    )
    assert found[many + "batch size"] == ("96 % (1024 of 1067 texts/s)", True)
    idle = "dense, idle: p50 at most 0.5 ms above tokenise and run in a process"
    assert found[idle] == ("0.40 ms (10.70 and 10.30, 1.04 times)", True)


def test_targets_of_rates_need_separate_cpus() -> None:
    shared = results()
    shared["settings"] |= {"pinned": False, "shared": True}
    assert not [row for row in found_targets(shared) if "one CPU" in row]


def test_targets_of_workers_and_other_servers() -> None:
    peers = {
        "ray dense": arm("ray", "dense", 60.0, 0.02),
        "mlserver dense": arm("mlserver", "dense", 50.0, 0.02),
        "mlserver sparse90-int8": arm("mlserver", "sparse90-int8", 500.0, 0.003),
    }
    found = found_targets(results(**peers))
    assert found["sparse90-int8, two CPUs: `--workers 2` at least 1.8 times `--workers 1`"] == (
        "1.90 times (950 and 500 texts/s; 97 on one CPU)", True,
    )  # fmt: skip
    other = "{}: at least 1.5 times the highest rate of the best other server"
    assert found[other.format("dense")] == (
        "1.50 times ray (90 and 60 texts/s; this service has 200 on dense-int8)", True,
    )  # fmt: skip
    assert found[other.format("sparse90-int8")] == (
        "1.40 times mlserver (700 and 500 texts/s; this service has 90 on dense, 200 on dense-int8)", False,
    )  # fmt: skip


def test_targets_and_page_mark_highest_rates_that_were_not_found() -> None:
    def point(rate: float) -> Any:
        return {"rate": rate, "within": False, **figures()}

    peers = {
        "infinity dense": arm("infinity", "dense", 50.0, 0.02),
        "ray dense": arm("ray", "dense", 0.0, 0.02, searched=False, points=[point(70.0), point(75.0)]),
        "bentoml dense": arm("bentoml", "dense", 0.0, 0.02, searched=False, points=[point(45.0)]),
    }
    found = results(**peers)
    found["arms"]["sparserve dense"] |= {"searched": False, "points": [point(100.0)]}
    found["skipped"] = [{"arm": "litserve dense", "parts": ["closed", "rates"]}]
    rows = found_targets(found)
    mine = "; highest rate of sparserve not found, the search could not end: 90 to 100 texts/s"
    ray = "; highest rate of ray not found, the search could not end: under 70 texts/s"
    assert rows["dense, one CPU: highest rate at p99 <= 100 ms at least 85 % of raw onnxruntime"] == (
        f"90 % (90 of 100 texts/s; a server without overhead: 65, 65 %){mine}", True,
    )  # fmt: skip
    other = "dense: at least 1.5 times the highest rate of the best other server"
    assert rows[other] == (  # 90 against perhaps 70
        "1.80 times infinity (90 and 50 texts/s; this service has 200 on dense-int8)"
        f"{mine}{ray}; without litserve dense", False,
    )  # fmt: skip
    assert rows["dense, overload: goodput at least 90 % of the highest rate"] == (f"95 %{mine}", True)
    text = page.section(found)
    assert rows_of(text, "sparserve 1.2 | 90 to 100") and rows_of(text, "ray 1.2 | under 70")


def test_targets_that_a_faster_service_keeps() -> None:
    found = found_targets(results())
    assert found["dense, overload: goodput at least 90 % of the highest rate"] == ("95 %", True)
    assert found["dense, overload: p99 of answers within 2 s"] == ("1200 ms", True)
    assert found["dense: first answer at most 2 s later than the loading time of the model"] == ("2.5 s", False)
    assert found["dense: memory at most 150 MB more than the model file"] == ("140 MB", True)
    mute = results()
    mute["arms"]["sparserve dense"]["overload"] |= {"p99_answered": None}
    assert found_targets(mute)["dense, overload: p99 of answers within 2 s"] == ("no answers", False)
    json.dumps(targets(mute), allow_nan=False)


def test_page_has_gain_of_client() -> None:
    text = page.section(
        results(**{"ray dense": arm("ray", "dense", 60.0, 0.02, scores={"negative": 0.2501, "positive": 0.7499})})
    )
    assert rows_of(text, "`sparse90-int8` | 1.00")[0] == (
        "| `sparse90-int8` | 1.00 | 9.0 / 3.3 | 700 | 7.8 / 3.5 | 97 | 12.00 | 1.0 / 1.0 |"
    )
    assert rows_of(text, "sparserve 1.2 | sparse90-int8")[0] == (
        "| sparserve 1.2 | sparse90-int8 | 1.20 (0.50) | 1.10 (0.40) | 1.00 (0.30) | 4.0 | 97 |"
    )
    assert rows_of(text, "ray 1.2 | dense")[0] == "| ray 1.2 | dense | 24.00 | 22.00 | 20.00 | - | 97 |"
    assert rows_of(text, "2 | 32")[0].startswith("| 2 | 32 | 950 |")
    assert "differ by at most 0.0001" in text
    assert "onnxruntime alone: 100 texts/s; a server without overhead: 65 texts/s at p99 <= 100 ms." in text
    assert "| `sparse90-int8`, onnx | 256 | **1050** | 1000 to 1100 | 1.00 | 0.50 |" in text


def test_page_orders_servers_and_leaves_out_references() -> None:
    text = page.section(
        results(**{"ray dense": arm("ray", "dense", 60.0, 0.02), "b": arm("bentoml", "dense", 95.0, 0.02)})
    )
    rates = text.split("### Highest rate of each server")[1].split("###")[0]
    assert [row.split("|")[1].strip() for row in rows_of(rates, "") if "1.2" in row] == [
        "bentoml 1.2", "sparserve 1.2", "ray 1.2", "sparserve 1.2", "sparserve 1.2",
    ]  # fmt: skip
    assert "bare" not in rates


def test_page_lists_failures_and_arms_without_time() -> None:
    failed = {name: arm("mlserver", "dense", 0, 0.1)[name] for name in ("server", "variant", "settings", "version")}
    found = results(m={**failed, "measured": [], "starts": [], "error": "ServerFailed: the server\nended with 1"})
    found["skipped"] = [{"arm": "ray dense", "parts": ["closed", "rates"]}]
    text = page.section(found)
    assert "- m: `ServerFailed: the server ended with 1`" in text
    assert "- ray dense: no time for closed, rates" in text
    assert not rows_of(text, "mlserver")


def test_page_of_first_turn_alone() -> None:
    first = results()
    record = first["arms"]["sparserve sparse90-int8"]
    for name in ("best_rate", "searched", "points", "half", "same_loads", "overload", "memory_bytes_after"):
        del record[name]
    first |= {"arms": {"sparserve sparse90-int8": record}, "raw": [run_alone("sparse90-int8", 1000.0)]}
    text = page.section(first)
    assert "| `sparse90-int8` | 1.00 | - / - | - | - / - | 97 | 12.00 | - / 1.0 |".replace("/ 1.0", "/ -") in text
    assert "### Overload" not in text and "### Worker processes" not in text


def test_upgraded_has_variants_as_arms() -> None:
    found = upgraded(earlier(bentoml=50.0))
    assert list(found["arms"]) == ["sparserve dense", "bentoml dense", "sparserve sparse90"]
    assert (closed(found["arms"]["bentoml dense"], 32) or {})["goodput"] == 97.0
    assert found["arms"]["sparserve dense"]["best_rate"] == 90.0  # alone in its service, as its peers
    assert best_alone(found, "dense") == 100.0
    assert found["settings"]["graphs"] == {"dense": {"runtime": "onnx", "bytes": 100_000_000}}
    assert upgraded(found) is found


def test_page_of_earlier_results() -> None:
    text = page.section(earlier(bentoml=50.0))
    assert "| dense, idle: p50 at most 0.5 ms above tokenise and run in a process | 0.60 ms" in text
    assert rows_of(text, "`sparse90`")[0] == "| `sparse90` | - | - / - | over 320 | over 3.6 / - | - | 5.00 | 2.4 / - |"
    assert rows_of(text, "bentoml 1.2 | 50") and rows_of(text, "sparserve 1.2 | 13.0 / 14.5")


@pytest.mark.parametrize("name", ["serving", "serving-shared"])
def test_recorded_results_publish(name: str) -> None:
    assert "### Targets" in page.section(json.loads(page.RESULTS.with_name(f"{name}.json").read_bytes()))


def test_times_as_many_of_unfinished_search() -> None:
    def found(best: Any, *failed: Any, searched: Any = False) -> Any:
        points = [{"rate": best, "within": True}, *({"rate": rate, "within": False} for rate in failed)]
        return {"best_rate": best, "searched": searched, "points": points}

    dense, ended = found(20.0, 40.0, 30.0, 10.0), found(25.0, 26.0, searched=True)
    assert tables.times_as_many(dense, dense) == "1.0"
    assert tables.times_as_many(found(50.0, 51.0, searched=True), ended) == "2.0"
    assert tables.times_as_many(found(120.0, 180.0), dense) == "4.0 to 9.0"
    assert tables.times_as_many(found(120.0, 180.0), ended) == "4.8 to 7.2"
    assert tables.times_as_many(found(120.0), dense) == "over 4.0"
    assert tables.times_as_many(ended, found(20.0)) == "-"
    assert tables.times_as_many(found(0.0, 10.0), dense) == "-"


def test_page_rejects_quick_run() -> None:
    quick = results()
    quick["settings"]["quick"] = True
    with pytest.raises(SystemExit, match="quick"):
        page.section(quick)


def test_publish_fills_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "serving.json").write_text(json.dumps(results()))
    (tmp_path / "serving-shared.json").write_text(json.dumps(earlier(bentoml=50.0)))
    copy = tmp_path / "serving.md"
    copy.write_text(page.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(page, "RESULTS", tmp_path / "serving.json")
    monkeypatch.setattr(page, "SHARED", tmp_path / "serving-shared.json")
    monkeypatch.setattr(page, "PAGE", copy)
    page.main()
    one, all_of_them = copy.read_text(encoding="utf-8").split("## On all CPUs")
    assert "| sparserve 1.2 |" in one and "bentoml 1.2" not in one
    assert "bentoml 1.2" in all_of_them
    assert "### Targets" in capsys.readouterr().out
