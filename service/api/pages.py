"""Web pages: the playground at `/`, the API documentation at `/docs`, and their assets, all from this server."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

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
async def index(request: Request) -> Response:
    """Return the playground."""
    return await _file("index.html", request)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Return the API documentation: Swagger UI over openapi.json."""
    return await _file("docs.html", request, DOCS_POLICY)


@router.get("/pages/{name}")
async def asset(name: str, request: Request) -> Response:
    """Return a style sheet, a script or an image."""
    return await _file(name, request)


@router.get("/pages/vendor/{name}")
async def vendored_asset(name: str, request: Request) -> Response:
    """Return a file of Swagger UI."""
    return await _file(f"vendor/{name}", request)


async def _file(name: str, request: Request, policy: str = POLICY) -> Response:
    """Return a file, or 304 if the client has it.

    Raises:
        HTTPException: 404, there is no such file.
    """
    response = await _files.get_response(name, request.scope)
    # Also with 304: a browser replaces the headers that it has stored.
    response.headers.update(
        {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    )
    return response
