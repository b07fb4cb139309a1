"""Measure the current bundles of a store on this machine, in stock ONNX Runtime and in the sparse runtime.

All arms are interleaved in one process and use the same number of threads.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tokenizers import Tokenizer

from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.inference import sparse_model
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import Arm, Variant
from sparserve.models.errors import BundleError
from sparserve.models.evaluation.latency import RunnableGraph, measure
from sparserve.models.files import write_atomically

RESULTS = Path(__file__).parent / "results"


def vocabulary_size(bundle: Bundle) -> int:
    """Return the vocabulary size of the bundle's tokenizer."""
    return int(Tokenizer.from_file(str(bundle.tokenizer_path)).get_vocab_size())


def arms_of(bundles: dict[str, Bundle]) -> dict[Arm, RunnableGraph]:
    """Return every variant in stock ONNX Runtime, and packed ones in the sparse runtime if it works here."""
    arms = {
        Arm(Variant.parse(variant)): RunnableGraph(bundle.model_path, bundle.manifest.pad_token_id)
        for variant, bundle in bundles.items()
    }
    for variant, bundle in bundles.items():
        if bundle.manifest.packed is not None:
            try:
                path, library = sparse_model(bundle)
            except BundleError as error:
                print(f"{variant}: {error}")
            else:
                arms[Arm(Variant.parse(variant), "sparse")] = RunnableGraph(path, bundle.manifest.pad_token_id, library)
    return arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--task", help="task to measure; default: the only task of the store")
    parser.add_argument("--threads", type=int, help="threads per arm; default: all available CPUs")
    parser.add_argument("--seconds", type=float, default=120.0, help="time budget for the whole grid")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64, 128])
    arguments = parser.parse_args()
    store = Store(arguments.store)
    tasks = [arguments.task] if arguments.task else store.tasks()
    if len(tasks) != 1:
        raise SystemExit(f"Choose a task with --task. Tasks: {', '.join(tasks) or 'none'}.")
    (task,) = tasks
    bundles = {variant: store.open(task, variant) for variant in store.variants(task)}
    longest = min(bundle.manifest.max_length for bundle in bundles.values())
    with Progress() as bar:
        step = bar.add_task("measuring", total=None)
        measured = measure(
            arms_of(bundles),
            batches=tuple(arguments.batches),
            lengths=tuple(arguments.lengths),
            max_length=longest,
            threads=arguments.threads,
            budget_seconds=arguments.seconds,
            vocabulary=min(vocabulary_size(bundle) for bundle in bundles.values()),
            progress=lambda done, total, note: bar.update(step, completed=done, total=total, description=note),
        )
    records = {
        str(arm): {"version": bundles[str(arm.variant)].manifest.version, **record.model_dump(mode="json")}
        for arm, record in measured.items()
    }
    write_atomically(RESULTS / f"latency-{task}.json", json.dumps(records, indent=1) + "\n")
    first = next(iter(measured.values()))
    machine = f"{first.machine.cpu} ({' '.join(first.machine.isa)}), {first.threads} threads"
    table = Table(title=f"{task} on {machine}: median ms (x ONNX fp32 dense, x ONNX int8 dense)")
    table.add_column("variant")
    for point in first.latency:
        table.add_column(f"{point.batch} x {point.length}", justify="right")
    for arm, record in measured.items():
        cells = [
            f"{1000 * point.p50_seconds:.1f} ({point.speedup:.2f}x, {point.speedup_int8 or 0:.2f}x)"
            for point in record.latency
        ]
        table.add_row(str(arm), *cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
