"""Exceptions as problems."""

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from sparserve.service.http.problems import MAX_FIELD_PROBLEMS, install_error_mapping


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
