"""The classifier of every peer: this project's tokenizer, session options, graph and softmax.

The environment of a peer needs the peer, onnxruntime, tokenizers, numpy and pydantic, but not the service.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sparserve.models.bundle.bundle import open_bundle
from sparserve.models.bundle.inference import load_bundle, probabilities

# For every peer with such settings: at most 32 texts per batch, 5 ms to fill a batch.
MAX_BATCH: Final = 32
WINDOW_SECONDS: Final = 0.005

Scores = list[dict[str, float]]


@dataclass(frozen=True)
class Options:
    """Bundle, port and limits. `timeout` in seconds is the request timeout, for peers that support one."""

    bundle: str
    port: int
    threads: int
    timeout: float

    @classmethod
    def of_command_line(cls) -> Self:
        """Parse the command line and store the options in the environment for processes that the peer starts."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--bundle", required=True)
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--timeout", type=float, default=1.0)
        arguments = parser.parse_args()
        for name, value in vars(arguments).items():
            os.environ[f"SERVING_{name.upper()}"] = str(value)
        return cls.of_environment()

    @classmethod
    def of_environment(cls) -> Self:
        """Read the options that a parent process stored."""
        values = {name: os.environ[f"SERVING_{name.upper()}"] for name in ("bundle", "port", "threads", "timeout")}
        return cls(values["bundle"], int(values["port"]), int(values["threads"]), float(values["timeout"]))


class Classifier:
    """The model.onnx of a bundle as a function from texts to scores by label, warmed up."""

    def __init__(self, options: Options) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(options.threads))
        self._loaded = load_bundle(open_bundle(Path(options.bundle), verify=False), threads=options.threads)
        self(["warm up"])

    def __call__(self, texts: Sequence[str]) -> Scores:
        """Return the scores of each text, computed in one batch padded to the longest text."""
        manifest = self._loaded.bundle.manifest
        logits = self._loaded.classifier.logits(self._loaded.tokenizer.encode(texts))
        rows = probabilities(logits, manifest.problem_type).tolist()
        return [dict(zip(manifest.labels, row, strict=True)) for row in rows]
