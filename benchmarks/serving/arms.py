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
from sparserve.models.bundle.inference import LoadedBundle, load_bundle
from sparserve.models.bundle.runtime_choice import load_in_chosen_runtime, measure_runtimes, possible_runtimes
from sparserve.models.bundle.store import CURRENT, Store
from sparserve.models.bundle.variants import Runtime

SPARSERVE: Final = "sparserve"
BARE: Final = "bare ASGI"
BARE_QUEUE: Final = "bare ASGI with a queue"
THREADS: Final = 1
CLIENTS: Final = (1, 8, 32)

Scores = dict[str, float]


@dataclass(frozen=True)
class Graph:
    """One graph of a bundle: model.onnx, or model.sparse.onnx for the sparse runtime."""

    bundle: Bundle
    runtime: Runtime

    @property
    def variant(self) -> str:
        """Variant of the bundle."""
        return self.bundle.manifest.variant

    @property
    def bytes(self) -> int:
        """Size of the file."""
        path = self.bundle.sparse_model_path if self.runtime == "sparse" else self.bundle.model_path
        return path.stat().st_size


def fastest_graph(bundle: Bundle) -> Graph:
    """Return the graph that the service runs by default here, measured if the manifest's figures do not apply."""

    def load(runtime: Runtime) -> LoadedBundle:
        return load_bundle(bundle, threads=THREADS, runtime=runtime)

    runtimes = possible_runtimes(bundle.manifest, "auto")
    if len(runtimes) == 1:
        return Graph(bundle, runtimes[0])
    _, decision = load_in_chosen_runtime(bundle.manifest, "auto", load, measure_runtimes)
    return Graph(bundle, decision.runtime if decision else "onnx")


@dataclass(frozen=True)
class Arm:
    """A server over a graph: its command for a port, path and body of a request, and the scores in its answer.

    `many` is the body of a request for several texts, `metrics` the path of counters of batches, for servers that have
    them. With `all_cpus` the server uses the CPU of the load generator too.
    """

    name: str
    server: str
    graph: Graph
    command: Callable[[int], list[str]]
    path: str
    body: Callable[[str], Any]
    scores: Callable[[Any], Scores]
    python: Path
    package: str
    settings: str
    overload_headers: Mapping[str, str] = field(default_factory=dict)
    many: Callable[[list[str]], Any] | None = None
    metrics: str | None = None
    clients: tuple[int, ...] = CLIENTS
    workers: int = 1
    all_cpus: bool = False

    def bodies(self, texts: list[str]) -> list[str]:
        """Return the request body for each text."""
        return [json.dumps(self.body(text)) for text in texts]


def ranked(predictions: list[dict[str, Any]]) -> Scores:
    """Return the scores of a list of predictions, by label."""
    return {item["label"]: item["score"] for item in predictions}


def sparserve(
    python: Path, store: Path, graph: Graph, *, timeout: float, options: Mapping[str, str], **changes: Any
) -> Arm:
    """Return the arm of this project's service over a store, for one graph. `changes` replace fields of the arm."""

    def command(port: int) -> list[str]:
        settings = {
            "store": store,
            "port": port,
            "workers": 1,
            "threads": THREADS,
            "runtime": graph.runtime,
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
    facts: dict[str, Any] = {
        "name": f"{SPARSERVE} {graph.variant}",
        "settings": f"defaults{changed}; X-Request-Timeout {timeout:g} s in the overload",
        **changes,
    }
    return Arm(
        server=SPARSERVE,
        graph=graph,
        command=command,
        path=f"/v1/models/{graph.bundle.manifest.task}/{graph.variant}/classify",
        body=lambda text: {"inputs": [text], "top_k": None},
        scores=lambda answer: ranked(answer["predictions"][0]),
        python=python,
        package="sparserve",
        overload_headers={"X-Request-Timeout": f"{timeout:g}"},
        many=lambda texts: {"inputs": texts, "top_k": None},
        metrics="/metrics",
        **facts,
    )


def workers_arms(
    python: Path, store: Path, graph: Graph, *, timeout: float, options: Mapping[str, str], counts: tuple[int, ...]
) -> list[Arm]:
    """Return arms of the service with these numbers of worker processes, with one inference thread each."""
    return [
        sparserve(
            python, store, graph, timeout=timeout,
            options={**options, "workers": str(count), "threads": str(count * THREADS)},
            name=f"{SPARSERVE} {graph.variant} --workers {count}", workers=count, all_cpus=True, clients=(32, 64),
        )
        for count in counts
    ]  # fmt: skip


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
    runtimes: tuple[Runtime, ...] = ("onnx", "sparse")
    module: str = ""
    arguments: tuple[str, ...] = ()
    metrics: str | None = None


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
        runtimes=("onnx",),
    ),
    "ray": Peer(
        "ray", "/classify", lambda text: {"text": text}, lambda answer: answer["scores"],
        f"{_BATCHES}, {_WINDOW}, one replica, request timeout equal to that of the client (408)",
    ),
}  # fmt: skip
# References that are no servers for anybody: the least that a server in Python costs.
BARE_SERVERS: Final = {
    BARE: Peer(
        "uvicorn", "/", lambda text: {"text": text}, lambda answer: answer["scores"],
        "uvicorn, httptools, uvloop: parse, tokenise, answer a constant without a model",
        module="bare", arguments=("--no-model",),
    ),
    BARE_QUEUE: Peer(
        "uvicorn", "/", lambda text: {"text": text}, lambda answer: answer["scores"],
        f"uvicorn, httptools, uvloop: parse, tokenise, a queue, one thread that runs what waits, {_BATCHES}",
        module="bare", metrics="/metrics",
    ),
}  # fmt: skip


def peer_arm(name: str, python: Path, graph: Graph, timeout: float, configuration: Path | None = None) -> Arm:
    """Return the arm of a peer or a bare server in its environment, over the same graph.

    Args:
        name: a key of `PEERS` or `BARE_SERVERS`.
        python: interpreter of the environment.
        graph: the graph to serve.
        timeout: request timeout in seconds, for peers that support one.
        configuration: folder with a config.json, for peers that need one.
    """
    peer = {**PEERS, **BARE_SERVERS}[name]
    module = f"benchmarks.serving.peers.{peer.module or name}_server"

    def command(port: int) -> list[str]:
        settings = {
            "bundle": graph.bundle.folder, "runtime": graph.runtime, "port": port, "threads": THREADS,
            "timeout": f"{timeout:g}", **({"configuration": configuration} if configuration else {}),
        }  # fmt: skip
        words = (word for key, value in settings.items() for word in (f"--{key}", str(value)))
        return [str(python), "-m", module, *words, *peer.arguments]

    constant = "--no-model" in peer.arguments
    return Arm(
        name if constant else f"{name} {graph.variant}", name, graph, command, peer.path, peer.body, peer.scores,
        python, peer.package, peer.settings, metrics=peer.metrics,
    )  # fmt: skip


def default_python() -> Path:
    """Return the running interpreter."""
    return Path(sys.executable)
