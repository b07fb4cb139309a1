"""Facts that the supervisor gives to a worker, and the worker's part of the limits."""

from dataclasses import replace

from sparserve.service.settings import Settings
from sparserve.service.workers.assignment import Assignment

ASSIGNMENT = Assignment(
    number=1, count=3, channel=5, listeners=(6, 7), grpc_port=9000, folder="/dev/shm/x", replacement=True
)


def test_assignment_travels_in_the_environment_once() -> None:
    environment = ASSIGNMENT.to_environment()
    assert Assignment.from_environment(environment) == ASSIGNMENT
    assert Assignment.from_environment(environment) is None


def test_assignment_divides_the_limits_of_the_service() -> None:
    settings = Settings(
        threads=8,
        concurrency=5,
        max_model_bytes=1000,
        max_body_bytes=100,
        max_bodies_bytes=3000,
        max_waiting_inputs=10,
        max_waiting_tokens=10_000,
    )
    parts = [replace(ASSIGNMENT, number=number).settings_of(settings) for number in range(3)]
    assert [part.threads for part in parts] == [3, 3, 2]
    assert {part.concurrency for part in parts} == {1}
    assert {part.max_model_bytes for part in parts} == {333}
    assert {part.max_bodies_bytes for part in parts} == {1000}
    assert {part.max_waiting_inputs for part in parts} == {4}
    assert {part.grpc_port for part in parts} == {9000}


def test_assignment_gives_each_worker_a_thread() -> None:
    assert ASSIGNMENT.settings_of(Settings(threads=1)).threads == 1
    assert ASSIGNMENT.settings_of(Settings(threads=1)).max_model_bytes is None
