"""Exceptions as problems."""

import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from sparserve.service.http.problems import (
    MAX_FIELD_PROBLEMS,
    OpenAIProblem,
    Problem,
    install_error_mapping,
    problem_response,
)


class Numbers(BaseModel):
    numbers: list[int]


def test_problem_reports_the_first_of_many_faults() -> None:
    app = FastAPI()

    @app.post("/")
    async def add(body: Numbers) -> int:
        return sum(body.numbers)

    install_error_mapping(app)
    answer = TestClient(app).post("/", json={"numbers": ["a"] * 10_000})
    assert answer.status_code == 422
    errors = answer.json()["errors"]
    assert [error["location"] for error in errors] == [f"body.numbers.{place}" for place in range(MAX_FIELD_PROBLEMS)]
    assert len(answer.content) < 5000


@pytest.mark.parametrize(("path", "model"), [("/v1/models", Problem), ("/v1/moderations", OpenAIProblem)])
def test_problem_response_has_the_fields_of_its_model(path: str, model: type[Problem]) -> None:
    answer = problem_response(429, "too much", {"path": path, "state": {"request_id": "r"}})
    content = json.loads(bytes(answer.body))
    assert model.model_validate(content).model_dump() == content
    assert list(content) == list(model.model_fields)
