"""onnxruntime without a server: the upper bound of a server's rate, and the overhead of a server.

Reads a JSON object from stdin and writes one to stdout. `"measure"` is one of

- `ceiling`: texts per second in sorted, pre-tokenised batches, and the time and memory of loading,
- `model_cpu`: CPU seconds of the graph per text, in batches of given mean sizes,
- `idle`: seconds of single texts, alternately from a server and in this process on the CPU of the server,
- `many`: the same for requests of many texts.
"""

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from sparserve.models.bundle.bundle import open_bundle
from sparserve.models.bundle.inference import LoadedBundle, load_bundle
from sparserve.models.bundle.text_tokenizer import Tokens

WARM_UP = 5
# A pass over more texts of a dense graph takes long, and the mean length of these is that of all.
MODEL_CPU_TEXTS = 128
MANY_ROUNDS = 3


def sorted_batches(tokens: Sequence[Tokens], budget: int) -> list[list[Tokens]]:
    """Return batches of up to `budget` tokens, padding included, of texts sorted by length; at least one text each."""
    batches: list[list[Tokens]] = [[]]
    for item in sorted(tokens, key=len):
        if batches[-1] and (len(batches[-1]) + 1) * len(item) > budget:
            batches.append([])
        batches[-1].append(item)
    return batches


def waiting_batches(tokens: Sequence[Tokens], clients: int, mean: float) -> list[list[Tokens]]:
    """Return batches with a given mean size, each of neighbours by length among the texts of as many clients."""
    batches = []
    for start in range(0, len(tokens), clients):
        waiting = sorted(tokens[start : start + clients], key=len)
        count = int((start + len(waiting)) / mean) - int(start / mean)
        parts = np.array_split(np.arange(len(waiting)), min(max(1, count), len(waiting)))
        batches += [waiting[part[0] : part[-1] + 1] for part in parts]
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
        "token_counts": lengths,
        "tokens": {
            "mean": float(np.mean(lengths)),
            **{f"p{percent}": float(np.percentile(lengths, percent)) for percent in (50, 95)},
        },
    }


def model_cpu(
    model: LoadedBundle, texts: Sequence[str], loads: Sequence[dict[str, float]], seconds: float
) -> list[float]:
    """Return the CPU seconds of the graph per text in batches like those of each load, `clients` and `mean_batch`.

    Loads alternate over the texts until each has used `seconds`.
    """
    tokens = model.tokenizer.encode(texts[:MODEL_CPU_TEXTS])
    arms = [
        [model.classifier.pad(batch) for batch in waiting_batches(tokens, int(load["clients"]), load["mean_batch"])]
        for load in loads
    ]
    spent = [0.0] * len(arms)
    passes = 0
    while min(spent) < seconds:
        passes += 1
        for number, batches in enumerate(arms):
            began = time.process_time()
            for batch in batches:
                model.classifier.run(batch)
            spent[number] += time.process_time() - began
    return [used / passes / len(tokens) for used in spent]


class Client:
    """One connection that sends prepared requests and waits for each answer, without the cost of an HTTP library."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None and address.port is not None
        self._path = address.path
        self._socket = socket.create_connection((address.hostname, address.port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def request(self, body: str) -> bytes:
        """Return the bytes of a request."""
        content = body.encode()
        head = f"POST {self._path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    def ask(self, request: bytes) -> float:
        """Return the seconds until the whole answer to a request has arrived."""
        began = time.perf_counter()
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._more()
        head = answer[:end].lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        missing = length - (len(answer) - end - 4)
        while missing > 0:
            missing -= len(self._more())
        seconds = time.perf_counter() - began
        if int(head.split(b" ", 2)[1]) != http.client.OK:
            raise SystemExit(f"the server answered {head.decode(errors='replace')}")
        return seconds

    def _more(self) -> bytes:
        if not (data := self._socket.recv(65536)):
            raise SystemExit("the server closed the connection")
        return data


def idle(
    model: LoadedBundle, request: dict[str, Any], server_cpus: Sequence[int], own_cpus: Sequence[int]
) -> dict[str, list[float]]:
    """Return the seconds of each text, alternately from a server over one connection and computed here."""
    client = Client(request["url"])
    server: list[float] = []
    process: list[float] = []
    requests = [client.request(body) for body in request["bodies"]]
    for number in rounds(request["seconds"], WARM_UP + 1):
        move(server_cpus)
        text = request["texts"][number % len(requests)]
        began = time.perf_counter()
        model.classifier.logits(model.tokenizer.encode([text]))
        alone = time.perf_counter() - began
        move(own_cpus)
        asked = client.ask(requests[number % len(requests)])
        if number >= WARM_UP:
            server.append(asked)
            process.append(alone)
    return {"server_seconds": server, "process_seconds": process}


def many(
    model: LoadedBundle, request: dict[str, Any], server_cpus: Sequence[int], own_cpus: Sequence[int]
) -> dict[str, Any]:
    """Return the seconds of requests with all texts, and of the graph on the same texts, alternately.

    The graph gets tokenised texts in sorted batches of each budget. Tokenising is measured apart.
    """
    client = Client(request["url"])
    content, texts = client.request(request["body"]), request["texts"]
    found: dict[str, Any] = {"texts": len(texts), "server_seconds": [], "tokenize_seconds": [], "graph_seconds": {}}
    for _ in rounds(request["seconds"], MANY_ROUNDS):
        move(server_cpus)
        began = time.perf_counter()
        tokens = model.tokenizer.encode(texts)
        found["tokenize_seconds"].append(time.perf_counter() - began)
        for budget in request["budgets"]:
            batches = [model.classifier.pad(batch) for batch in sorted_batches(tokens, budget)]
            began = time.perf_counter()
            for batch in batches:
                model.classifier.run(batch)
            found["graph_seconds"].setdefault(str(budget), []).append(time.perf_counter() - began)
        move(own_cpus)
        found["server_seconds"].append(client.ask(content))
    return found


def rounds(seconds: float, least: int) -> Iterator[int]:
    """Yield numbers until `seconds` are over, at least `least`."""
    ends, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < ends or number < least:
        yield number
        number += 1


def move(cpus: Sequence[int]) -> None:
    """Run this thread on these CPUs, or leave it if there are none."""
    if cpus:
        os.sched_setaffinity(0, cpus)


def memory_bytes() -> int:
    memory = psutil.Process().memory_full_info()
    return int(getattr(memory, "pss", memory.rss))


def main() -> None:
    request: dict[str, Any] = json.load(sys.stdin)
    os.environ["RAYON_NUM_THREADS"] = str(request["threads"])
    bundle = open_bundle(Path(request["bundle"]), verify=False)
    before, began = memory_bytes(), time.perf_counter()
    model = load_bundle(bundle, threads=request["threads"], runtime=request["runtime"])
    model.classifier.logits(model.tokenizer.encode(["warm up"]))
    loaded = {"load_seconds": time.perf_counter() - began, "load_bytes": memory_bytes() - before}
    match request["measure"]:
        case "ceiling":
            answer: Any = {**loaded, **ceiling(model, request["texts"], request["budgets"], request["seconds"])}
        case "model_cpu":
            answer = model_cpu(model, request["texts"], request["loads"], request["seconds"])
        case "idle":
            answer = idle(model, request, request["server_cpus"], request["own_cpus"])
        case "many":
            answer = many(model, request, request["server_cpus"], request["own_cpus"])
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
