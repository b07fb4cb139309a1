"""The report's schema: one row a variant, figures as the manifests have them, ratios spelled out."""

from collections.abc import Iterable
from typing import Any, Final, Literal, Self

from pydantic import Field

from sparserve.models.bundle.manifest import (
    Count,
    Density,
    Evaluation,
    Flops,
    Fraction,
    LatencyPoint,
    Lineage,
    Machine,
    Name,
    ProblemType,
    Record,
    Seconds,
    Sizes,
    Sparsity,
    TokenTable,
    Version,
)
from sparserve.models.bundle.variants import DENSE

REPORT_SCHEMA_VERSION: Final = 1
PREFERRED_CELL: Final = (1, 64)
PRUNED_FROM: Final = 0.25


class Zeros(Record):
    """A group of parameters: how many, how many not zero, and the fraction that is zero."""

    parameters: Count
    nonzero: Count
    sparsity: Fraction

    @classmethod
    def of(cls, density: Density) -> Self:
        """The same figures with the fraction spelled out for readers of the JSON."""
        return cls(parameters=density.parameters, nonzero=density.nonzero, sparsity=round(density.sparsity, 6))


class EncoderKept(Record):
    """The linears of an encoder as fractions of dense's: what masks left, and what is stored at all."""

    weights: float = Field(ge=0, description="nonzero weights")
    parameters: float = Field(ge=0, description="stored weights, zeros included")
    matrices: float = Field(ge=0)

    @classmethod
    def of(cls, sparsity: Sparsity, dense: Sparsity) -> Self | None:
        """An encoder against dense's; None where dense's has no linear that is known as the encoder's."""
        here, there = sparsity.encoder_linear, dense.encoder_linear
        if not there.nonzero:
            return None
        of_encoder = [[t for t in s.tensors if t.group == "encoder_linear"] for s in (sparsity, dense)]
        return cls(
            weights=here.nonzero / there.nonzero,
            parameters=here.parameters / there.parameters,
            matrices=len(of_encoder[0]) / max(len(of_encoder[1]), 1),
        )

    @property
    def smaller(self) -> bool:
        """Whether weights are gone whole: heads, units, hidden dimensions or layers that nothing stores."""
        return self.parameters < 1

    @property
    def matrices_are(self) -> str:
        """How a smaller encoder's matrices differ from dense's: `fewer`, `smaller` or both."""
        if self.matrices >= 1:
            return "smaller"
        return "fewer" if self.parameters >= self.matrices else "fewer and smaller"


def token_bits(sparsity: Sparsity) -> int | None:
    """Bits of an entry of the token table, which is the model's narrowest table; None if it has no table."""
    return min((tensor.bits for tensor in sparsity.tensors if tensor.group == "embedding"), default=None)


class Matrix(Record):
    """One of the encoder's matrices."""

    layer: Count
    matrix: str = Field(description="the parameter's name inside its layer")
    parameters: Count
    nonzero: Count
    sparsity: Fraction


class Speed(Record):
    """One cell of the latency grid; speed-ups are ratios of medians taken interleaved in one process."""

    batch: Count
    length: Count
    p50_seconds: Seconds
    p95_seconds: Seconds
    items_per_second: float
    speedup: float = Field(description="times faster than ONNX Runtime fp32 dense")
    speedup_int8: float | None = Field(description="times faster than ONNX Runtime int8 dense")

    @classmethod
    def of(cls, point: LatencyPoint) -> Self:
        """A latency point with its ratios."""
        return cls(
            **point.model_dump(exclude={"dense_p50_seconds", "dense_int8_p50_seconds"}),
            speedup=point.speedup,
            speedup_int8=point.speedup_int8,
        )


class Cost(Record):
    """What a variant costs to run, and where that was measured."""

    measured_at: str
    machine: Machine
    threads: Count
    repeats: Count
    resident_bytes: Count
    latency: tuple[Speed, ...]


