"""A bundle's network in torch: what training, analysis or another export goes on from."""

from pathlib import Path

import onnx
import torch
from transformers import PreTrainedModel

from sparserve.models.bundle.bundle import open_bundle
from sparserve.models.encoders.checkpoint import load_classifier, resolve_checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.export.token_table import restored_table

CHECKPOINT = "checkpoint"


def load_bundle_model(bundle_folder: Path) -> PreTrainedModel:
    """The classifier of a bundle whose every file was verified, squeezed or not, in eval mode; nothing is unpickled.

    Its label names and problem type are the manifest's. Where the bundle's graph has fewer token embeddings or such of
    a lower rank, the network's are these, with the whole vocabulary: it answers as the graph does.

    Raises:
        BundleError: the folder is no bundle, or was changed.
        CheckpointError: the bundle has no checkpoint (int8 variants have none), or one that does not fit its manifest.
    """
    bundle = open_bundle(bundle_folder)
    manifest = bundle.manifest
    folder = bundle_folder / CHECKPOINT
    if not folder.is_dir():
        raise CheckpointError(
            f"{bundle_folder} holds no {CHECKPOINT}: its variant is {manifest.variant!r}; take the fp32 variant"
        )
    checkpoint = resolve_checkpoint(str(folder))
    if len(checkpoint.label_names) != len(manifest.labels):
        raise CheckpointError(
            f"{folder} predicts {len(checkpoint.label_names)} labels, its manifest has {len(manifest.labels)}: "
            "publish the bundle again"
        )
    model = load_classifier(folder, manifest.labels, manifest.problem_type).eval()
    assert isinstance(model, PreTrainedModel)
    if manifest.token_table is not None:
        table = torch.tensor(restored_table(onnx.load(str(bundle.model_path)).graph))
        with torch.no_grad():
            model.get_input_embeddings().weight.copy_(table)
    return model
