"""Routes that change the models served: pin, roll back, load, unload, and set a task's default variant.

Changes hold in every process of the service and last until it ends, except the default variant, which is written to the
store. Every route here needs a key with the scope `admin`; `security.scopes` lists them.
"""

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sparserve.service.api.models import list_models, show_task
from sparserve.service.api.schemas import Body, ModelList, TaskFacts
from sparserve.service.catalog.overrides import CatalogChange
from sparserve.service.core import ServingCore
from sparserve.service.errors import InvalidRequest, UnreadableRequest
from sparserve.service.http.dependencies import ServiceDependency
from sparserve.service.http.json_route import check_content_type
from sparserve.service.http.problems import problems
from sparserve.service.inference.engine import Engine

router = APIRouter(tags=["admin"])
RESPONSES = problems(400, 404, 413, 415, 422, 500, 503)


class Promotion(Body):
    """The version to serve."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "0123456789abcdef"}]})

    version: str = Field(description="one of the variant's versions in the store")


class Served(BaseModel):
    """The version that answers for a variant now."""

    task: str
    variant: str
    version: str
    pinned: bool = Field(description="true if it stays until it is unpinned or the service restarts")


class VariantName(BaseModel):
    """A variant of a task."""

    task: str
    variant: str


class Overrides(BaseModel):
    """Changes that were made here and not in the store."""

    pinned: list[Served]
    unloaded: list[VariantName]


class RepositoryParameters(BaseModel):
    """Parameters of load and unload. Others are refused, except the one that Triton's client always sends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str | None = Field(None, description="the variant; by default all of the task")
    unload_dependents: bool = Field(False, description="ignored: no model depends on another")


class RepositoryRequest(BaseModel):
    """The body of load and unload, which may be empty."""

    model_config = ConfigDict(extra="forbid")

    parameters: RepositoryParameters = RepositoryParameters()


_REPOSITORY: TypeAdapter[RepositoryRequest] = TypeAdapter(RepositoryRequest)
# Written out: a reference would not resolve inside the document.
REPOSITORY_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"parameters": RepositoryParameters.model_json_schema()},
                    "additionalProperties": False,
                }
            }
        }
    }
}


async def _require_json(request: Request) -> None:
    check_content_type(request)


@router.get("/v1/admin/overrides")
async def show_overrides(service: ServiceDependency) -> Overrides:
    """The versions that are pinned and the variants that are unloaded."""
    pins, unloaded = service.catalog.overrides.pins, service.catalog.snapshot.unloaded
    return Overrides(
        pinned=[Served(task=key[0], variant=key[1], version=pins[key], pinned=True) for key in pins],
        unloaded=[VariantName(task=key[0], variant=key[1]) for key in sorted(unloaded)],
    )


@router.post("/v1/admin/refresh", responses=RESPONSES)
async def refresh(service: ServiceDependency) -> ModelList:
    """Read the store now; answers once every new version is served or refused.

    Waits at most ten seconds for a URL that the store mirrors; versions that arrive later are served on arrival.
    """
    await service.change(CatalogChange("refresh"))
    return await list_models(service)


@router.post("/v1/admin/models/{task}/{variant}/default", responses=RESPONSES)
async def make_default(task: str, variant: str, service: ServiceDependency) -> TaskFacts:
    """Make this variant the task's default, in the store: for every process that serves it, and after a restart."""
    await service.change(CatalogChange("default", task, variant))
    return await show_task(task, service)


@router.post("/v1/models/{task}/{variant}/promote", responses=RESPONSES, dependencies=[Depends(_require_json)])
async def promote(task: str, variant: str, body: Promotion, service: ServiceDependency) -> Served:
    """Serve this version; answers once it is served, and changes nothing if it is refused."""
    await service.change(CatalogChange("pin", task, variant, body.version))
    return _served(service, service.catalog.engine(task, variant))


@router.post("/v1/models/{task}/{variant}/rollback", responses=RESPONSES)
async def rollback(task: str, variant: str, service: ServiceDependency) -> Served:
    """Serve the version published before the current one."""
    await service.change(CatalogChange("rollback", task, variant))
    return _served(service, service.catalog.engine(task, variant))


@router.post("/v1/models/{task}/{variant}/unpin", responses=RESPONSES)
async def unpin(task: str, variant: str, service: ServiceDependency) -> Served:
    """Serve the store's version again."""
    await service.change(CatalogChange("unpin", task, variant))
    return _served(service, service.catalog.engine(task, variant))


@router.post("/v2/repository/models/{task}/load", responses=RESPONSES, openapi_extra=REPOSITORY_BODY)
async def load(task: str, request: Request, service: ServiceDependency) -> dict[str, str | bool]:
    """Load a task, or one variant of it; answers once it is served."""
    parameters = _read(await request.body())
    await service.change(CatalogChange("load", task, parameters.version))
    return {"name": task, "load": True}


@router.post("/v2/repository/models/{task}/unload", responses=RESPONSES, openapi_extra=REPOSITORY_BODY)
async def unload(task: str, request: Request, service: ServiceDependency) -> dict[str, str | bool]:
    """Unload a task, or one variant of it; requests that were already admitted are still answered."""
    parameters = _read(await request.body())
    await service.change(CatalogChange("unload", task, parameters.version))
    return {"name": task, "unload": True}


def _served(service: ServingCore, engine: Engine) -> Served:
    task, variant, version = engine.manifest.task, engine.manifest.variant, engine.manifest.version
    return Served(task=task, variant=variant, version=version, pinned=(task, variant) in service.catalog.overrides.pins)


def _read(body: bytes) -> RepositoryParameters:
    # The protocol's clients do not declare the body as JSON, and some send none.
    try:
        return _REPOSITORY.validate_json(body or b"{}").parameters
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            raise UnreadableRequest(f"the body is not JSON: {first['msg']}") from error
        place = ".".join(map(str, first["loc"])) or "body"
        raise InvalidRequest(f"{place}: {first['msg']}; only the store can change a model") from error
