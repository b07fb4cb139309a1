"""A classifier of three labels, and random calibration rows for squeezing."""

from pathlib import Path
from typing import Any

import torch

from sparserve.models.encoders.checkpoint import load_classifier
from tests.support.models.exporting import LABELS


def classifier(folder: Path, problem_type: str = "single_label_classification") -> Any:
    return load_classifier(folder, LABELS, problem_type).eval()


def calibration(rows: Any = 24, problem_type: str = "single_label_classification", *, padding: Any = 0) -> Any:
    """Return batches of 8 rows of 4 to 12 tokens, with `padding` more positions."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 13, (rows,), generator=generator)
    mask = (torch.arange(12 + padding) < lengths[:, None]).long()
    ids = torch.nn.functional.pad(torch.randint(5, 40, (rows, 12), generator=generator), (0, padding)) * mask
    labels = torch.arange(rows) % 3
    if problem_type == "multi_label_classification":
        labels = torch.nn.functional.one_hot(labels, 3).float()
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "row": torch.arange(rows)}
    return [{name: value[part : part + 8] for name, value in batch.items()} for part in range(0, rows, 8)]
