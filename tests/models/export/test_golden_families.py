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


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_type", ["deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "nomic_bert", "roberta"]
)
def test_exported_families_answer_as_the_pipeline(
    model_type: str,
    exported_encoder: Callable[[str], Exported],
    make_checkpoint: Callable[..., Path],
    sparse_runtime: Library,
    tmp_path: Path,
) -> None:
    exported = exported_encoder(model_type)
    _assert_golden(exported.model, exported.path, make_checkpoint(model_type), sparse_runtime, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["camembert", "xlm-roberta"])
def test_families_with_the_parameters_of_roberta_have_its_graph(
    model_type: str,
    exported_encoder: Callable[[str], Exported],
    make_checkpoint: Callable[..., Path],
    sparse_runtime: Library,
    tmp_path: Path,
) -> None:
    exported = exported_encoder("roberta")
    fields = exported.model.config.to_dict()
    del fields["model_type"]
    model: Any = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **fields)).eval()
    model.load_state_dict(exported.model.state_dict())
    _assert_golden(model, exported.path, make_checkpoint("roberta"), sparse_runtime, tmp_path)


def _assert_golden(model: Any, graph: Path, folder: Path, runtime: Library, tmp_path: Path) -> None:
    sparse = tmp_path / "model.sparse.onnx"
    write_sparse_graph(graph, sparse, config=model.config, values="fp32", embeddings_int8=False)
    assert_answers_as_pipeline(model, {graph: None, sparse: runtime.path}, folder)
