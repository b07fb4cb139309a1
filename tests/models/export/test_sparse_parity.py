"""The parity check refuses networks with familiar parameters that compute something else."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sparserve.kernels.library import Library
from sparserve.models.bundle.bundle import SPARSE_MODEL
from sparserve.models.data.dataset import Split
from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.export.sparse_graph import write_sparse_graph
from sparserve.models.export.sparse_parity import check_packed
from sparserve.models.pipeline.stages.pack import NOT_PACKED, PACKED, pack_checkpoint
from sparserve.models.recipes.schema import Quantization
from tests.support.models.exporting import TRACED, Exported


def check(path: Path, model: Any, library: Library) -> None:
    config = model.config
    pack = partial(
        write_sparse_graph,
        path,
        config=config,
        values="fp32",
        embeddings_int8=False,
    )
    check_packed(
        path,
        pack,
        library=library.path,
        vocabulary=config.vocab_size,
        pad_token_id=config.pad_token_id,
        max_length=48,
    )


@pytest.mark.parametrize("model_type", TRACED)
def test_check_packed_passes_every_encoder_and_leaves_no_files(
    sparse_runtime: Library, exported_encoder: Callable[[str], Exported], model_type: str
) -> None:
    encoder = exported_encoder(model_type)
    before = sorted(encoder.path.parent.iterdir())
    check(encoder.path, encoder.model, sparse_runtime)
    assert sorted(encoder.path.parent.iterdir()) == before


@pytest.mark.slow
def test_check_packed_refuses_causal_attention(
    sparse_runtime: Library, changed_bert: Callable[..., tuple[Path, Any]]
) -> None:
    path, model = changed_bert(is_decoder=True)
    with pytest.raises(CheckpointError, match=r"logits differ by .* operation that the runtime does not support"):
        check(path, model, sparse_runtime)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, Quantization()])
def test_pack_checkpoint_keeps_the_reason_against_packing(
    make_checkpoint: Callable[..., Path],
    changed_bert: Callable[..., tuple[Path, Any]],
    tmp_path: Path,
    quantization: Quantization | None,
) -> None:
    path, model = changed_bert(hidden_act="relu2")
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    for file in make_checkpoint("bert").glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    pack_checkpoint(
        tmp_path,
        path,
        checkpoint=resolve_checkpoint(str(folder)),
        quantization=quantization,
        packing=None,
        validation=Split((), None, ()),
        max_length=48,
        library=None,  # the reason does not depend on it
    )
    assert "activation" in (tmp_path / NOT_PACKED).read_text()
    assert not (tmp_path / SPARSE_MODEL).exists()
    assert not (tmp_path / PACKED).exists()
