"""onnxruntime without a server: the upper bound of a server's rate, and the overhead of an idle server.

Reads a JSON object from stdin and writes one to stdout. `"measure": "ceiling"` returns texts per second in sorted,
pre-tokenised batches, and the time and memory of loading. `"measure": "idle"` returns the seconds of single texts,
alternately from a server and in this process on the CPU of the server.
"""

import http.client
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from sparserve.models.bundle.bundle import open_bundle
from sparserve.models.bundle.inference import LoadedBundle, load_bundle
from sparserve.models.bundle.text_tokenizer import Tokens

WARM_UP = 5


def sorted_batches(tokens: Sequence[Tokens], budget: int) -> list[list[Tokens]]:
    """Return batches of up to `budget` tokens, padding included, of texts sorted by length; at least one text each."""
    batches: list[list[Tokens]] = [[]]
    for item in sorted(tokens, key=len):
        if batches[-1] and (len(batches[-1]) + 1) * len(item) > budget:
            batches.append([])
        batches[-1].append(item)
    return batches


def ceiling(model: LoadedBundle, texts: Sequence[str], budgets: Sequence[int], seconds: float) -> dict[str, Any]:
    """Return texts per second by batch budget. Budgets alternate over all texts until each has used `seconds`."""
    tokens = model.tokenizer.encode(texts)
    arms = {
        budget: [model.classifier.pad(batch) for batch in sorted_batches(tokens, budget)]
        for budget in dict.fromkeys(budgets)
    }
    spent = dict.fromkeys(arms, 0.0)
    passes = 0
    while min(spent.values()) < seconds:
        passes += 1
        for budget, batches in arms.items():
            began = time.perf_counter()
            for batch in batches:
                model.classifier.run(batch)
            spent[budget] += time.perf_counter() - began
    lengths = [len(item) for item in tokens]
    return {
        "padded_tokens_per_token": {
            str(budget): sum(batch["input_ids"].size for batch in batches) / sum(lengths)
            for budget, batches in arms.items()
        },
        "texts_per_second": {str(budget): passes * len(texts) / seconds for budget, seconds in spent.items()},
        "tokens": {
            "mean": float(np.mean(lengths)),
            **{f"p{percent}": float(np.percentile(lengths, percent)) for percent in (50, 95)},
        },
    }


def idle(
    model: LoadedBundle, request: dict[str, Any], server_cpus: Sequence[int] | None, own_cpus: Sequence[int] | None
) -> dict[str, list[float]]:
    """Return the seconds of each text, alternately from a server over one connection and computed here."""
    address = urlsplit(request["url"])
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    headers = {"Content-Type": "application/json"}
    server: list[float] = []
    process: list[float] = []
    ends = time.perf_counter() + request["seconds"]
    pairs = list(zip(request["texts"], request["bodies"], strict=True))
    number = 0
    while time.perf_counter() < ends or number < WARM_UP + 1:
        text, body = pairs[number % len(pairs)]
        if server_cpus:
            os.sched_setaffinity(0, server_cpus)
        began = time.perf_counter()
        model.classifier.logits(model.tokenizer.encode([text]))
        alone = time.perf_counter() - began
        if own_cpus:
            os.sched_setaffinity(0, own_cpus)
        began = time.perf_counter()
        connection.request("POST", address.path, body, headers)
        answer = connection.getresponse()
        answer.read()
        asked = time.perf_counter() - began
        if answer.status != http.client.OK:
            raise SystemExit(f"the server answered {answer.status}")
        if number >= WARM_UP:
            server.append(asked)
            process.append(alone)
        number += 1
    connection.close()
    return {"server_seconds": server, "process_seconds": process}


def memory_bytes() -> int:
    memory = psutil.Process().memory_full_info()
    return int(getattr(memory, "pss", memory.rss))


def main() -> None:
    request: dict[str, Any] = json.load(sys.stdin)
    os.environ["RAYON_NUM_THREADS"] = str(request["threads"])
    bundle = open_bundle(Path(request["bundle"]), verify=False)
    before, began = memory_bytes(), time.perf_counter()
    model = load_bundle(bundle, threads=request["threads"])
    model.classifier.logits(model.tokenizer.encode(["warm up"]))
    loaded = {"load_seconds": time.perf_counter() - began, "load_bytes": memory_bytes() - before}
    if request["measure"] == "idle":
        answer: dict[str, Any] = idle(model, request, request["server_cpus"], request["own_cpus"])
    else:
        answer = {**loaded, **ceiling(model, request["texts"], request["budgets"], request["seconds"])}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
