"""The classifier of every peer: this project's tokenizer, session options, graph and softmax.

The runtime "sparse" runs model.sparse.onnx with the library of custom operators, "onnx" runs model.onnx. The
environment of a peer needs the peer, onnxruntime, tokenizers, numpy and pydantic, but not the service.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, get_args

from sparserve.models.bundle.bundle import open_bundle
from sparserve.models.bundle.inference import load_bundle, probabilities
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.models.bundle.variants import Runtime

# For every peer with such settings: at most 32 texts per batch, 5 ms to fill a batch.
MAX_BATCH: Final = 32
WINDOW_SECONDS: Final = 0.005

Scores = list[dict[str, float]]


@dataclass(frozen=True)
class Options:
    """Bundle, runtime, port and limits. `timeout` in seconds is the request timeout, for peers that support one.

    `configuration` is a folder with a config.json, for peers that need one beside the graph. Without `model` a server
    that supports it answers a constant.
    """

    bundle: str
    runtime: Runtime
    port: int
    threads: int
    timeout: float
    configuration: str
    model: bool

    @classmethod
    def of_command_line(cls) -> Self:
        """Parse the command line and store the options in the environment for processes that the peer starts."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--bundle", required=True)
        parser.add_argument("--runtime", choices=get_args(Runtime), default="onnx")
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--timeout", type=float, default=1.0)
        parser.add_argument("--configuration", default="")
        parser.add_argument("--no-model", dest="model", action="store_false")
        arguments = parser.parse_args()
        os.environ["SERVING_OPTIONS"] = json.dumps(vars(arguments))
        return cls.of_environment()

    @classmethod
    def of_environment(cls) -> Self:
        """Read the options that a parent process stored."""
        return cls(**json.loads(os.environ["SERVING_OPTIONS"]))


class Classifier:
    """The graph of a bundle as a function from texts to scores by label, warmed up."""

    def __init__(self, options: Options) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(options.threads))
        bundle = open_bundle(Path(options.bundle), verify=False)
        self._loaded = load_bundle(bundle, threads=options.threads, runtime=options.runtime)
        self(["warm up"])

    def __call__(self, texts: Sequence[str]) -> Scores:
        """Return the scores of each text, computed in one batch padded to the longest text."""
        return self.scores(self.tokens(texts))

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise texts."""
        return self._loaded.tokenizer.encode(texts)

    def scores(self, batch: Sequence[Tokens]) -> Scores:
        """Return the scores of tokenised texts, computed in one batch."""
        manifest = self._loaded.bundle.manifest
        logits = self._loaded.classifier.logits(batch)
        rows = probabilities(logits, manifest.problem_type).tolist()
        return [dict(zip(manifest.labels, row, strict=True)) for row in rows]
