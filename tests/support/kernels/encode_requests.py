"""Requests for `kernels/csrc/tests/encode`, and the comparison of what two instruction sets answered.

`python -m tests.support.kernels.encode_requests write FOLDER` writes blobs, inputs and the list `requests`. `compare
FOLDER FIRST SECOND` prints the largest difference between two files of answers, per layout and value type.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sparserve.kernels.packing import PackOptions, Values, pack_encoder
from sparserve.kernels.weights import EncoderWeights
from tests.support.kernels.blob_seeds import LAYOUTS, tiny_encoder
from tests.support.kernels.reference import modern_encoder, random_mask, relative_encoder

ENCODERS: tuple[Any, ...] = (
    {"hidden": 36, "head_size": 12, "layers": 2, "widths": (36, 24), "intermediates": (400, 52)},
    {"hidden": 35, "head_size": 7, "widths": (35,), "intermediates": (30,), "activation": "gelu_tanh"},
    {"hidden": 4, "head_size": 4, "widths": (4,), "intermediates": (3,), "activation": "relu"},
)
SHAPES = [(1, length) for length in (1, 3, 16, 17, 33, 49, 64, 65, 129, 300)]
SHAPES += [(3, 20), (5, 37), (20, 9), (40, 5), (70, 6), (2, 270)]
POSITIONS = max(length for _, length in SHAPES)
VALUES: tuple[Values, ...] = ("fp32", "int8")


@dataclass(frozen=True)
class Request:
    """One line of the list: a blob, the shape of its input, and the operator's attributes."""

    kind: str
    hidden: int
    batch: int
    length: int
    first_token_only: int
    int8_attention: int

    @property
    def blob(self) -> str:
        """The blob's file."""
        return f"{self.hidden}-{self.kind}.blob"

    @property
    def name(self) -> str:
        """The kind and the arithmetic of attention."""
        return f"{self.kind}, bytes" if self.int8_attention else self.kind


def encoders() -> Iterator[tuple[str, EncoderWeights, PackOptions]]:
    """Yield the kinds of blobs: every layout in float32 and int8, and those that version 2 of the format describes."""
    for options, (layout, (_, thresholds)), values in product(ENCODERS, LAYOUTS.items(), VALUES):
        if layout != "1x4" or options["hidden"] % 4 == 0:
            yield f"{layout}-{values}", tiny_encoder(layout, **options), PackOptions(values, **thresholds)
    for values in VALUES:
        modern = modern_encoder(**ENCODERS[0], bands=(None, 20), positions=POSITIONS)
        yield f"modern-{values}", modern, PackOptions(values)
        yield f"relative-{values}", relative_encoder(**ENCODERS[0], positions=POSITIONS), PackOptions(values)


def requests() -> Iterator[Request]:
    """Yield all requests; heads of a multiple of four features are asked for attention in bytes too."""
    for kind, encoder, _ in encoders():
        attentions = (0, 1) if encoder.head_size % 4 == 0 else (0,)
        for (batch, length), first, attention in product(SHAPES, (0, 1), attentions):
            yield Request(kind, encoder.hidden, batch, length, first, attention)


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(7)
    for kind, encoder, options in encoders():
        (folder / f"{encoder.hidden}-{kind}.blob").write_bytes(pack_encoder(encoder, options))
    for encoder_options, (batch, length) in product(ENCODERS, SHAPES):
        hidden = encoder_options["hidden"]
        states = 2 * generator.standard_normal((batch, length, hidden)).astype(np.float32)
        (folder / f"states-{hidden}-{batch}-{length}").write_bytes(states.tobytes())
    for batch, length in SHAPES:
        (folder / f"mask-{batch}-{length}").write_bytes(random_mask(generator, batch, length).tobytes())
    lines = [
        f"{r.blob} states-{r.hidden}-{r.batch}-{r.length} mask-{r.batch}-{r.length} {r.batch} {r.length} 3 "
        f"{r.first_token_only} {r.int8_attention} 1 1 -"
        for r in requests()
    ]
    (folder / "requests").write_text("\n".join(lines) + "\n")


def compare(first_file: Path, second_file: Path) -> None:
    ours, theirs = (np.fromfile(path, np.float32) for path in (first_file, second_file))
    at = 0
    worst: dict[str, float] = {}
    equal: dict[str, list[bool]] = {}
    for request in requests():
        size = request.batch * request.hidden * (1 if request.first_token_only else request.length)
        a, b = ours[at : at + size], theirs[at : at + size]
        at += size
        difference = float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
        worst[request.name] = max(worst.get(request.name, 0.0), difference)
        equal.setdefault(request.name, []).append(np.array_equal(a, b))
    if not at == len(ours) == len(theirs):
        raise SystemExit(f"{at} numbers are expected, not {len(ours)} and {len(theirs)}")
    for kind, difference in worst.items():
        print(f"{kind:24} largest difference {difference:.1e} of the largest answer; "
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
