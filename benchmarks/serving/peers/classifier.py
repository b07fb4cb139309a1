"""What every peer serves: this project's tokenizer, session options, graph and softmax, so that servers are compared.

Peers' environments need onnxruntime, tokenizers, numpy and pydantic besides the peer, and nothing of the service.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sparserve.models.bundle.bundle import open_bundle
from sparserve.models.bundle.inference import load_bundle, probabilities

# The same for every peer that has the setting: a batch of 32 texts at most, 5 ms to fill it.
MAX_BATCH: Final = 32
WINDOW_SECONDS: Final = 0.005

Scores = list[dict[str, float]]


@dataclass(frozen=True)
class Options:
    """What to serve where; `timeout`, in seconds, is how long a request may take if the peer can be told so."""

    bundle: str
    port: int
    threads: int
    timeout: float

    @classmethod
    def of_command_line(cls) -> Self:
        """Read them, and leave them in the environment for processes that the peer starts itself."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--bundle", required=True)
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--timeout", type=float, default=1.0)
        found = parser.parse_args()
        for name, value in vars(found).items():
            os.environ[f"SERVING_{name.upper()}"] = str(value)
        return cls.of_environment()

    @classmethod
    def of_environment(cls) -> Self:
        """As another process read them."""
        given = {name: os.environ[f"SERVING_{name.upper()}"] for name in ("bundle", "port", "threads", "timeout")}
        return cls(given["bundle"], int(given["port"]), int(given["threads"]), float(given["timeout"]))


class Classifier:
    """A bundle's model.onnx as a function from texts to scores by label; it has answered once."""

    def __init__(self, options: Options) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(options.threads))
        self._loaded = load_bundle(open_bundle(Path(options.bundle), verify=False), threads=options.threads)
        self(["warm up"])

    def __call__(self, texts: Sequence[str]) -> Scores:
        """Scores of each text, all in one batch that is padded to its longest."""
        manifest = self._loaded.bundle.manifest
        logits = self._loaded.classifier.logits(self._loaded.tokenizer.encode(texts))
        rows = probabilities(logits, manifest.problem_type).tolist()
        return [dict(zip(manifest.labels, row, strict=True)) for row in rows]
