"""Valid policies of experiments, and the rights to begin and end one."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.store import Store
from sparserve.service.core import ServingCore
from tests.support.service.live_traffic import COMPARE, ask, settle
from tests.support.tiny_bundles import TASK, graph, publish


@pytest.fixture
def store(rivals: Store) -> Store:
    return rivals


def test_experiments_begin_and_end_while_the_service_runs(
    serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client: TestClient = serve(admin_without_key=True)
    assert client.get(COMPARE).status_code == 404
    policy = {"mode": "split", "candidate": "rival", "share": 1}
    begun = client.put(COMPARE, json=policy)
    assert begun.status_code == 200
    assert (begun.json()["policy"]["candidate"], begun.json()["inputs"]) == ("rival", 0)
    assert ask(client, "good")["model"]["variant"] == "rival"
    settle(client, service_of(client))
    assert client.put(COMPARE, json={**policy, "candidate": "twin"}).json()["inputs"] == 0  # statistics restart
    assert ask(client, "good")["model"]["variant"] == "twin"
    settle(client, service_of(client))
    metrics = client.get("/metrics").text
    gauges = [line for line in metrics.splitlines() if line.startswith("sparserve_experiment_inputs{")]
    assert len(gauges) == 1 and 'candidate="twin"' in gauges[0]
    assert client.delete(COMPARE).json()["inputs"] == 1
    assert "sparserve_experiment_inputs{" not in client.get("/metrics").text
    assert ask(client, "good")["model"]["variant"] == "dense"
    assert client.delete(COMPARE).status_code == 404


@pytest.mark.parametrize(
    ("policy", "status", "message"),
    [
        ({"candidate": "dense"}, 422, "is the default variant"),
        ({"candidate": "missing"}, 404, "no variant 'missing'"),
        ({"share": 0}, 422, "share"),
        ({"mode": "mirror"}, 422, "mode"),
        ({"guard": {"agreement": 2}}, 422, "agreement"),
        ({"more": 1}, 422, "more"),
    ],
)
def test_experiments_refuse_invalid_policy(
    serve: Callable[..., TestClient], policy: dict[str, Any], status: int, message: str
) -> None:
    client: TestClient = serve(admin_without_key=True)
    answer = client.put(COMPARE, json={"mode": "shadow", "candidate": "twin", "share": 0.5, **policy})
    assert answer.status_code == status
    assert message in answer.json()["detail"]
    assert client.get(COMPARE).status_code == 404


def test_experiments_refuse_other_labels(serve: Callable[..., TestClient], store: Store) -> None:
    publish(store, variant="other", model=graph(seed=1), labels=("no", "yes"))
    client: TestClient = serve(admin_without_key=True)
    answer = client.put(COMPARE, json={"mode": "shadow", "candidate": "other", "share": 0.5})
    assert answer.status_code == 422
    assert "other labels" in answer.json()["detail"]


def test_experiments_with_numbers_have_no_agreement_and_no_guard(
    serve: Callable[..., TestClient],
    service_of: Callable[[TestClient], ServingCore],
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for variant, seed in (("dense", 1), ("twin", 2)):
        model = graph(seed=seed, labels=1)
        publish(store, variant=variant, model=model, labels=("score",), problem_type="regression")
    policy = {"mode": "shadow", "candidate": "twin", "share": 1}
    guarded = {**policy, "guard": {"agreement": 0.9}}
    client: TestClient = serve(admin_without_key=True, experiments={TASK: guarded})
    answer = client.put(COMPARE, json=guarded)
    assert answer.status_code == 422
    assert "predicts a number, not labels that could agree: leave out the guard" in answer.json()["detail"]
    ask(client, "good", "bad")
    assert "its guard stops no candidate" in caplog.text
    settle(client, service_of(client))
    seen = client.get(COMPARE).json()
    assert (seen["inputs"], seen["agreement"]["value"], seen["agreement"]["low"]) == (2, None, None)
    assert seen["score_difference"]["value"] > 0
    assert "sparserve_experiment_agreement_ratio{" not in client.get("/metrics").text
    assert client.put(COMPARE, json=policy).status_code == 200


def test_experiments_are_for_administrators(experiment: Callable[..., TestClient]) -> None:
    client = experiment("shadow", "twin", admin_without_key=False)
    assert client.put(COMPARE, json={"mode": "shadow", "candidate": "twin", "share": 0.5}).status_code == 403
    assert client.delete(COMPARE).status_code == 403
    assert client.get(f"{COMPARE}/disagreements").status_code == 403


def test_policies_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    from sparserve.service.settings import Settings

    policy = {"mode": "shadow", "candidate": "twin", "share": 0.1, "guard": {"agreement": 0.95}}
    monkeypatch.setenv("SPARSERVE_EXPERIMENTS", json.dumps({TASK: policy}))
    assert Settings(store=store.root).experiments[TASK].guard.agreement == 0.95
    monkeypatch.setenv("SPARSERVE_EXPERIMENTS", json.dumps({TASK: {**policy, "share": 2}}))
    with pytest.raises(ValueError, match="share"):
        Settings(store=store.root)
