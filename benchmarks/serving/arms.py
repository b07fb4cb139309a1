"""The compared servers: start command, request and interpretation of the answer."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.serving.peers.classifier import MAX_BATCH, WINDOW_SECONDS
from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.store import CURRENT, Store

SPARSERVE: Final = "sparserve"
THREADS: Final = 1

Scores = dict[str, float]


@dataclass(frozen=True)
class Arm:
    """A server: its command for a port, path and body of a request for a text, and the scores in its answer."""

    name: str
    command: Callable[[int], list[str]]
    path: str
    body: Callable[[str], Any]
    scores: Callable[[Any], Scores]
    python: Path
    package: str
    settings: str
    overload_headers: Mapping[str, str] = field(default_factory=dict)

    def bodies(self, texts: list[str]) -> list[str]:
        """Return the request body for each text."""
        return [json.dumps(self.body(text)) for text in texts]


def ranked(predictions: list[dict[str, Any]]) -> Scores:
    """Return the scores of a list of predictions, by label."""
    return {item["label"]: item["score"] for item in predictions}


def sparserve(
    python: Path, store: Path, task: str, variant: str, *, runtime: str, timeout: float, options: Mapping[str, str]
) -> Arm:
    """Return the arm of this project's service over a store, for one variant."""

    def command(port: int) -> list[str]:
        settings = {
            "store": store,
            "port": port,
            "threads": THREADS,
            "runtime": runtime,
            "log-level": "warning",
            **options,
        }
        return [
            str(python),
            "-m",
            "sparserve.service",
            *(word for key, value in settings.items() for word in (f"--{key}", str(value))),
        ]

    changed = "".join(f", {key} {value}" for key, value in options.items())
    return Arm(
        name=SPARSERVE,
        command=command,
        path=f"/v1/models/{task}/{variant}/classify",
        body=lambda text: {"inputs": [text], "top_k": None},
        scores=lambda answer: ranked(answer["predictions"][0]),
        python=python,
        package="sparserve",
        settings=f"defaults{changed}; X-Request-Timeout {timeout:g} s in the overload",
        overload_headers={"X-Request-Timeout": f"{timeout:g}"},
    )


def store_of_one(bundle: Bundle, folder: Path) -> Path:
    """Write a store with only this bundle, so that the service loads one model, like its peers."""
    manifest = bundle.manifest
    variant = folder / manifest.task / manifest.variant
    shutil.copytree(bundle.folder, variant / manifest.version)
    (variant / CURRENT).write_text(manifest.version + "\n", encoding="utf-8")
    Store(folder).open(manifest.task, manifest.variant)
    return folder


@dataclass(frozen=True)
class Peer:
    """Differences between the peers. `settings` describes the configuration for the page."""

    package: str
    path: str
    body: Callable[[str], Any]
    scores: Callable[[Any], Scores]
    settings: str


_BATCHES: Final = f"batches of up to {MAX_BATCH}"
_WINDOW: Final = f"{1000 * WINDOW_SECONDS:g} ms to fill a batch"
PEERS: Final = {
    "litserve": Peer(
        "litserve", "/predict", lambda text: {"text": text}, lambda answer: answer["scores"],
        f"{_BATCHES}, {_WINDOW}, one worker, fast_queue, timeout equal to that of the client (504)",
    ),
    "mlserver": Peer(
        "mlserver", "/v2/models/classifier/infer",
        lambda text: {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]},
        lambda answer: {output["name"]: output["data"][0] for output in answer["outputs"]},
        f"{_BATCHES}, {_WINDOW}, one parallel worker; no limit on queued requests",
    ),
    "bentoml": Peer(
        "bentoml", "/classify", lambda text: {"texts": [text]}, lambda answer: answer[0],
        f"{_BATCHES}, adaptive (no window), one worker, max_latency_ms and timeout equal to that of the client (503)",
    ),
    "infinity": Peer(
        "infinity-emb", "/classify", lambda text: {"model": "classifier", "input": [text], "raw_scores": False},
        lambda answer: ranked(answer["data"][0]),
        f"{_BATCHES}, engine optimum: the same file with the session of optimum and the tokenizer of transformers",
    ),
    "ray": Peer(
        "ray", "/classify", lambda text: {"text": text}, lambda answer: answer["scores"],
        f"{_BATCHES}, {_WINDOW}, one replica, request timeout equal to that of the client (408)",
    ),
}  # fmt: skip


def peer_arm(name: str, python: Path, bundle: Bundle, timeout: float) -> Arm:
    """Return the arm of a peer in its environment, over the same bundle."""
    peer = PEERS[name]

    def command(port: int) -> list[str]:
        arguments = ["--bundle", str(bundle.folder), "--port", str(port), "--threads", str(THREADS)]
        return [str(python), "-m", f"benchmarks.serving.peers.{name}_server", *arguments, "--timeout", f"{timeout:g}"]

    return Arm(name, command, peer.path, peer.body, peer.scores, python, peer.package, peer.settings)


def default_python() -> Path:
    """Return the running interpreter."""
    return Path(sys.executable)
