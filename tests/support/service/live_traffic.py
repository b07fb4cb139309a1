"""Clients of a task with an experiment: requests, and waiting for background comparisons."""

from itertools import product
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sparserve.service.core import ServingCore
from tests.support.tiny_bundles import TASK

URL = f"/v1/models/{TASK}/classify"
COMPARE = f"/v1/compare/{TASK}"
TEXTS = ["good film", "bad film", "the film was fun", "a dull film", "good good", "fun"]
MANY = [" ".join(words) for words in product(["good", "bad", "film", "fun", "dull"], repeat=3)]


def ask(client: TestClient, *texts: str, **headers: str) -> dict[str, Any]:
    answer = client.post(URL, json={"inputs": list(texts)}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def differing(client: TestClient) -> list[str]:
    """Those of `MANY` that `dense` and `rival` give different labels."""
    compared = client.post(f"/v1/models/{TASK}/compare", json={"inputs": MANY, "variants": ["dense", "rival"]}).json()
    found = [text for text, item in zip(MANY, compared["items"], strict=True) if not item["agree"]]
    assert len(found) > 30
    return found


def settle(client: TestClient, service: ServingCore) -> None:
    assert client.portal
    client.portal.call(service.experiments.settled)


def written(client: TestClient, service: ServingCore, count: int) -> list[dict[str, Any]]:
    """The disagreements, once the thread that writes them has got so far."""
    settle(client, service)
    for _ in range(1000):
        rows: list[dict[str, Any]] = client.get(f"{COMPARE}/disagreements").json()
        if len(rows) >= count:
            return rows
    pytest.fail(f"{len(rows)} of {count} disagreements were written")
