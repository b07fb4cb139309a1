"""Schema of the report: one row per variant, with the figures of the manifests and their ratios."""

from collections.abc import Iterable
from typing import Any, Final, Literal, Self

from pydantic import Field

from sparserve.models.bundle.manifest import (
    BiggerTeacher,
    Calibration,
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
    RankingFigures,
    Record,
    ScoreEvaluation,
    Seconds,
    Sizes,
    Sparsity,
    TeacherTraining,
    TokenTable,
    TrainingSettings,
    Version,
)
from sparserve.models.bundle.variants import DENSE

REPORT_SCHEMA_VERSION: Final = 1
PREFERRED_CELL: Final = (1, 64)
PRUNED_FROM: Final = 0.25


class Zeros(Record):
    """Counts of a group of parameters and the fraction that is zero."""

    parameters: Count
    nonzero: Count
    sparsity: Fraction

    @classmethod
    def of(cls, density: Density) -> Self:
        """Return the counts with the fraction added for readers of the JSON."""
        return cls(parameters=density.parameters, nonzero=density.nonzero, sparsity=round(density.sparsity, 6))


class EncoderKept(Record):
    """The linear layers of an encoder as fractions of dense's: nonzero weights, stored weights and matrices."""

    weights: float = Field(ge=0, description="nonzero weights")
    parameters: float = Field(ge=0, description="stored weights, zeros included")
    matrices: float = Field(ge=0)

    @classmethod
    def of(cls, sparsity: Sparsity, dense: Sparsity) -> Self | None:
        """Compare an encoder with dense's. Return None if dense has no known encoder weights."""
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
        """True if whole heads, units, hidden dimensions or layers are removed."""
        return self.parameters < 1

    @property
    def matrices_are(self) -> str:
        """Difference of a smaller encoder's matrices from dense's: `fewer`, `smaller` or `fewer and smaller`."""
        if self.matrices >= 1:
            return "smaller"
        return "fewer" if self.parameters >= self.matrices else "fewer and smaller"


def token_bits(sparsity: Sparsity) -> int | None:
    """Return the bits per entry of the token table (the narrowest table), or None without a table."""
    return min((tensor.bits for tensor in sparsity.tensors if tensor.group == "embedding"), default=None)


class Matrix(Record):
    """One matrix of the encoder."""

    layer: Count
    matrix: str = Field(description="name of the parameter inside its layer")
    parameters: Count
    nonzero: Count
    sparsity: Fraction


class Speed(Record):
    """One cell of the latency grid. Speed-ups are ratios of medians measured interleaved in one process."""

    batch: Count
    length: Count
    p50_seconds: Seconds
    p95_seconds: Seconds
    items_per_second: float
    speedup: float = Field(description="speed-up over dense fp32 in ONNX Runtime")
    speedup_int8: float | None = Field(description="speed-up over dense int8 in ONNX Runtime")

    @classmethod
    def of(cls, point: LatencyPoint) -> Self:
        """Return a latency point with its ratios."""
        return cls(
            **point.model_dump(exclude={"dense_p50_seconds", "dense_int8_p50_seconds"}),
            speedup=point.speedup,
            speedup_int8=point.speedup_int8,
        )


class Cost(Record):
    """Running cost of a variant and the machine of the measurement."""

    measured_at: str
    machine: Machine
    threads: Count
    repeats: Count
    resident_bytes: Count
    latency: tuple[Speed, ...]


def point_at(points: Iterable[Speed], cell: tuple[int, int] | None) -> Speed | None:
    """Return the latency of a cell (batch, length), or None if it was not measured."""
    return next((point for point in points if (point.batch, point.length) == cell), None)


class SparseCost(Record):
    """Cost of the same variant in the sparse runtime, and its agreement with model.onnx."""

    isa: str
    bytes: Count = Field(description="size of model.sparse.onnx")
    encoder_bytes: Count = Field(description="size of its packed encoder")
    bytes_ratio: float | None = Field(description="dense's model.onnx divided by these bytes")
    rows: Count
    accuracy: Fraction | None
    same_labels: Fraction = Field(
        description="fraction of test rows with the same prediction as model.onnx; of pairs of rows in the same order "
        "for a model with one score"
    )
    largest_difference: float = Field(description="largest difference of a logit from model.onnx on these rows")
    resident_bytes: Count
    latency: tuple[Speed, ...]
    faster_at: tuple[tuple[Count, Count], ...] = Field(
        description="cells (batch, length) where it is faster than model.onnx"
    )
    preferred: bool = Field(description="true if the service uses it by default, where its library loads")

    def speed(self, cell: tuple[int, int] | None) -> Speed | None:
        """Return the latency of a cell (batch, length), or None if it was not measured."""
        return point_at(self.latency, cell)


