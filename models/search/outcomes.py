"""The outcome of a trial: the files that its variants can be served from, each with its cost and accuracy."""

from pydantic import Field

from sparserve.models.bundle.manifest import Count, Fraction, LatencyPoint, Name, Record, Version
from sparserve.models.bundle.variants import Arm, Precision, Runtime, Variant


class Serving(Record):
    """One file of a variant, in the runtime that it is made for."""

    variant: Name
    version: Version = Field(description="of the bundle with the file; other searches may publish the same variant")
    precision: Precision
    runtime: Runtime
    preferred: bool = Field(description="true if the service picks this file of the variant by default")
    bytes: Count = Field(description="of the file")
    latency: tuple[LatencyPoint, ...]
    accuracy: Fraction = Field(description="on the validation split; macro F1 for multi-label tasks")
    drop_points: float = Field(description="percentage points below the dense variant's; negative where it is better")

    @property
    def kind(self) -> tuple[Precision, Runtime]:
        """Precision and runtime: figures along a ladder are comparable within one kind."""
        return self.precision, self.runtime

    @property
    def title(self) -> str:
        """The variant, and its runtime where that is not stock onnxruntime."""
        return str(self.arm)

    @property
    def arm(self) -> Arm:
        """The variant in its runtime, as a value."""
        return Arm(Variant.parse(self.variant), self.runtime)

    def p50_seconds(self, cell: tuple[int, int]) -> float:
        """Return the median seconds of a cell (batch, length); infinite if it was not measured."""
        matching = (point.p50_seconds for point in self.latency if (point.batch, point.length) == cell)
        return next(matching, float("inf"))


class Outcome(Record):
    """Everything that a candidate's run made, or the reason of its failure."""

    variant: Name
    servings: tuple[Serving, ...] = ()
    baseline: tuple[Serving, ...] = Field((), description="of the dense variants, which every run measures too")
    failure: str | None = None

    @property
    def bundles(self) -> frozenset[tuple[str, str]]:
        """Variant and version of every bundle with figures here, the baseline's included."""
        return frozenset((serving.variant, serving.version) for serving in (*self.servings, *self.baseline))
