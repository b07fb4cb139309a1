"""A fake engine without a model, and inputs for it."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.service.inference.health import EngineHealth
from sparserve.service.inference.latency_model import LatencyModel
from sparserve.service.types import ModelRef


class FakeEngine:
    """Answers each input with its length and first token; a closed gate holds it up."""

    def __init__(self, variant: str = "dense") -> None:
        self.ref = ModelRef(task="t", variant=variant, version="1")
        self.manifest = SimpleNamespace(
            task="t", variant=variant, labels=("length", "first"), max_length=32, problem_type="regression"
        )
        self.health = EngineHealth()
        self.latency = LatencyModel()
        self.padding_costs = True
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def logits(self, tokens: Sequence[Tokens]) -> Any:
        self.batches.append([len(item) for item in tokens])
        self.begun.release()
        self.gate.wait(timeout=10)
        return np.array([[len(item), item.ids[0]] for item in tokens], dtype=np.float32)

    def answers(self) -> bool:
        try:
            self.logits(inputs(1))
        except Exception:
            return False
        return True


def inputs(*lengths: int, first: int = 1) -> list[Tokens]:
    return [Tokens([first] * length, [0] * length, False) for length in lengths]