class Ratios(Record):
    """Dense's figures divided by those of this variant."""

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
    score_evaluation: ScoreEvaluation | None = Field(None, description="of a model with one score")
    calibration: Calibration | None = Field(None, description="null if no temperature was fitted")
    encoder_linear: Zeros
    encoder_kept: EncoderKept | None = Field(None, description="null without a dense variant")
    all_linear: Zeros
    whole_model: Zeros
    matrices: tuple[Matrix, ...]
    token_table: TokenTable | None = Field(None, description="null if the recipe did not reduce it")
    token_bits: int | None = Field(None, description="bits per entry of the token table")
    sizes: Sizes
    flops: Flops
    cost: Cost | None
    sparse: SparseCost | None = Field(None, description="null if not measured in the sparse runtime")
    ratios: Ratios | None = Field(description="null without a dense variant")
    teacher_training: TeacherTraining | None = Field(None, description="of the dense variant, unless it was given")
    student_training: TrainingSettings | None = Field(None, description="of a student that found its learning rate")
    recipe: dict[str, Any]
    lineage: Lineage

    def speed(self, cell: tuple[int, int] | None) -> Speed | None:
        """Return the latency of a cell (batch, length), or None if it was not measured."""
        return point_at(self.cost.latency if self.cost else (), cell)

    @property
    def ranking(self) -> RankingFigures | None:
        """The figures of a reranker."""
        return self.score_evaluation.ranking if self.score_evaluation else None

    @property
    def same_as_dense(self) -> float | None:
        """Fraction of test rows with the prediction of dense; with one score, of pairs of rows in the same order."""
        if self.score_evaluation:
            return self.score_evaluation.agreement.same_order.value if self.score_evaluation.agreement else None
        agreement = self.evaluation.agreement if self.evaluation else None
        return agreement.agreement.value if agreement else None

    @property
    def served_sparse(self) -> SparseCost | None:
        """The cost in the sparse runtime, if the service uses it by default."""
        return self.sparse if self.sparse and self.sparse.preferred else None

    @property
    def pruned(self) -> bool:
        """True if the encoder has more zeros than rounding produces."""
        return self.encoder_linear.sparsity >= PRUNED_FROM


class Report(Record):
    """Cost and savings of all variants of a task, dense first."""

    schema_version: Literal[1] = REPORT_SCHEMA_VERSION
    task: Name
    created_at: str = Field(description="UTC, ISO 8601")
    default_variant: Name
    labels: tuple[str, ...]
    problem_type: ProblemType
    findings: tuple[str, ...] = Field(description="sentences computed from the figures")
    variants: tuple[VariantReport, ...] = Field(min_length=1)

    @property
    def one_score(self) -> bool:
        """True for a regression or a reranker, which have one score and no labels."""
        return len(self.labels) == 1

    @property
    def bigger_teacher(self) -> BiggerTeacher | None:
        """The bigger teacher of a chain, which taught dense; None if the labels did."""
        return next((row.lineage.bigger_teacher for row in self.variants if row.variant == DENSE), None)

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Every (batch, length) measured for any variant."""
        return sorted({(p.batch, p.length) for row in self.variants if row.cost for p in row.cost.latency})

    @property
    def cell(self) -> tuple[int, int] | None:
        """The cell for summaries: 1 x 64 tokens or the nearest measured cell; None if nothing was measured."""
        batch, length = PREFERRED_CELL
        near = sorted(self.cells, key=lambda c: (abs(c[0] - batch), abs(c[1] - length), c))
        return near[0] if near else None

    @property
    def headline(self) -> VariantReport:
        """The variant of the summary tiles: the default one if it is compressed, else the last."""
        by_name = {row.variant: row for row in self.variants}
        if self.default_variant != DENSE and self.default_variant in by_name:
            return by_name[self.default_variant]
        return self.variants[-1]
