"""Runs that fit into some minutes on this machine: missing ones, the largest gap to the targets first."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch.nn import functional

from benchmarks.accuracy.scales import SCALES
from benchmarks.accuracy.scales.grid import Cell
from benchmarks.accuracy.scores import teacher_kind
from sparserve.models.data.tokenization import Collator, LengthBucketSampler
from sparserve.models.encoders.checkpoint import load_classifier
from sparserve.models.pipeline.inputs import Job
from sparserve.models.training.checkpoints import on_device
from sparserve.models.training.precision import fast_attention, trains_in_bf16

# Points that the best method of a scale may lose at a level, in the mean over its tasks (six at the small scale).
TARGETS = {("minilm-l6", "95 %"): 1.0, ("mpnet-base", "95 %"): 1.4, ("mpnet-base", "90 %"): 0.7}
FAVOURITE = "sparsebert-best"  # the method that is to reach them, and its variations
MEASURED_STEPS, WARM_UP_STEPS = 4, 2
# Of every run: loading, and the scores of both networks.
OVERHEAD_SECONDS = 20.0


@dataclass(frozen=True)
class Planned:
    """A run that fits: its expected seconds, and the points that are missing to the target.

    They are infinite if nothing is measured yet, and minus infinity without a target.
    """

    cell: Cell
    seconds: float
    gap: float

    def __str__(self) -> str:
        gap = f"{self.gap:+.1f} points from the target"
        if math.isinf(self.gap):
            gap = "not measured yet" if self.gap > 0 else "no target"
        return f"{self.cell.title:<60} about {self.seconds / 60:.1f} min, {gap}"


def gaps(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], float]:
    """Return for each scale, task and level with a target the points that its best method loses beyond it.

    Where teachers find their training, older runs with a fixed one do not count: theirs had not converged.
    """
    drops: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        converged = teacher_kind(run) == "auto" or not SCALES[run["scale"]].finds_teacher
        if converged and (run["scale"], run["level"]) in TARGETS:
            drops[run["scale"], run["task"], run["level"]][run["method"]].append(run["drop"]["points"])
    return {
        place: min(sum(points) / len(points) for points in methods.values()) - TARGETS[place[0], place[2]]
        for place, methods in drops.items()
    }


def by_gap(cells: Sequence[Cell], runs: Sequence[Mapping[str, Any]]) -> list[tuple[float, Cell]]:
    """Return the gap and the cell of each run, in the order in which they are worth their time.

    Places without a measurement come first, then the largest gaps; at a place, the favourite method and its variations
    before the others. Levels without a target come last. Equal ones keep their order.
    """
    known = gaps(runs)

    def gap(cell: Cell) -> float:
        place = (cell.scale.name, cell.task, cell.level)
        return known.get(place, math.inf) if (place[0], place[2]) in TARGETS else -math.inf

    ranked = [(gap(cell), cell) for cell in cells]
    return sorted(ranked, key=lambda pair: (-pair[0], not pair[1].method.name.startswith(FAVOURITE)))


def fitting(
    ranked: Sequence[tuple[float, Cell]], remaining: Callable[[Cell], Mapping[str, float]], limit: float
) -> Iterator[Planned]:
    """Yield the runs that fit into `limit` seconds together.

    `remaining` gives the seconds of each part of a run, by key. A part that an earlier run makes costs nothing again.
    """
    left, made = limit, set[str]()
    for gap, cell in ranked:
        parts = remaining(cell)
        seconds = sum(part for key, part in parts.items() if key not in made)
        if seconds <= left:
            left -= seconds
            made |= parts.keys()
            yield Planned(cell, seconds, gap)


def token_seconds(job: Job) -> float:
    """Return the seconds of one token's forward pass, a third of a training step's, measured on this machine."""
    rows, training = job.rows(job.checkpoint).train, job.recipe.student
    model = on_device(load_classifier(job.checkpoint.folder, job.dataset.label_names, job.dataset.problem_type))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    order = cycle(LengthBucketSampler(rows.lengths, training.batch_size, job.seed))
    collate, device = Collator(job.checkpoint.pad_token_id), next(model.parameters()).device
    bf16 = trains_in_bf16(training)
    tokens, began = 0, 0.0
    model.train()
    with fast_attention(model, bf16=bf16):
        for step in range(WARM_UP_STEPS + MEASURED_STEPS):
            if step == WARM_UP_STEPS:
                tokens, began = 0, _now(device)
            batch = collate([rows[row] for row in islice(order, training.batch_size)])
            tokens += int(batch["attention_mask"].sum())
            inputs = {name: batch[name].to(device) for name in batch if name not in ("row", "labels")}
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                outputs = model(**inputs, output_hidden_states=True)
                loss = sum(functional.mse_loss(state, torch.zeros_like(state)) for state in outputs.hidden_states)
            (loss + outputs.logits.float().square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
    return (_now(device) - began) / tokens / 3


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
