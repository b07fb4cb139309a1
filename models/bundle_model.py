"""A bundle's network in torch: what training, analysis or another export goes on from."""

from pathlib import Path

from torch import nn

from models.bundle import open_bundle
from models.checkpoint import load_classifier, resolve_checkpoint
from models.errors import CheckpointError

CHECKPOINT = "checkpoint"


def load_bundle_model(bundle_folder: Path) -> nn.Module:
    """The classifier of a bundle whose every file was verified, squeezed or not, in eval mode; nothing is unpickled.

    Its label names and problem type are the manifest's.

    Raises:
        BundleError: the folder is no bundle, or was changed.
        CheckpointError: the bundle has no checkpoint (int8 variants have none), or one that does not fit its manifest.
    """
    manifest = open_bundle(bundle_folder).manifest
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
    return load_classifier(folder, manifest.labels, manifest.problem_type).eval()