def point_at(points: Iterable[Speed], cell: tuple[int, int] | None) -> Speed | None:
    """The latency of a cell (batch, length), if it was measured."""
    return next((point for point in points if (point.batch, point.length) == cell), None)


class SparseCost(Record):
    """The same variant in the sparse runtime: what it costs there, and whether it says the same."""

    isa: str
    bytes: Count = Field(description="of model.sparse.onnx")
    encoder_bytes: Count = Field(description="of the packed encoder in it")
    bytes_ratio: float | None = Field(description="how many times less than the dense variant's model.onnx")
    rows: Count
    accuracy: Fraction
    same_labels: Fraction = Field(description="fraction of test rows with the same prediction as model.onnx")
    largest_difference: float = Field(description="of a logit from model.onnx's on those rows")
    resident_bytes: Count
    latency: tuple[Speed, ...]
    faster_at: tuple[tuple[Count, Count], ...] = Field(description="cells where it is faster than model.onnx")
    preferred: bool = Field(description="whether the service picks it by default, where its library loads")

    def speed(self, cell: tuple[int, int] | None) -> Speed | None:
        """The latency of a cell (batch, length), if it was measured."""
        return point_at(self.latency, cell)


class Ratios(Record):
    """How many times less than the dense variant of the same report."""

    bytes: float
    bytes_zipped: float
    flops: float
    resident_bytes: float | None


class VariantReport(Record):
    """One row of the report."""

    variant: Name
    version: Version
    architecture: str
    precision: Literal["fp32", "int8"]
    evaluation: Evaluation | None
    encoder_linear: Zeros
    encoder_kept: EncoderKept | None = Field(None, description="None where there is no dense variant")
    all_linear: Zeros
    whole_model: Zeros
    matrices: tuple[Matrix, ...]
    token_table: TokenTable | None = Field(None, description="None where the recipe left it whole")
    token_bits: int | None = Field(None, description="of an entry of the token table")
    sizes: Sizes
    flops: Flops
    cost: Cost | None
    sparse: SparseCost | None = Field(None, description="None where it was not measured in the sparse runtime")
    ratios: Ratios | None = Field(description="None where there is no dense variant")
    recipe: dict[str, Any]
    lineage: Lineage

    def speed(self, cell: tuple[int, int] | None) -> Speed | None:
        """The latency of a cell (batch, length), if it was measured."""
        return point_at(self.cost.latency if self.cost else (), cell)

    @property
    def served_sparse(self) -> SparseCost | None:
        """The cost in the sparse runtime, if that is what the service picks by default."""
        return self.sparse if self.sparse and self.sparse.preferred else None

    @property
    def pruned(self) -> bool:
        """Whether the encoder has more zeros than rounding makes."""
        return self.encoder_linear.sparsity >= PRUNED_FROM


class Report(Record):
    """What compression cost and what it brought, for all variants of a task; dense first."""

    schema_version: Literal[1] = REPORT_SCHEMA_VERSION
    task: Name
    created_at: str = Field(description="UTC, ISO 8601")
    default_variant: Name
    labels: tuple[str, ...]
    problem_type: ProblemType
    findings: tuple[str, ...] = Field(description="what the figures say, computed from them")
    variants: tuple[VariantReport, ...] = Field(min_length=1)

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Every (batch, length) that was measured for some variant."""
        return sorted({(p.batch, p.length) for row in self.variants if row.cost for p in row.cost.latency})

    @property
    def cell(self) -> tuple[int, int] | None:
        """The cell that summaries show: 1 x 64 tokens, or the nearest that was measured; None if none was."""
        batch, length = PREFERRED_CELL
        near = sorted(self.cells, key=lambda c: (abs(c[0] - batch), abs(c[1] - length), c))
        return near[0] if near else None

    @property
    def headline(self) -> VariantReport:
        """The variant to speak of first: the default one if it is compressed, else the last that is."""
        by_name = {row.variant: row for row in self.variants}
        if self.default_variant != DENSE and self.default_variant in by_name:
            return by_name[self.default_variant]
        return self.variants[-1]
