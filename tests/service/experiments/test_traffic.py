"""Candidates beside default variants on live traffic."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.store import Store
from sparserve.models.bundle.windows import TRUNCATE
from sparserve.service.core import ServingCore
from sparserve.service.experiments import traffic
from sparserve.service.experiments.traffic import traffic_position
from sparserve.service.inference.classification import classify
from sparserve.service.inference.health import FAILURES_IN_ROW
from sparserve.service.settings import Guard, Policy
from sparserve.service.types import RequestOptions, TextInput
from tests.support.service.live_traffic import COMPARE, TEXTS, ask, differing, settle, written
from tests.support.tiny_bundles import TASK, graph, publish, short_sighted


@pytest.fixture
def store(rivals: Store) -> Store:
    return rivals


def test_shadow_default_answers_and_candidate_is_compared(
    experiment: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client = experiment("shadow", "twin")
    for text in TEXTS:
        assert ask(client, text)["model"]["variant"] == "dense"
    settle(client, service_of(client))
    found = client.get(COMPARE).json()
    assert found["inputs"] == len(TEXTS)
    assert found["agreement"]["value"] == 1
    assert 0.5 < found["agreement"]["low"] < found["agreement"]["high"] == 1
    assert found["score_difference"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["candidate_seconds_per_input"]["value"] > 0
    assert client.get(f"{COMPARE}/disagreements").json() == []
    assert f'sparserve_experiment_inputs{{candidate="twin",task="{TASK}"}} 6.0' in client.get("/metrics").text


def test_experiment_latency_intervals_and_histograms(
    experiment: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client = experiment("shadow", "twin")
    for text in TEXTS:
        ask(client, text, text)
    settle(client, service_of(client))
    found = client.get(COMPARE).json()
    for name in ("default_seconds_per_input", "candidate_seconds_per_input"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
        assert 0 < found[name]["value"] < 1
    metrics = client.get("/metrics").text
    for arm in ("default", "candidate"):
        labels = f'{{arm="{arm}",candidate="twin",task="{TASK}"}}'
        assert f"sparserve_experiment_input_duration_seconds_count{labels} 6.0" in metrics


def test_experiment_disagreements_without_texts(
    experiment: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client = experiment("shadow", "rival")
    answer = ask(client, *TEXTS, **{"X-Request-Id": "the-request"})
    compared = client.post(f"/v1/models/{TASK}/compare", json={"inputs": TEXTS, "variants": ["dense", "rival"]}).json()
    apart = [position for position, item in enumerate(compared["items"]) if not item["agree"]]
    assert apart
    rows = written(client, service_of(client), len(apart))
    assert sorted(row["position"] for row in rows) == apart
    for row in rows:
        assert row["request_id"] == "the-request"
        assert row["default_label"] == answer["predictions"][row["position"]][0]["label"] != row["candidate_label"]
        assert row["text"] is None
    found = client.get(COMPARE).json()
    assert found["agreement"]["value"] == pytest.approx(1 - len(apart) / len(TEXTS))


def test_experiment_disagreements_with_texts(
    experiment: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client = experiment("shadow", "rival", disagreements_texts=True)
    ask(client, *TEXTS)
    rows = written(client, service_of(client), 1)
    assert all(row["text"] == TEXTS[row["position"]] for row in rows)


def test_split_is_sticky_by_key(
    experiment: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client = experiment("split", "twin", share=0.3)
    answered = {key: ask(client, "good", **{"X-Routing-Key": key})["model"]["variant"] for key in map(str, range(60))}
    for key, variant in answered.items():
        assert ask(client, "bad", **{"X-Routing-Key": key})["model"]["variant"] == variant
        assert variant == ("twin" if traffic_position(TASK, "twin", key) < 0.3 else "dense")
    assert 5 < list(answered.values()).count("twin") < 35
    settle(client, service_of(client))
    # Each answer of the candidate was compared with the default's, and no other.
    found = client.get(COMPARE).json()
    assert found["inputs"] == 2
    assert found["inputs"] + found["repeated_inputs"] == 2 * list(answered.values()).count("twin")


def test_traffic_position_is_uniform() -> None:
    places = [traffic_position("t", "one", str(key)) for key in range(2000)]
    assert sum(place < 0.1 for place in places) == pytest.approx(200, abs=50)
    assert all(0 <= traffic_position("t", "one", None) < 1 for _ in range(100))


def test_traffic_position_depends_on_candidate() -> None:
    first = {key for key in map(str, range(2000)) if traffic_position("t", "one", key) < 0.1}
    second = {key for key in map(str, range(2000)) if traffic_position("t", "two", key) < 0.1}
    assert len(first & second) == pytest.approx(20, abs=15)


def test_experiment_ignores_requests_that_name_a_variant(
    experiment: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client = experiment("split", "twin")
    answer = client.post(f"/v1/models/{TASK}/dense/classify", json={"inputs": "good"}).json()
    assert answer["model"]["variant"] == "dense"
    settle(client, service_of(client))
    assert client.get(COMPARE).json()["inputs"] == 0


def test_guard_stops_candidate(
    experiment: Callable[..., TestClient],
    service_of: Callable[[TestClient], ServingCore],
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = {"agreement": 0.99, "confidence": 0.95, "inputs": 30}
    client = experiment("split", "rival", guard=guard)
    service = service_of(client)
    texts = differing(client)[:30]
    for begin in range(0, 30, 6):
        assert ask(client, *texts[begin : begin + 6])["model"]["variant"] == "rival"
        settle(client, service)
    # Thirty texts have been seen: from now on the default answers.
    assert ask(client, *TEXTS)["model"]["variant"] == "dense"
    assert "agreement is under 0.99" in client.get(COMPARE).json()["stopped"]
    assert "the guard stopped rival" in caplog.text
    assert "sparserve_experiments_stopped_total" in client.get("/metrics").text


def test_guard_ignores_repeated_text(
    experiment: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client = experiment("split", "rival", guard={"agreement": 0.9, "confidence": 0.95, "inputs": 2})
    text = differing(client)[0]
    for copies in (256, 1, 1):
        ask(client, *[text] * copies)
        settle(client, service_of(client))
    found = client.get(COMPARE).json()
    assert (found["inputs"], found["repeated_inputs"], found["stopped"]) == (1, 257, None)
    assert ask(client, text)["model"]["variant"] == "rival"


def test_experiment_restarts_with_new_version(
    experiment: Callable[..., TestClient],
    service_of: Callable[[TestClient], ServingCore],
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    guard = {"agreement": 0.9, "confidence": 0.95, "inputs": 10}
    client = experiment("split", "rival", guard=guard, watch_seconds=0)
    ask(client, *differing(client))
    settle(client, service_of(client))
    before = client.get(COMPARE).json()
    assert before["stopped"]
    corrected = publish(store, variant="rival", model=graph(seed=1)).manifest.version
    assert client.post("/v1/admin/refresh").status_code == 200
    found = client.get(COMPARE).json()
    assert (found["inputs"], found["stopped"], found["candidate"]["version"]) == (0, None, corrected)
    assert found["default"] == before["default"]
    assert ask(client, *TEXTS)["model"] == {"task": TASK, "variant": "rival", "version": corrected}
    settle(client, service_of(client))
    assert client.get(COMPARE).json()["agreement"]["value"] == 1
    assert caplog.text.count("statistics restart") == 1


def test_experiment_replaced_meanwhile(
    serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client: TestClient = serve()
    service: ServingCore = service_of(client)
    rival = Policy(mode="split", candidate="rival", share=1)
    twin = Policy(mode="split", candidate="twin", share=1, guard=Guard(agreement=0.99, confidence=0.6, inputs=1))
    inputs = [TextInput(text=text) for text in differing(client)]

    async def replaced_meanwhile() -> None:
        await service.experiments.begin(TASK, rival)
        asked = asyncio.create_task(service.classify(TASK, None, inputs, RequestOptions()))
        await asyncio.sleep(0)  # it has its route, but no answer yet
        await service.experiments.begin(TASK, twin)
        assert (await asked).engine.ref.variant == "rival"
        await service.experiments.settled()

    async def replaced_while_the_default_runs_aside() -> None:
        await service.experiments.begin(TASK, rival)
        route = service.experiments.route(TASK, None)
        answered = await classify(service.batcher, route.engine, inputs, RequestOptions(), long_texts=TRUNCATE)
        service.experiments.compare(TASK, route, inputs, answered, None)
        await service.experiments.begin(TASK, twin)
        await service.experiments.settled()

    assert client.portal
    for scenario in (replaced_meanwhile, replaced_while_the_default_runs_aside):
        client.portal.call(scenario)
        found = client.get(COMPARE).json()
        assert (found["inputs"], found["not_compared"], found["stopped"]) == (0, 0, None)
        assert "sparserve_experiment_inputs{" not in client.get("/metrics").text


def test_experiment_warns_of_guard_after_restart(
    experiment: Callable[..., TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    experiment("split", "twin", guard={"agreement": 0.9})
    assert "twin takes part even if the guard stopped it before" in caplog.text


def test_guard_keeps_good_candidate(
    experiment: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client = experiment("split", "twin", guard={"agreement": 0.9, "inputs": 5})
    for _ in range(5):
        ask(client, *TEXTS)
    settle(client, service_of(client))
    assert ask(client, "good")["model"]["variant"] == "twin"


@pytest.mark.parametrize("mode", ["split", "shadow"])
@pytest.mark.parametrize("broken", [True, False], ids=["broken", "fails at some inputs"])
def test_experiment_failing_candidate_falls_back(
    mode: str,
    broken: bool,
    store: Store,
    experiment: Callable[..., TestClient],
    service_of: Callable[[TestClient], ServingCore],
) -> None:
    publish(store, variant="failing", model=short_sighted())
    client = experiment(mode, "failing", watch_seconds=0)  # no reload meanwhile
    if broken:
        classifier = service_of(client).catalog.engine(TASK, "failing").loaded.classifier
        classifier.run = lambda inputs: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    requests = FAILURES_IN_ROW + 2
    for _ in range(requests):
        assert ask(client, "good film was fun the a good")["model"]["variant"] == "dense"
        settle(client, service_of(client))
    # A broken engine takes no part until it is reloaded.
    not_compared = FAILURES_IN_ROW if broken else requests
    found = client.get(COMPARE).json()
    assert (found["inputs"], found["not_compared"]) == (0, not_compared)
    metrics = client.get("/metrics").text
    labels = f'{{candidate="failing",task="{TASK}"}}'
    assert f"sparserve_experiment_not_compared_total{labels} {not_compared}.0" in metrics


def test_experiment_counters_start_at_zero(experiment: Callable[..., TestClient]) -> None:
    metrics = experiment("split", "rival").get("/metrics").text
    assert f'sparserve_experiments_stopped_total{{candidate="rival",task="{TASK}"}} 0.0' in metrics
    assert f'sparserve_batches_failed_total{{task="{TASK}",variant="rival"}} 0.0' in metrics


def test_experiment_missing_candidate(experiment: Callable[..., TestClient]) -> None:
    client = experiment("split", "missing")
    assert ask(client, "good")["model"]["variant"] == "dense"


def test_experiment_unknown_task(experiment: Callable[..., TestClient]) -> None:
    client = experiment("shadow", "twin")
    answer = client.get("/v1/compare/other")
    assert answer.status_code == 404
    assert TASK in answer.json()["detail"]


def test_experiment_missing_database(
    experiment: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore], tmp_path: Path
) -> None:
    client = experiment("shadow", "rival", disagreements_url=f"sqlite:///{tmp_path}/missing/x.db")
    ask(client, *TEXTS)
    settle(client, service_of(client))
    assert client.get(f"{COMPARE}/disagreements").json() == []
    assert client.get(COMPARE).json()["inputs"] == len(TEXTS)


def test_background_comparisons_are_bounded(
    experiment: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "MAX_BACKGROUND_COMPARISONS", 0)
    client = experiment("shadow", "twin")
    ask(client, "good")
    assert client.get(COMPARE).json()["not_compared"] == 1
