"""Candidates beside default variants on live traffic."""

import asyncio
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.store import Store
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


def test_in_the_shadow_the_default_answers_and_the_candidate_is_compared(experiment, service_of) -> None:
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


def test_the_latency_of_both_has_intervals_and_histograms(experiment, service_of) -> None:
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


def test_disagreements_are_kept_without_their_texts(experiment, service_of) -> None:
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


def test_texts_are_kept_only_when_switched_on(experiment, service_of) -> None:
    client = experiment("shadow", "rival", disagreements_texts=True)
    ask(client, *TEXTS)
    rows = written(client, service_of(client), 1)
    assert all(row["text"] == TEXTS[row["position"]] for row in rows)


def test_a_split_is_sticky_by_its_key_and_near_its_share(experiment, service_of) -> None:
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


def test_places_are_even() -> None:
    places = [traffic_position("t", "one", str(key)) for key in range(2000)]
    assert sum(place < 0.1 for place in places) == pytest.approx(200, abs=50)
    assert all(0 <= traffic_position("t", "one", None) < 1 for _ in range(100))


def test_the_next_candidate_is_for_other_clients() -> None:
    first = {key for key in map(str, range(2000)) if traffic_position("t", "one", key) < 0.1}
    second = {key for key in map(str, range(2000)) if traffic_position("t", "two", key) < 0.1}
    assert len(first & second) == pytest.approx(20, abs=15)


def test_requests_that_name_a_variant_take_no_part(experiment, service_of) -> None:
    client = experiment("split", "twin")
    answer = client.post(f"/v1/models/{TASK}/dense/classify", json={"inputs": "good"}).json()
    assert answer["model"]["variant"] == "dense"
    settle(client, service_of(client))
    assert client.get(COMPARE).json()["inputs"] == 0


def test_the_guard_takes_a_candidate_off_once_it_is_sure(experiment, service_of, caplog) -> None:
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


def test_one_text_takes_no_candidate_off_however_often_it_is_sent(experiment, service_of) -> None:
    client = experiment("split", "rival", guard={"agreement": 0.9, "confidence": 0.95, "inputs": 2})
    text = differing(client)[0]
    for copies in (256, 1, 1):
        ask(client, *[text] * copies)
        settle(client, service_of(client))
    found = client.get(COMPARE).json()
    assert (found["inputs"], found["repeated_inputs"], found["stopped"]) == (1, 257, None)
    assert ask(client, text)["model"]["variant"] == "rival"


def test_a_version_that_takes_the_place_of_one_that_was_taken_off_is_tried(
    experiment, service_of, store: Store, caplog: pytest.LogCaptureFixture
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


def test_what_was_asked_of_one_candidate_does_not_count_for_the_next(serve, service_of) -> None:
    client: TestClient = serve()
    service: ServingCore = service_of(client)
    rival = Policy(mode="split", candidate="rival", share=1)
    twin = Policy(mode="split", candidate="twin", share=1, guard=Guard(agreement=0.99, confidence=0.6, inputs=1))
    inputs = [TextInput(text=text) for text in differing(client)]

    async def replaced_meanwhile() -> None:
        service.experiments.begin(TASK, rival)
        asked = asyncio.create_task(service.classify(TASK, None, inputs, RequestOptions()))
        await asyncio.sleep(0)  # it has its route, and no answer before the loop goes on
        service.experiments.begin(TASK, twin)
        assert (await asked).engine.ref.variant == "rival"
        await service.experiments.settled()

    async def replaced_while_the_default_runs_aside() -> None:
        service.experiments.begin(TASK, rival)
        route = service.experiments.route(TASK, None)
        answered = await classify(service.batcher, route.engine, inputs, truncate=True)
        service.experiments.compare(TASK, route, inputs, answered, None)
        service.experiments.begin(TASK, twin)
        await service.experiments.settled()

    assert client.portal
    for scenario in (replaced_meanwhile, replaced_while_the_default_runs_aside):
        client.portal.call(scenario)
        found = client.get(COMPARE).json()
        assert (found["inputs"], found["not_compared"], found["stopped"]) == (0, 0, None)
        assert "sparserve_experiment_inputs{" not in client.get("/metrics").text


def test_a_start_tells_that_what_was_taken_off_before_takes_part(experiment, caplog: pytest.LogCaptureFixture) -> None:
    experiment("split", "twin", guard={"agreement": 0.9})
    assert "twin takes part even if the guard stopped it before" in caplog.text


def test_the_guard_leaves_a_good_candidate_alone(experiment, service_of) -> None:
    client = experiment("split", "twin", guard={"agreement": 0.9, "inputs": 5})
    for _ in range(5):
        ask(client, *TEXTS)
    settle(client, service_of(client))
    assert ask(client, "good")["model"]["variant"] == "twin"


@pytest.mark.parametrize("mode", ["split", "shadow"])
def test_a_candidate_that_fails_costs_no_client_an_answer_and_is_left_out(mode, store, experiment, service_of) -> None:
    publish(store, variant="failing", model=short_sighted())
    client = experiment(mode, "failing", watch_seconds=0)  # no reload meanwhile
    for _ in range(FAILURES_IN_ROW + 2):
        assert ask(client, "good film was fun the a good")["model"]["variant"] == "dense"
        settle(client, service_of(client))
    found = client.get(COMPARE).json()
    assert (found["inputs"], found["not_compared"]) == (0, FAILURES_IN_ROW)
    metrics = client.get("/metrics").text
    labels = f'{{candidate="failing",task="{TASK}"}}'
    assert f"sparserve_experiment_not_compared_total{labels} {FAILURES_IN_ROW}.0" in metrics


def test_what_alerts_look_for_an_increase_of_is_there_from_the_beginning(experiment) -> None:
    metrics = experiment("split", "rival").get("/metrics").text
    assert f'sparserve_experiments_stopped_total{{candidate="rival",task="{TASK}"}} 0.0' in metrics
    assert f'sparserve_batches_failed_total{{task="{TASK}",variant="rival"}} 0.0' in metrics


def test_a_candidate_that_does_not_serve_changes_nothing(experiment) -> None:
    client = experiment("split", "missing")
    assert ask(client, "good")["model"]["variant"] == "dense"


def test_a_task_without_experiment_says_so(experiment) -> None:
    client = experiment("shadow", "twin")
    answer = client.get("/v1/compare/other")
    assert answer.status_code == 404
    assert TASK in answer.json()["detail"]


def test_a_database_that_is_gone_stops_no_answer(experiment, service_of, tmp_path: Path) -> None:
    client = experiment("shadow", "rival", disagreements_url=f"sqlite:///{tmp_path}/missing/x.db")
    ask(client, *TEXTS)
    settle(client, service_of(client))
    assert client.get(f"{COMPARE}/disagreements").json() == []
    assert client.get(COMPARE).json()["inputs"] == len(TEXTS)


def test_background_comparisons_are_bounded(experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "MAX_BACKGROUND_COMPARISONS", 0)
    client = experiment("shadow", "twin")
    ask(client, "good")
    assert client.get(COMPARE).json()["not_compared"] == 1
