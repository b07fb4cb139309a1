"""Types of the fixtures in `tests/service/conftest.py`."""

from collections.abc import Callable

from fastapi.testclient import TestClient

from sparserve.service.core import ServingCore

Serve = Callable[..., TestClient]
ServiceOf = Callable[[TestClient], ServingCore]
