"""Random sparse classifiers of every architecture, and their exported graphs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.encoders.checkpoint import load_classifier
from sparserve.models.export.onnx_export import export_onnx

LABELS = ("negative", "neutral", "positive")
# CamemBERT and XLM-RoBERTa are RoBERTa to the last parameter name. GTE and Jina v3 have the layers of Nomic BERT, with
# biases and without gates.
ENCODERS = ("bert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "nomic_bert", "roberta")
# In the fast run, one: to trace a network takes ten seconds.
TRACED = tuple(name if name == "bert" else pytest.param(name, marks=pytest.mark.slow) for name in ENCODERS)
TYPED = ("bert", "electra", "nomic_bert")


@dataclass(frozen=True)
class Exported:
    """A random classifier with 80 % zeros in its encoder, and its graph."""

    model: Any
    path: Path
    difference: float  # largest difference of a logit between the two


def classifier(folder: Path) -> Any:
    """Load a random checkpoint as a classifier of three labels."""
    return load_classifier(folder, LABELS, "single_label_classification", attention="eager").eval()


def export(model: Any, path: Path, **changes: Any) -> float:
    """Write the model's graph and return the largest difference of a logit from torch's."""
    typed = ("token_type_ids",) if model.config.model_type in TYPED else ()
    options: dict[str, Any] = {
        "input_names": ("input_ids", *typed, "attention_mask"),
        "max_length": 64,
        "vocabulary": model.config.vocab_size,
        "pad_token_id": model.config.pad_token_id,
        "opset": 20,
        "tolerance": 1e-4,
    }
    return export_onnx(model, path, **{**options, **changes})
