"""GET /v1/reports: the job's reports on the cost of compression."""

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from pydantic import WithJsonSchema

from sparserve.models.bundle.store import REPORT_FORMATS, Store
from sparserve.models.errors import StoreError
from sparserve.service.api.schemas import ReportLink, ReportList
from sparserve.service.errors import NotAcceptable, Unavailable, UnknownResource
from sparserve.service.http.dependencies import ServiceDependency
from sparserve.service.http.problems import problems

router = APIRouter(tags=["reports"])
MEDIA_TYPES = {"json": "application/json", "markdown": "text/markdown", "html": "text/html"}
# The page is self-contained and must not load or send anything.
HTML_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
CONTENT = {media: {"schema": {"type": "object" if name == "json" else "string"}} for name, media in MEDIA_TYPES.items()}


@router.get("/v1/reports")
async def list_reports(service: ServiceDependency) -> ReportList:
    """List the tasks that have a report, and its formats."""
    return await asyncio.to_thread(_reports, Store(service.settings.store))


@router.get(
    "/v1/reports/{task}",
    response_class=Response,
    responses={200: {"description": "The report", "content": CONTENT}, **problems(404, 406, 503)},
)
async def show_report(
    task: str,
    service: ServiceDependency,
    report_format: Annotated[
        str | None,
        Query(alias="format", description="takes precedence over Accept"),
        WithJsonSchema({"enum": list(REPORT_FORMATS)}),
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
) -> Response:
    """Show a task's report as JSON, Markdown or a self-contained HTML page."""
    chosen = report_format or accepted_format(accept)
    if chosen not in REPORT_FORMATS:
        raise NotAcceptable(
            "reports are available as application/json, text/markdown or text/html (or format=json, markdown or html)"
        )
    content = await asyncio.to_thread(_content, Store(service.settings.store), task, chosen)
    headers = {"Vary": "Accept", "Cache-Control": "no-cache"}
    if chosen == "html":
        headers["Content-Security-Policy"] = HTML_POLICY
    return Response(content, headers=headers, media_type=MEDIA_TYPES[chosen])


def accepted_format(accept: str) -> str | None:
    """Return the format that an Accept header prefers, of equals the first; None if it accepts none of them."""
    best, best_quality = None, 0.0
    for entry in accept.split(","):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        for name, offered in MEDIA_TYPES.items():
            if media in (offered, "*/*", f"{offered.partition('/')[0]}/*") and quality > best_quality:
                best, best_quality = name, quality
    return best


def _content(store: Store, task: str, report_format: str) -> bytes:
    try:
        path = store.report_path(task, report_format)
        if _is_report(path):
            return path.read_bytes()
    except StoreError as error:
        raise UnknownResource(str(error).replace(f"{store.root}/", "")) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable(f"the report of {task!r} cannot be read ({reason}): correct its permissions") from error
    known = ", ".join(link.task for link in _reports(store).reports) or "none"
    raise UnknownResource(f"there is no {report_format} report of {task!r}; tasks with a report: {known}")


def _reports(store: Store) -> ReportList:
    links = []
    for task in store.tasks():
        try:
            formats = [name for name in REPORT_FORMATS if _is_report(store.report_path(task, name))]
        except (OSError, StoreError):  # /v1/models has the reason
            continue
        if formats:
            links.append(ReportLink(task=task, url=f"/v1/reports/{task}", formats=formats))
    return ReportList(reports=links)


def _is_report(path: Path) -> bool:
    # A symbolic link could point to any file of this machine.
    return path.is_file() and not path.is_symlink()
