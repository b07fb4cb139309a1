"""The pages for people: `/` leads on, `/docs` explains the API. Everything that they load comes from here."""

from pathlib import Path

from fastapi import APIRouter, Response

from sparserve.service.errors import UnknownResource

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parent.parent / "pages"
NAMES = frozenset(path.name for path in FOLDER.iterdir())
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/")
async def index() -> Response:
    """The playground."""
    return _page("index.html")


@router.get("/docs")
async def docs() -> Response:
    """The API, from its own OpenAPI document."""
    return _page("docs.html")


@router.get("/pages/{name}")
async def asset(name: str) -> Response:
    """A style sheet, a script or a picture of the pages."""
    return _page(name)


def _page(name: str) -> Response:
    path = FOLDER / name
    if name not in NAMES or path.suffix not in MEDIA_TYPES:
        raise UnknownResource(f"there is no page {name!r}; / leads to all there is")
    return Response(path.read_bytes(), headers=HEADERS, media_type=MEDIA_TYPES[path.suffix])
