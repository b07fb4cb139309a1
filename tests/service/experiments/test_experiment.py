"""Counts of an experiment, and its guard."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.long_texts import TokenizedInput
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.models.bundle.windows import TRUNCATE
from sparserve.service.experiments.comparison import ComparedVariant
from sparserve.service.experiments.experiment import Experiment
from sparserve.service.experiments.traffic import observe
from sparserve.service.inference.classification import Classification
from sparserve.service.inference.engine import Engine
from sparserve.service.settings import Guard, Policy
from sparserve.service.types import TextInput
from tests.support.tiny_bundles import TASK


@pytest.fixture(scope="module")
def engine(module_client: TestClient) -> Engine:
    found: Engine = module_client.app.state.service.catalog.engine(TASK)  # type: ignore[attr-defined]
    return found


def arm(engine: Engine, labels: Sequence[int], *, batch_seconds: float = 1.0, part: float = 1.0) -> ComparedVariant:
    """Sure answers, given in batches of which the request was a part."""
    logits = np.array([[9.0, 0.0] if label == 0 else [0.0, 9.0] for label in labels], dtype=np.float32)
    tokens: list[TokenizedInput] = [Tokens([1], [0], False)] * len(labels)
    answer = Classification(
        engine, tokens, TRUNCATE, logits, logits, 0.0, 0.0, batch_seconds, batch_seconds * part, batch_seconds
    )
    return ComparedVariant.of(engine, answer, engine.manifest.labels)


def experiment(guard: Guard | None = None) -> Experiment:
    return Experiment(Policy(mode="shadow", candidate="x", share=1, guard=guard), datetime.now(UTC))


def count(seen: Experiment, reference: ComparedVariant, candidate: ComparedVariant, *texts: str) -> list[bool]:
    """Count answers to texts; return for each if the predictions agree."""
    observation = observe(reference, candidate, [TextInput(text=text) for text in texts], seen.key)
    seen.add(observation)
    assert None not in observation.agree
    return [agree is True for agree in observation.agree]


def test_experiment_counts_each_text_once(engine: Engine) -> None:
    seen = experiment()
    same = count(seen, arm(engine, [0, 0, 1]), arm(engine, [0, 0, 0]), "a", "a", "b")
    assert same == [True, True, False]
    count(seen, arm(engine, [1, 0]), arm(engine, [0, 0]), "b", "c")
    assert (seen.agreement.inputs, seen.agreement.agreed, seen.repeated) == (3, 2, 2)
    assert seen.agreement.drift.count == 3


def test_experiment_guard_ignores_copies(engine: Engine) -> None:
    seen = experiment(Guard(agreement=0.9, confidence=0.99, inputs=5))
    count(seen, arm(engine, [0] * 50), arm(engine, [1] * 50), *["a"] * 50)
    assert not seen.apply_guard() and seen.stopped is None
    count(seen, arm(engine, [0] * 50), arm(engine, [1] * 50), *map(str, range(50)))
    assert seen.apply_guard()
    assert seen.stopped == "agreement is under 0.9 with 99 % confidence: 0 of 51 inputs"
    assert not seen.apply_guard()  # reported once


def test_experiment_without_guard_never_stops(engine: Engine) -> None:
    seen = experiment()
    count(seen, arm(engine, [0] * 50), arm(engine, [1] * 50), *map(str, range(50)))
    assert not seen.apply_guard() and seen.stopped is None


def test_experiment_charges_own_share_of_batches(engine: Engine) -> None:
    seen = experiment()
    for part in (0.25, 0.75):
        shared, alone = arm(engine, [0, 0], batch_seconds=4.0, part=part), arm(engine, [0, 0], batch_seconds=3.0)
        count(seen, shared, alone, "a", "b")
    assert seen.agreement.reference_seconds.mean == pytest.approx((0.5 + 1.5) / 2)
    assert seen.agreement.candidate_seconds.mean == pytest.approx(1.5)


def test_experiment_travels_with_its_figures(engine: Engine) -> None:
    seen = experiment(Guard(agreement=0.9, confidence=0.99, inputs=1))
    seen.models = (engine.ref, engine.ref)
    count(seen, arm(engine, [0] * 50), arm(engine, [1] * 50), *map(str, range(50)))
    seen.apply_guard()
    copy = Experiment.from_message(json.loads(json.dumps(seen.to_message())))
    assert copy.stopped and copy.agreement.inputs == 50
    assert copy.to_message() == seen.to_message()
