"""Web pages: the page to compare variants at `/`, the API documentation at `/docs`, and their assets.

The page is made of ECMAScript modules, which the browser loads as they are: there is no build step.
"""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from sparserve.service.http.dependencies import ServiceDependency

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parent.parent / "pages"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'{images}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
POLICY = _POLICY.format(images="")
# The style sheet of Swagger UI contains its icons as data URLs.
DOCS_POLICY = _POLICY.format(images=" data:")
_files = StaticFiles(directory=FOLDER)


@router.get("/")
async def index(request: Request, service: ServiceDependency) -> Response:
    """Return the page."""
    # Below the prefix without a slash the page's links would lead elsewhere.
    if request.scope.get("raw_path") == b"":
        return RedirectResponse(service.settings.root_path.rpartition("/")[2] + "/")
    return await _file("index.html", request)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Return the API documentation: Swagger UI over openapi.json."""
    return await _file("docs.html", request, DOCS_POLICY)


@router.get("/pages/{path:path}")
async def asset(path: str, request: Request) -> Response:
    """Return a style sheet, a script or an image."""
    return await _file(path, request)


async def _file(path: str, request: Request, policy: str = POLICY) -> Response:
    """Return a file, or 304 if the client has it.

    Raises:
        HTTPException: 404, there is no such file.
    """
    response = await _files.get_response(path, request.scope)
    # Also with 304: a browser replaces the headers that it has stored.
    response.headers.update(
        {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    )
    return response
