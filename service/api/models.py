"""GET /v1/models: tasks, variants with their state, refused bundles and manifests."""

import asyncio
from typing import Any, Final, Literal

from fastapi import APIRouter

from sparserve.models.bundle.store import Store
from sparserve.models.bundle.windows import TRUNCATE
from sparserve.models.errors import StoreError
from sparserve.service.api.schemas import (
    ListedModel,
    MeasuredLatency,
    ModelList,
    RefusedBundle,
    RuntimeChoiceFacts,
    TaskFacts,
    VariantDetail,
    VariantFacts,
)
from sparserve.service.catalog.snapshot import Snapshot
from sparserve.service.errors import WrongMethod
from sparserve.service.http.dependencies import ServiceDependency
from sparserve.service.http.problems import problems
from sparserve.service.inference.engine import Engine

router = APIRouter(tags=["models"])
# The length of a sentence or two.
LATENCY_TOKENS: Final = 32
_POSTED = frozenset({"classify", "compare"})


@router.get("/v1/models")
async def list_models(service: ServiceDependency) -> ModelList:
    """List every task with its variants, and the refused bundles."""
    snapshot = service.catalog.snapshot
    refused = [
        RefusedBundle(task=item.task, variant=item.variant, version=item.version, reason=item.reason)
        for item in snapshot.refused.values()
    ]
    refused += [
        RefusedBundle(task=task, variant=None, version=None, reason=reason)
        for task, reason in snapshot.refused_tasks.items()
    ]
    served = [(task, snapshot.engines.get((task, variant))) for task, variant in sorted(snapshot.defaults.items())]
    return ModelList(
        models=[_task_facts(snapshot, task) for task in snapshot.tasks()],
        refused=refused,
        data=[ListedModel(id=task, created=int(engine.loaded_at)) for task, engine in served if engine],
    )


@router.get("/v1/models/{task}", responses=problems(404, 503))
async def show_task(task: str, service: ServiceDependency) -> TaskFacts:
    """Show one task with its variants."""
    snapshot = service.catalog.snapshot
    snapshot.keys(task)
    return _task_facts(snapshot, task)


@router.get("/v1/models/{task}/{variant}", responses=problems(404, 405, 422, 503))
async def show_variant(task: str, variant: str, service: ServiceDependency, tensors: bool = False) -> VariantDetail:
    """Show one variant with its manifest; with `tensors`, also the zeros of every tensor."""
    snapshot = service.catalog.snapshot
    if variant in _POSTED and variant not in snapshot.variants(task):
        snapshot.keys(task)
        raise WrongMethod(f"/v1/models/{task}/{variant} supports POST only", "POST")
    snapshot.keys(task, variant)
    engine = snapshot.engines.get((task, variant))
    return VariantDetail(
        **dict(_variant_facts(snapshot, task, variant)),
        task=task,
        default=snapshot.defaults.get(task) == variant,
        versions=await asyncio.to_thread(_versions, Store(service.settings.store), task, variant),
        manifest=_manifest(engine, tensors) if engine else None,
    )


def _versions(store: Store, task: str, variant: str) -> list[str]:
    try:
        return store.versions(task, variant)
    except (OSError, StoreError):  # /v1/models has the reason
        return []


def _task_facts(snapshot: Snapshot, task: str) -> TaskFacts:
    default = snapshot.defaults.get(task)
    variants = snapshot.variants(task)
    engines = [snapshot.engines.get((task, variant)) for variant in ([default] if default else []) + variants]
    manifest = next((engine.manifest for engine in engines if engine), None)
    return TaskFacts(
        task=task,
        default_variant=default,
        labels=list(manifest.labels) if manifest else [],
        problem_type=manifest.problem_type if manifest else None,
        inputs=manifest.inputs if manifest else None,
        max_length=manifest.max_length if manifest else None,
        long_texts=(manifest.long_texts or TRUNCATE) if manifest else None,
        variants=[_variant_facts(snapshot, task, variant) for variant in variants],
    )


def _variant_facts(snapshot: Snapshot, task: str, variant: str) -> VariantFacts:
    engine, refusal = snapshot.engines.get((task, variant)), snapshot.refused.get((task, variant))
    if engine is None and refusal:
        return VariantFacts(variant=variant, version=refusal.version, state="refused", reason=refusal.reason)
    if engine is None:
        state: Literal["loading", "unloaded"] = "unloaded" if (task, variant) in snapshot.unloaded else "loading"
        return VariantFacts(variant=variant, version=None, state=state)
    manifest = engine.manifest
    return VariantFacts(
        variant=variant,
        version=manifest.version,
        state="ready",
        runtime=engine.runtime,
        runtime_choice=_runtime_choice(engine),
        file=engine.graph_file,
        file_bytes=engine.graph_bytes,
        latency=_latency(engine),
        precision=manifest.precision,
        encoder_sparsity=manifest.sparsity.encoder_linear.sparsity,
        encoder_nonzeros=manifest.sparsity.encoder_linear.nonzero,
        onnx_bytes=manifest.sizes.onnx,
        onnx_zipped_bytes=manifest.sizes.onnx_zipped,
        accuracy=manifest.evaluation.accuracy.value if manifest.evaluation else None,
        sample_difference=engine.sample_difference,
    )


def _runtime_choice(engine: Engine) -> RuntimeChoiceFacts | None:
    decision = engine.runtime_decision
    if decision is None:
        return None
    seconds = decision.seconds
    return RuntimeChoiceFacts(
        source=decision.source,
        onnx_seconds=seconds.onnx if seconds else None,
        sparse_seconds=seconds.sparse if seconds else None,
    )


def _latency(engine: Engine) -> MeasuredLatency | None:
    """Return the latency of one text, of the measured length next to `LATENCY_TOKENS`, in the engine's runtime."""
    measurement = engine.manifest.measurement
    if measurement is None:
        return None
    points = measurement.latency
    if engine.runtime == "sparse":
        points = measurement.sparse.latency if measurement.sparse else ()
    if not points:
        return None
    point = min(points, key=lambda point: (point.batch, abs(point.length - LATENCY_TOKENS)))
    return MeasuredLatency(
        p50_seconds=point.p50_seconds,
        batch=point.batch,
        length=point.length,
        threads=measurement.threads,
        cpu=measurement.machine.cpu,
    )


def _manifest(engine: Engine, tensors: bool) -> dict[str, Any]:
    left_out = None if tensors else {"sparsity": {"tensors"}}
    return engine.manifest.model_dump(mode="json", exclude=left_out)
