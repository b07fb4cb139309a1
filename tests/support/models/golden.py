"""Texts, and the logits that `transformers.pipeline` has for them, which exported graphs must have too."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, pipeline

from sparserve.models.bundle.bundle import TOKENIZER
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.bundle.text_tokenizer import TextTokenizer

MAX_LENGTH = 64
TEXTS = [
    "a good movie",
    "THE AWFUL PLOT!!!",
    "a",
    "na\u00efve \u2014 \u00bd \U0001f600\U0001f3ac",
    "nul \x00 inside",
    "\u200b\u202e zero width and right to left override",
    "\u0647\u0630\u0627 \u0641\u064a\u0644\u0645",
    " ",
    "word " * 100,
]
PAIRS = ["the plot", "?", "dull " * 50, "\x00", "long", "\U0001f600", "very " * 30, "\u202e", "bad"]


def assert_answers_as_pipeline(model: Any, graphs: dict[Path, Path | None], folder: Path) -> None:
    """Check the logits of graphs against the pipeline's with the same network and the tokenizer in a folder.

    A graph that needs the sparse runtime has its library.
    """
    reference = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    inputs = [*TEXTS, *({"text": text, "text_pair": pair} for text, pair in zip(TEXTS, PAIRS, strict=True))]
    options = {"top_k": None, "function_to_apply": "none", "truncation": True, "max_length": MAX_LENGTH}
    expected = [{answer["label"]: answer["score"] for answer in reference(text, **options)} for text in inputs]
    labels = model.config.id2label
    logits = np.array([[answer[labels[index]] for index in range(len(labels))] for answer in expected])
    tokenizer = TextTokenizer(folder / TOKENIZER, MAX_LENGTH)
    tokens = [*tokenizer.encode(TEXTS, None), *tokenizer.encode(TEXTS, PAIRS)]
    for path, library in graphs.items():
        classifier = OnnxClassifier(path, pad_token_id=model.config.pad_token_id, threads=1, library=library)
        assert np.abs(classifier.logits(tokens) - logits).max() < 1e-4 * np.abs(logits).max()
