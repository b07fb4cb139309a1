"""Types of the fixtures in `tests/service/conftest.py`."""

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.testclient import TestClient

from sparserve.service.core import ServingCore

NewApp = Callable[..., FastAPI]
Serve = Callable[..., TestClient]
ServiceOf = Callable[[TestClient], ServingCore]
