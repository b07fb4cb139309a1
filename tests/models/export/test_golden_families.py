"""Exported families later than BERT answer texts as `transformers.pipeline` does with the same network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, pipeline

from sparserve.kernels.library import Library
from sparserve.models.bundle.bundle import TOKENIZER
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.bundle.text_tokenizer import TextTokenizer
from sparserve.models.export.sparse_graph import write_sparse_graph
from tests.support.models.exporting import Exported

MAX_LENGTH = 64
TEXTS = ["a good movie", "THE AWFUL PLOT!!!", "a", "na\u00efve \u2014 \u00bd", "word " * 100]
PAIRS = ["the plot", "?", "dull " * 50, "long", "very " * 30]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["deberta-v2", "modernbert", "nomic_bert"])
def test_exported_families_answer_as_the_pipeline(
    model_type: str,
    exported_encoder: Callable[[str], Exported],
    make_checkpoint: Callable[..., Path],
    sparse_runtime: Library,
    tmp_path: Path,
) -> None:
    folder, exported = make_checkpoint(model_type), exported_encoder(model_type)
    pad_token_id = exported.model.config.pad_token_id
    sparse = tmp_path / "model.sparse.onnx"
    write_sparse_graph(exported.path, sparse, config=exported.model.config, values="fp32", embeddings_int8=False)
    reference = pipeline(
        "text-classification", model=exported.model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu"
    )
    inputs = [*TEXTS, *({"text": text, "text_pair": pair} for text, pair in zip(TEXTS, PAIRS, strict=True))]
    options = {"top_k": None, "function_to_apply": "none", "truncation": True, "max_length": MAX_LENGTH}
    expected = [{answer["label"]: answer["score"] for answer in reference(text, **options)} for text in inputs]
    labels = exported.model.config.id2label
    logits = np.array([[answer[labels[index]] for index in range(len(labels))] for answer in expected])
    tokenizer = TextTokenizer(folder / TOKENIZER, MAX_LENGTH)
    tokens = [*tokenizer.encode(TEXTS, None), *tokenizer.encode(TEXTS, PAIRS)]
    for path, library in ((exported.path, None), (sparse, sparse_runtime.path)):
        classifier = OnnxClassifier(path, pad_token_id=pad_token_id, threads=1, library=library)
        assert np.abs(classifier.logits(tokens) - logits).max() < 1e-4 * np.abs(logits).max()
