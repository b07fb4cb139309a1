"""Waiting time of a client with one text beside a client that floods the service.

    python -m benchmarks.reliability.flood --store store --task movie-sentiment --variant dense

The flood sends requests of 256 long texts over several connections from 127.0.0.1. The other client sends one short
text at a time from 127.0.0.2, so that it is another client for the service; with `--same-client` from 127.0.0.1. Prints
its waiting times alone and beside the flood, and the mean time of a batch of the service's one thread beside the flood:
a short text should wait for about two batches. The system must let a client bind 127.0.0.2, as Linux does.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.loopback import DEADLINE_SECONDS, HOST
from benchmarks.reliability.counting_clients import counting_clients
from benchmarks.service_process import RunningService, running, wait_until

OTHER_HOST = "127.0.0.2"
SHORT = "a good film"
LONG = " ".join(["a long text about a film that was good in parts and bad in others"] * 12)
FLOOD_TEXTS = 256


def waiting_seconds(service: RunningService, path: str, count: int, host: str) -> list[float]:
    """Return the seconds that each of `count` requests of one short text takes, sent one after the other from `host`.

    Raises:
        RuntimeError: a request is not answered with 200.
    """
    seconds = []
    connection = http.client.HTTPConnection(HOST, service.port, timeout=DEADLINE_SECONDS, source_address=(host, 0))
    with contextlib.closing(connection):
        for _ in range(count):
            began = time.perf_counter()
            connection.request("POST", path, json.dumps({"inputs": SHORT}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            seconds.append(time.perf_counter() - began)
            if answer.status != http.client.OK:
                raise RuntimeError(f"{answer.status}: {text.decode()}")
    return seconds


def figures(seconds: list[float]) -> dict[str, float]:
    return {"median_seconds": statistics.median(seconds), "longest_seconds": max(seconds)}


def flooded(
    service: RunningService, path: str, *, requests: int, connections: int, same_client: bool = False
) -> dict[str, Any]:
    """Return the waiting times of one client alone and beside a flood."""
    host = HOST if same_client else OTHER_HOST
    wait_until(lambda: service.ask(path, "POST", {"inputs": SHORT})[0] == http.client.OK, "the variant")
    alone = waiting_seconds(service, path, requests, host)
    with counting_clients(service.port, path, [LONG] * FLOOD_TEXTS, clients=connections) as counts:
        wait_until(lambda: service.metric("sparserve_inputs_waiting") > 0, "the flood")
        before, began = service.metric("sparserve_batches_total"), time.perf_counter()
        beside = waiting_seconds(service, path, requests, host)
        elapsed, batches = time.perf_counter() - began, service.metric("sparserve_batches_total") - before
    return {
        "alone": figures(alone),
        "beside_flood": figures(beside),
        "seconds_per_batch": elapsed / batches,
        "flood_statuses": {str(status): count for status, count in counts.statuses.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--variant", default="dense")
    parser.add_argument(
        "--requests", type=int, default=50, help="requests of one short text, alone and beside the flood"
    )
    parser.add_argument("--connections", type=int, default=4, help="connections of the flood")
    parser.add_argument("--same-client", action="store_true", help="send the short texts from the flood's address")
    arguments = parser.parse_args()
    path = f"/v1/models/{arguments.task}/{arguments.variant}/classify"
    with running(arguments.store, "--threads", "1", "--log-level", "warning") as service:
        record = flooded(
            service,
            path,
            requests=arguments.requests,
            connections=arguments.connections,
            same_client=arguments.same_client,
        )
        service.stop()
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
