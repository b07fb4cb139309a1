"""Small blobs of every kind: seeds of the fuzzer and of the tests of hostile blobs.

`python -m tests.support.kernels.blob_seeds FOLDER` writes them.
`--mend FOLDER` gives all blobs in a folder the right size and checksum, as the fuzzer does before it reads one.
"""

import argparse
import hashlib
import zlib
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sparserve.kernels.packed_format import CHECKSUMMED_FROM, HEADER
from sparserve.kernels.packing import PackOptions, Values, pack_encoder, pack_linear
from sparserve.kernels.weights import EncoderWeights
from tests.support.kernels.reference import modern_encoder, random_encoder, random_linear, relative_encoder

LAYOUTS: dict[str, Any] = {
    "dense": ({"density": 1.0}, {"dense_above": 0.6}),
    "unstructured": ({"density": 0.3}, {"dense_above": None, "block_fill": None}),
    "1x4": ({"density": 0.3, "blocks": True}, {"dense_above": None, "block_fill": 0.9}),
}
LINEARS = ((6, 8), (1, 1), (3, 1000), (40, 20), (7, 300))
VALUES: tuple[Values, ...] = ("fp32", "int8")


def mended(blob: bytes) -> bytes:
    """Return the blob with the right size and checksum."""
    fields = list(HEADER.unpack_from(blob))
    fields[3], fields[4] = len(blob), zlib.crc32(blob[CHECKSUMMED_FROM:])
    return HEADER.pack(*fields)[:CHECKSUMMED_FROM] + blob[CHECKSUMMED_FROM:]


def tiny_encoder(layout: str = "unstructured", **options: Any) -> EncoderWeights:
    weights, _ = LAYOUTS[layout]
    shapes = {"layers": 1, "hidden": 8, "head_size": 4, "widths": (8,), "intermediates": (12,)}
    density = {"densities": (weights["density"],), "blocks": weights.get("blocks", False)}
    return random_encoder(**{**shapes, **density, **options})


def tiny_modern_encoder(**options: Any) -> EncoderWeights:
    shapes = {"layers": 2, "hidden": 8, "head_size": 4, "widths": (8, 4), "intermediates": (12,), "densities": (0.3,)}
    return modern_encoder(**{**shapes, "bands": (None, 1), "positions": 40, **options})


def tiny_relative_encoder() -> EncoderWeights:
    shapes = {"layers": 1, "hidden": 8, "head_size": 4, "widths": (8,), "intermediates": (12,), "densities": (0.3,)}
    return relative_encoder(buckets=2, positions=6, **shapes)


def uneven_encoder(layout: str) -> EncoderWeights:
    shapes = {"layers": 2, "hidden": 5, "widths": (4, 8), "intermediates": (7, 4)}
    return tiny_encoder(layout, **shapes, activation="gelu_tanh", bias=False)


def rounded_to_half(encoder: EncoderWeights) -> EncoderWeights:
    layers = []
    for layer in encoder.layers:
        weight = layer.query.weight.astype(np.float16).astype(np.float32)
        layers.append(replace(layer, query=replace(layer.query, weight=weight)))
    return replace(encoder, layers=tuple(layers))


@cache
def seeds() -> dict[str, bytes]:
    """Return the blobs by name."""
    blobs = {}
    for (layout, (weights, thresholds)), values in product(LAYOUTS.items(), VALUES):
        options = PackOptions(values, **thresholds)
        blobs[f"encoder-{layout}-{values}"] = pack_encoder(tiny_encoder(layout), options)
        blobs[f"encoder-uneven-{layout}-{values}"] = pack_encoder(uneven_encoder(layout), options)
        for rows, columns in LINEARS:
            linear = random_linear(np.random.default_rng(rows), rows, columns, **weights)
            blobs[f"linear-{rows}x{columns}-{layout}-{values}"] = pack_linear(linear, options)
    blobs["encoder-half"] = pack_encoder(rounded_to_half(tiny_encoder(activation="relu")))
    blobs["encoder-bitmap"] = pack_encoder(tiny_encoder(densities=(0.4,), hidden=12, activation="none"))
    blobs["encoder-gaps"] = pack_encoder(tiny_encoder(densities=(0.05,), hidden=24, head_size=1))
    for values in VALUES:
        blobs[f"encoder-modern-{values}"] = pack_encoder(tiny_modern_encoder(), PackOptions(values))
        blobs[f"encoder-relative-{values}"] = pack_encoder(tiny_relative_encoder(), PackOptions(values))
    blobs["linear-empty"] = pack_linear(random_linear(np.random.default_rng(0), 5, 9, 0.0, bias=False))
    return blobs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mend", action="store_true")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if not arguments.mend:
        for name, blob in seeds().items():
            (arguments.folder / name).write_bytes(blob)
        return
    for path in list(arguments.folder.iterdir()):
        blob = path.read_bytes()
        path.unlink()
        if len(blob) >= HEADER.size:
            blob = mended(blob)
        (arguments.folder / hashlib.sha256(blob).hexdigest()[:16]).write_bytes(blob)


if __name__ == "__main__":
    main()
