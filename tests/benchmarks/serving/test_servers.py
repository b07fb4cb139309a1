"""Servers of the serving benchmark: their arms, onnxruntime alone, the bare application, and the real service."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.arms import (
    BARE,
    BARE_QUEUE,
    BARE_SERVERS,
    PEERS,
    Graph,
    default_python,
    fastest_graph,
    peer_arm,
    sparserve,
    store_of_one,
)
from benchmarks.serving.load.texts import texts
from benchmarks.serving.measure import Bench, Plan
from benchmarks.serving.parts import PARTS, ceiling
from benchmarks.serving.peers.bare_server import BareApp
from benchmarks.serving.peers.classifier import MAX_BATCH, Classifier, Options
from benchmarks.serving.raw_onnxruntime import ceiling as ceiling_alone
from benchmarks.serving.raw_onnxruntime import model_cpu, sorted_batches, waiting_batches
from benchmarks.serving.server_process import cpu_seconds
from sparserve.models.bundle.inference import load_bundle
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.text_tokenizer import Tokens
from tests.support.tiny_bundles import TASK, publish


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return fastest_graph(publish(Store(tmp_path / "store")))


def tokens_of(*lengths: int) -> list[Tokens]:
    return [Tokens([1] * length, [0] * length, truncated=False) for length in lengths]


def test_sorted_batches_keep_budget() -> None:
    batches = sorted_batches(tokens_of(9, 3, 3, 40, 5), 20)
    assert [[len(item) for item in batch] for batch in batches] == [[3, 3, 5], [9], [40]]


@pytest.mark.parametrize(("clients", "mean"), [(1, 1.0), (8, 8.0), (8, 5.3), (32, 13.7), (32, 1.0), (32, 31.5)])
def test_waiting_batches_have_mean_size(clients: int, mean: float) -> None:
    inputs = tokens_of(*np.random.default_rng(0).integers(3, 90, 128).tolist())
    batches = waiting_batches(inputs, clients, mean)
    assert sum(len(batch) for batch in batches) == 128
    assert 128 / len(batches) == pytest.approx(mean, rel=0.05)
    assert max(len(batch) for batch in batches) <= clients
    assert [len(item) for item in batches[0]] == sorted(len(item) for item in batches[0])


def test_ceiling_measures_every_budget(graph: Graph) -> None:
    model = load_bundle(graph.bundle, threads=1)
    found = ceiling_alone(model, texts(8, 0, longest=16), [16, 64], seconds=0.01)
    assert found["texts_per_second"].keys() == {"16", "64"} and min(found["texts_per_second"].values()) > 0
    assert found["padded_tokens_per_token"]["16"] == 1 <= found["padded_tokens_per_token"]["64"]
    assert found["tokens"]["p50"] <= found["tokens"]["p95"] <= 16 and len(found["token_counts"]) == 8


def test_model_cpu_measures_every_load(graph: Graph) -> None:
    loads = [{"clients": 1, "mean_batch": 1.0}, {"clients": 8, "mean_batch": 5.3}]
    found = model_cpu(load_bundle(graph.bundle, threads=1), texts(16, 0, longest=16), loads, seconds=0.01)
    assert len(found) == 2 and 0 < found[1] < found[0]


def test_cpu_seconds_count_ended_children() -> None:
    before = cpu_seconds(os.getpid())
    os.waitpid(os.spawnl(os.P_NOWAIT, sys.executable, sys.executable, "-c", "sum(range(3_000_000))"), 0)
    assert cpu_seconds(os.getpid()) > before


@pytest.mark.parametrize("name", [*PEERS, *BARE_SERVERS])
def test_peer_arm_sends_text_and_reads_scores(name: str, graph: Graph) -> None:
    arm = peer_arm(name, default_python(), graph, 1.0, Path("configuration"))
    assert "the film" in json.dumps(json.loads(arm.bodies(["the film"])[0]))
    scores = {"negative": 0.25, "positive": 0.75}
    rows = [{"label": label, "score": score} for label, score in scores.items()]
    answers: dict[str, Any] = {
        "mlserver": {"outputs": [{"name": label, "data": [score]} for label, score in scores.items()]},
        "bentoml": [scores],
        "infinity": {"data": [rows]},
    }
    assert arm.scores(answers.get(name, {"scores": scores})) == scores
    module = "bare" if name in BARE_SERVERS else name
    command = arm.command(1234)
    assert f"benchmarks.serving.peers.{module}_server" in command
    assert ("--no-model" in command) == (name == BARE)
    assert command[command.index("--configuration") + 1] == "configuration"


def test_peer_arm_names_sparse_runtime(graph: Graph) -> None:
    command = peer_arm("litserve", default_python(), Graph(graph.bundle, "sparse"), 1.0).command(1)
    assert command[command.index("--runtime") + 1] == "sparse"


def test_options_reach_processes_of_peer(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_OPTIONS", "")
    arm = peer_arm(BARE, default_python(), graph, 0.5)
    monkeypatch.setattr("sys.argv", arm.command(1234)[2:])
    options = Options.of_command_line()
    assert options == Options.of_environment()
    assert (options.bundle, options.port, options.timeout) == (str(graph.bundle.folder), 1234, 0.5)
    assert options.runtime == "onnx" and not options.model


async def ask(app: BareApp, method: str, *parts: bytes) -> bytes:
    left = list(parts)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": method}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return bytes(sent[1]["body"])


@pytest.mark.parametrize("name", BARE_SERVERS)
def test_bare_app_answers_and_counts_batches(name: str, graph: Graph) -> None:
    options = Options(str(graph.bundle.folder), "onnx", 0, 1, 1.0, "", name == BARE_QUEUE)
    classifier = Classifier(options)
    app = BareApp(classifier, with_model=options.model)
    bodies = [json.dumps({"text": text}).encode() for text in ("a good film", "bad", "a dull film")]
    asked = [bodies[number % 3] for number in range(MAX_BATCH + 8)]

    async def main() -> tuple[list[bytes], bytes]:
        answers = await asyncio.gather(*(ask(app, "POST", body[:4], body[4:]) for body in asked))
        return answers, await ask(app, "GET")

    answers, metrics = asyncio.run(main())
    scores = [json.loads(answer)["scores"] for answer in answers]
    if name == BARE_QUEUE:
        expected = classifier(["a good film", "bad", "a dull film"])
        assert all(scores[number] == pytest.approx(expected[number % 3], abs=1e-6) for number in range(len(asked)))
        assert f"batch_inputs_sum {len(asked)}\n".encode() in metrics
    else:
        assert all(row == scores[0] for row in scores)
        assert b"batch_inputs_count 0\n" in metrics


@pytest.mark.thorough
def test_bench_measures_and_stops_real_service(graph: Graph, tmp_path: Path) -> None:
    store = store_of_one(graph.bundle, tmp_path / "alone")
    bench = Bench(Plan(seconds=0.2, p99_limit=5.0, timeout=5.0, resolution=0.5, max_points=1), texts(8, 0, longest=16))
    arm = sparserve(default_python(), store, graph, timeout=5.0, options={}, clients=(1, 4))
    results: dict[str, Any] = {"raw": []}
    record: dict[str, Any] = {}
    ceiling(bench, arm, results)
    results["raw"][0]["texts_per_second"] = {"256": 80.0}  # this tiny graph is too fast for a load generator
    with bench.serving(arm) as one:
        for measure in PARTS.values():
            measure(bench, one, record, results)
        pid = one.server.pid
    assert not Path(f"/proc/{pid}").exists()
    assert [load["clients"] for load in record["closed_loads"]] == [1, 4]
    for load in record["closed_loads"]:
        assert load["statuses"].keys() == {"200"} and load["goodput"] > 0
        assert load["server_cpu"] > 0 and load["model_cpu"] > 0 and 1 <= load["mean_batch"] <= 4
    assert len(record["points"]) == 1 and record["best_rate"] > 0
    assert record["half"]["statuses"].keys() == {"200"}
    assert [load["part"] for load in record["same_loads"]] == [0.25, 0.5, 0.75]
    assert record["overload"]["rate"] == 3 * record["best_rate"]
    assert 10_000_000 < record["memory_bytes"] < 1_000_000_000
    assert len(record["beside_process"]["server_seconds"]) == len(record["beside_process"]["process_seconds"]) > 0
    assert record["many"]["texts"] == 8 and len(record["many"]["server_seconds"]) >= 3
    assert set(record["scores"]) == {"negative", "positive"}


def test_store_of_one_has_this_bundle(graph: Graph, tmp_path: Path) -> None:
    copied = Store(store_of_one(graph.bundle, tmp_path / "alone"))
    assert copied.tasks() == [TASK] and copied.variants(TASK) == ["dense"]
    assert graph.bytes == graph.bundle.model_path.stat().st_size
