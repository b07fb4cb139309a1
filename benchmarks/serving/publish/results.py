"""A results file of the serving benchmark: reading it, also one of an earlier version, and figures from it.

`arms` has one record per server and graph, by name. `raw` has the runs of onnxruntime alone.
"""

import json
import math
from pathlib import Path
from statistics import median
from typing import Any, Final

Results = dict[str, Any]
Record = dict[str, Any]

SPARSERVE: Final = "sparserve"
DENSE: Final = "dense"
DENSE_INT8: Final = "dense-int8"
SPARSE_INT8: Final = "sparse90-int8"
BUSY: Final = 32


def read(path: Path) -> Results:
    """Read a results file."""
    return upgraded(json.loads(path.read_bytes()))


def upgraded(results: Results) -> Results:
    """Return results of an earlier version in the form of today; others as they are.

    Earlier all servers had one graph, `settings.variant`, and `endpoints` had the variants of one service.
    """
    chosen = dict(results["settings"])
    if "graphs" in chosen:
        return results
    variant = chosen.pop("variant")
    chosen["graphs"] = {variant: {"runtime": "onnx", "bytes": chosen.pop("model_bytes")}}
    arms = {}
    for server, record in results["arms"].items():
        arms[f"{server} {variant}"] = {"server": server, "variant": variant, "runtime": "onnx", **_loads(record)}
    own = arms.get(f"{SPARSERVE} {variant}", {})
    for name, record in ((results.get("endpoints") or {}).get("variants") or {}).items():
        if name != variant and "idle" in record:
            arms[f"{SPARSERVE} {name}"] = {
                "server": SPARSERVE, "variant": name, "version": own.get("version"),
                "settings": "variants of one store",
                **_loads(record),
            }  # fmt: skip
    raw = [{"variant": variant, "runtime": "onnx", **run} for run in results["raw"]]
    left = {name: value for name, value in results.items() if name != "endpoints"}
    return {**left, "settings": chosen, "arms": arms, "raw": raw}


def _loads(record: Record) -> Record:
    clients = {"idle": 1, "closed": BUSY}
    loads = [{"clients": count, **record[name]} for name, count in clients.items() if name in record]
    left = {name: value for name, value in record.items() if name not in clients}
    return {**left, **({"closed_loads": loads} if loads else {})}


def own(results: Results, variant: str) -> Record:
    """Return the record of this project's service for a variant, empty if it was not measured."""
    record: Record = results["arms"].get(f"{SPARSERVE} {variant}", {})
    return record


def closed(record: Record, clients: int) -> Record | None:
    """Return the figures of the load of so many clients."""
    return next((load for load in record.get("closed_loads", []) if load["clients"] == clients), None)


def busy_cpu(record: Record, clients: int = BUSY) -> float | None:
    """Return the CPU seconds of the server per request with many clients."""
    load = closed(record, clients)
    return load.get("server_cpu") if load else None


def beyond_model(load: Record | None) -> float | None:
    """Return the CPU seconds of the server per request beyond those of the graph in batches of the same size."""
    if not load or load.get("server_cpu") is None or load.get("model_cpu") is None:
        return None
    return float(load["server_cpu"] - load["model_cpu"])


def runs_alone(results: Results, variant: str) -> list[Record]:
    """Return the runs of onnxruntime alone for a variant."""
    return [run for run in results["raw"] if run["variant"] == variant]


def best_alone(results: Results, variant: str) -> float | None:
    """Return the texts per second of onnxruntime alone in its best batch size."""
    runs = runs_alone(results, variant)
    if not runs:
        return None
    return float(max(median(run["texts_per_second"][budget] for run in runs) for budget in runs[0]["texts_per_second"]))


def without_overhead(results: Results, variant: str) -> float | None:
    """Return the highest rate of a simulated server without overhead, or None if it was not simulated."""
    rates = [run["rate_without_overhead"] for run in runs_alone(results, variant) if "rate_without_overhead" in run]
    return float(median(rates)) if rates else None


def variants(results: Results) -> list[str]:
    """Return the measured variants, in the order of the run."""
    return list(dict.fromkeys(record["variant"] for record in results["arms"].values()))


def servers(results: Results, variant: str) -> dict[str, Record]:
    """Return the records of all servers with one worker and this variant, without the references, by server."""
    return {
        record["server"]: record
        for record in results["arms"].values()
        if record["variant"] == variant and not record.get("reference") and record.get("workers", 1) == 1
        and not record.get("all_cpus")
    }  # fmt: skip


def bounds(record: Record) -> tuple[float, float]:
    """Return the highest rate that passed and the lowest higher rate that failed; equal after a finished search."""
    passed = record["best_rate"]
    failed = [point["rate"] for point in record["points"] if not point["within"] and point["rate"] > passed]
    return passed, passed if record["searched"] else min(failed, default=math.inf)
