"""Quantisation: the int8 twin of an exported graph."""

from pathlib import Path

from sparserve.models.bundle.bundle import MODEL
from sparserve.models.bundle.variants import Variant
from sparserve.models.export.quantization import quantize
from sparserve.models.pipeline.stages.export import stamp
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.recipes.schema import Quantization

SECONDS = 5.0


def quantization_step(variant: Variant, export: Step, quantization: Quantization) -> Step:
    """Return the step that quantises the fp32 graph of an export to the int8 variant."""

    def build(folder: Path, context: Context) -> None:
        quantize(context.result(export) / MODEL, folder / MODEL, quantization)
        stamp(folder / MODEL, variant)

    inputs = {"graph": export.key, "quantization": quantization}
    return Step(f"export {variant}", inputs, build, lambda costs: SECONDS, (export,))
