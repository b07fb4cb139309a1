"""Exported families answer texts as `transformers.pipeline` does with the same network.

`test_sparse_families` has GTE, Jina v3 and ModernBERT with the mean of all tokens, `test_golden` BERT with the service.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparserve.kernels.library import Library
from sparserve.models.export.sparse_graph import write_sparse_graph
from tests.support.models.exporting import Exported
from tests.support.models.golden import assert_answers_as_pipeline

# Families with RoBERTa's parameters have its graph, which is traced once.
OF_ROBERTA = ("camembert", "xlm-roberta")


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_type", ["deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "nomic_bert", "roberta", *OF_ROBERTA]
)
def test_exported_families_answer_as_the_pipeline(
    model_type: str,
    exported_encoder: Callable[[str], Exported],
    make_checkpoint: Callable[..., Path],
    sparse_runtime: Library,
    tmp_path: Path,
) -> None:
    traced = "roberta" if model_type in OF_ROBERTA else model_type
    exported = exported_encoder(traced)
    model: Any = exported.model
    if model_type != traced:
        fields = {name: value for name, value in model.config.to_dict().items() if name != "model_type"}
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **fields)).eval()
        model.load_state_dict(exported.model.state_dict())
    sparse = tmp_path / "model.sparse.onnx"
    write_sparse_graph(exported.path, sparse, config=model.config, values="fp32", embeddings_int8=False)
    assert_answers_as_pipeline(model, {exported.path: None, sparse: sparse_runtime.path}, make_checkpoint(traced))
