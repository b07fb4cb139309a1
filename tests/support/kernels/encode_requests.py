"""Requests for `kernels/csrc/tests/encode`, and the comparison of what two instruction sets answered.

`python -m tests.support.kernels.encode_requests write FOLDER` writes blobs, inputs and the list `requests`. `compare
FOLDER FIRST SECOND` prints the largest difference between two files of answers, per layout and value type.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sparserve.kernels.packing import PackOptions, Values, pack_encoder
from tests.support.kernels.blob_seeds import LAYOUTS, tiny_encoder
from tests.support.kernels.reference import random_mask

ENCODERS: tuple[Any, ...] = (
    {"hidden": 36, "head_size": 12, "layers": 2, "widths": (36, 24), "intermediates": (400, 52)},
    {"hidden": 35, "head_size": 7, "widths": (35,), "intermediates": (30,), "activation": "gelu_tanh"},
    {"hidden": 4, "head_size": 4, "widths": (4,), "intermediates": (3,), "activation": "relu"},
)
SHAPES = [(1, length) for length in (1, 3, 16, 17, 33, 49, 64, 65, 129, 300)]
SHAPES += [(3, 20), (5, 37), (20, 9), (40, 5), (70, 6), (2, 270)]
VALUES: tuple[Values, ...] = ("fp32", "int8")


def cases() -> Iterator[tuple[str, str, int, int, int, int]]:
    """One request: kind, blob file, hidden size, batch, length, first token only."""
    for encoder, layout, values in product(ENCODERS, LAYOUTS, VALUES):
        if layout == "1x4" and encoder["hidden"] % 4:
            continue
        kind = f"{layout}-{values}"
        for (batch, length), first in product(SHAPES, (0, 1)):
            yield kind, f"{encoder['hidden']}-{kind}.blob", encoder["hidden"], batch, length, first


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(7)
    for encoder, (layout, (_, thresholds)), values in product(ENCODERS, LAYOUTS.items(), VALUES):
        blob = pack_encoder(tiny_encoder(layout, **encoder), PackOptions(values, **thresholds))
        (folder / f"{encoder['hidden']}-{layout}-{values}.blob").write_bytes(blob)
    for encoder, (batch, length) in product(ENCODERS, SHAPES):
        states = 2 * generator.standard_normal((batch, length, encoder["hidden"])).astype(np.float32)
        (folder / f"states-{encoder['hidden']}-{batch}-{length}").write_bytes(states.tobytes())
    for batch, length in SHAPES:
        (folder / f"mask-{batch}-{length}").write_bytes(random_mask(generator, batch, length).tobytes())
    lines = [
        f"{blob} states-{hidden}-{batch}-{length} mask-{batch}-{length} {batch} {length} 3 {first} 1 1 -"
        for _, blob, hidden, batch, length, first in cases()
    ]
    (folder / "requests").write_text("\n".join(lines) + "\n")


def compare(first_file: Path, second_file: Path) -> None:
    ours, theirs = (np.fromfile(path, np.float32) for path in (first_file, second_file))
    at = 0
    worst: dict[str, float] = {}
    equal: dict[str, list[bool]] = {}
    for kind, _, hidden, batch, length, first in cases():
        size = batch * hidden * (1 if first else length)
        a, b = ours[at : at + size], theirs[at : at + size]
        at += size
        difference = float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
        worst[kind] = max(worst.get(kind, 0.0), difference)
        equal.setdefault(kind, []).append(np.array_equal(a, b))
    if not at == len(ours) == len(theirs):
        raise SystemExit(f"{at} numbers are expected, not {len(ours)} and {len(theirs)}")
    for kind, difference in worst.items():
        print(f"{kind:18} largest difference {difference:.1e} of the largest answer; "
              f"{sum(equal[kind])} of {len(equal[kind])} requests equal bit for bit")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("write", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("answers", type=Path, nargs="*")
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.folder)
    elif len(arguments.answers) == 2:
        compare(*arguments.answers)
    else:
        parser.error("compare takes two files of answers")


if __name__ == "__main__":
    main()
