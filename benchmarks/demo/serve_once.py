"""Serve a store in a separate process, request a comparison of dense and compressed, and stop it."""

import argparse
import sys
import time
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.service_process import running

SENTENCES = [
    "a gorgeous, witty, seductive movie",
    "the plot is paper-thin and the jokes are worse",
    "it takes talent to make a lifeless movie about the most heinous man who ever lived",
    "neither as funny nor as charming as it thinks it is",
    "you will laugh, you will cry, and you will want to see it again",
]
START_SECONDS = 60.0
POLL_SECONDS = 0.05


def compare(address: str, task: str) -> None:
    """Compare the default variant of the task with dense over HTTP and print the answer."""
    # The service is ready when the default variant is; while dense is still loading the answer is 503.
    for _ in range(int(START_SECONDS / POLL_SECONDS)):
        answer = httpx.post(f"{address}/v1/models/{task}/compare", json={"inputs": SENTENCES}, timeout=60)
        if answer.status_code != 503:
            break
        time.sleep(POLL_SECONDS)
    answer.raise_for_status()
    body = answer.json()
    variants = [summary["model"]["variant"] for summary in body["variants"]]
    table = Table("text", *variants, "agree", title=f"POST /v1/models/{task}/compare")
    for text, item in zip(SENTENCES, body["items"], strict=True):
        answers = [item["predictions"][variant] for variant in variants]
        cells = [f"{answer['label']} {answer['score']:.3f}" for answer in answers]
        table.add_row(text, *cells, "yes" if item["agree"] else "no")
    Console(width=140).print(table)
    for summary in body["variants"]:
        milliseconds = 1000 * summary["seconds_per_item"]
        print(f"{summary['model']['variant']:>16}: {milliseconds:.1f} ms per item in this batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--task", required=True)
    arguments = parser.parse_args()
    with running(Path(arguments.store), "--workers", "1", "--log-level", "warning", warnings="default") as service:
        compare(f"http://127.0.0.1:{service.port}", arguments.task)
        status = service.stop()
        print(service.logged(), end="", file=sys.stderr)
    if status != 0:
        raise SystemExit(f"the service ended with {status}")


if __name__ == "__main__":
    main()
