"""Variants and the runtimes that run them, as values: the one place that formats and parses their names."""

from dataclasses import dataclass
from typing import Final, Literal, Self

Precision = Literal["fp32", "int8"]
Runtime = Literal["onnx", "sparse"]

DENSE: Final = "dense"
"""The name of the baseline: the fine-tuned network as it is."""
_INT8: Final = "-int8"
_IN_SPARSE_RUNTIME: Final = " in the sparse runtime"


@dataclass(frozen=True)
class Variant:
    """A network in one precision; written `best95`, or `best95-int8` for its quantised twin."""

    name: str
    """The network's name, the same for both precisions."""
    precision: Precision = "fp32"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the variant that is written so."""
        name = text.removesuffix(_INT8)
        return cls(name, "fp32" if name == text else "int8")

    @property
    def is_dense(self) -> bool:
        """True for the baseline in either precision."""
        return self.name == DENSE

    @property
    def is_int8(self) -> bool:
        """True for the quantised twin."""
        return self.precision == "int8"

    def __str__(self) -> str:
        return self.name + (_INT8 if self.is_int8 else "")


@dataclass(frozen=True)
class Arm:
    """A variant in the runtime that runs it: one side of a comparison."""

    variant: Variant
    runtime: Runtime = "onnx"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the arm that is written so."""
        variant = text.removesuffix(_IN_SPARSE_RUNTIME)
        return cls(Variant.parse(variant), "onnx" if variant == text else "sparse")

    def __str__(self) -> str:
        return str(self.variant) + (_IN_SPARSE_RUNTIME if self.runtime == "sparse" else "")
