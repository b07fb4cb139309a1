"""The service with gRPC on a free port, requests of Triton's client, and a gate that holds back its batches."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from sparserve.service.app import create_app
from sparserve.service.core import ServingCore
from sparserve.service.observability.tracing import RequestTracer
from sparserve.service.settings import Settings
from tests.support.service.listening import listening
from tests.support.tiny_bundles import TASK


class Running:
    """A service with gRPC, which runs until it is stopped."""

    def __init__(self, root: Path, tracer: RequestTracer | None = None, **settings: Any) -> None:
        app = create_app(Settings(**{"store": root, "threads": 1, "grpc_port": 0, **settings}), tracer=tracer)
        self.service: ServingCore = app.state.service
        self._listening = contextlib.ExitStack()
        self._listening.enter_context(listening(app))
        self.address = f"127.0.0.1:{app.state.grpc_server.port}"

    def stop(self) -> None:
        """End it as a signal does."""
        self._listening.close()


class Gate:
    """Holds up every batch of the task's default variant until it is opened."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier = running.service.catalog.engine(TASK).loaded.classifier
        self.reached, self._open, self._logits = threading.Event(), threading.Event(), classifier.logits
        self._registry = running.service.metrics.registry
        monkeypatch.setattr(classifier, "logits", self._held_up)

    def _held_up(self, tokens: Any) -> Any:
        self.reached.set()
        self._open.wait(20)
        return self._logits(tokens)

    def open(self) -> None:
        self._open.set()

    def wait_for_waiting(self, inputs: int) -> None:
        give_up = time.monotonic() + 10
        while self._registry.get_sample_value("sparserve_inputs_waiting") != inputs:
            assert time.monotonic() < give_up


def tensor(texts: list[str], columns: bool = False) -> Any:
    shape = [len(texts), 1] if columns else [len(texts)]
    found = grpcclient.InferInput("text", shape, "BYTES")
    found.set_data_from_numpy(np.array(texts, dtype=object).reshape(shape))
    return found


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """Status and message of a call that is refused."""
    with pytest.raises(grpcclient.InferenceServerException) as caught:
        call()
    return caught.value.status(), caught.value.message()
