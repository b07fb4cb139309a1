"""Probes, information about the process, and metrics."""

import platform
from functools import cache
from importlib.metadata import version

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from sparserve.kernels.library import LibraryError, find_library
from sparserve.models.cpus import available_cpus
from sparserve.service.api.schemas import Health, Info
from sparserve.service.errors import Unavailable
from sparserve.service.http.dependencies import ServiceDependency
from sparserve.service.http.problems import problems
from sparserve.service.version import VERSION

router = APIRouter(tags=["operations"])
LIBRARIES = ("onnxruntime", "tokenizers", "numpy", "fastapi", "uvicorn", "pydantic")
LIMITS = (
    "max_body_bytes",
    "max_bodies_bytes",
    "max_items",
    "max_characters",
    "max_batch_tokens",
    "max_waiting_inputs",
    "max_waiting_tokens",
)


@router.get("/livez")
async def live() -> Health:
    """Liveness of the process."""
    return Health(status="live")


@router.get("/readyz", responses=problems(503))
async def ready(service: ServiceDependency) -> Health:
    """Readiness: every task's default variant has answered a warm-up request, and the service is not shutting down."""
    if reason := service.reason_not_ready():
        raise Unavailable(reason)
    return Health(status="ready")


@router.get("/info")
async def info(service: ServiceDependency) -> Info:
    """Versions, threads and the limits in effect."""
    settings = service.service_settings
    reason = service.reason_not_ready()
    return Info(
        name="sparserve",
        version=VERSION,
        libraries=_libraries(),
        threads={
            "available_cpus": available_cpus(),
            "workers": service.peers.count if service.peers else 1,
            "total": settings.total_threads,
            "concurrent_batches": service.settings.concurrent_batches,
            "per_session": service.settings.threads_per_session,
        },
        limits={name: getattr(settings, name) for name in LIMITS},
        shutdown={"delay_seconds": settings.shutdown_delay_seconds, "grace_seconds": settings.grace_seconds},
        sparse_runtime=_sparse_runtime(),
        ready=reason is None,
        reason=reason,
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: ServiceDependency) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(await service.exposition(), media_type=CONTENT_TYPE_LATEST)


def _sparse_runtime() -> str:
    try:
        return find_library().isa
    except LibraryError as error:
        return f"not available: {error}"


@cache
def _libraries() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
