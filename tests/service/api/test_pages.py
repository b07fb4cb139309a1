"""Web pages: their assets, policies and caching."""

import hashlib
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sparserve.service.api.pages import FOLDER


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_assets_from_this_server_only(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "http" not in policy and "unsafe" not in policy
    loaded = re.findall(r'(?:src|href)="(pages/[^"]+)"', page.text)
    assert len(loaded) >= 3
    for name in loaded:
        assert client.get(f"/{name}").status_code == 200


def test_modules_import_modules_that_are_served_as_scripts(client: TestClient) -> None:
    modules = [path for path in own_files() if path.suffix == ".js"]
    assert len(modules) > 10
    for path in modules:
        for name in re.findall(r'^(?:import|export) [^=]*?"(.+?)";$', path.read_text(encoding="utf-8"), re.MULTILINE):
            imported = (path.parent / name).resolve().relative_to(FOLDER.resolve())
            answer = client.get(f"/pages/{imported}")
            assert answer.status_code == 200 and "javascript" in answer.headers["content-type"], (path, name)


def own_files() -> list[Path]:
    """Return the files of the pages that are not another project's."""
    return [path for path in FOLDER.rglob("*.*") if "vendor" not in path.parts]


def test_pages_name_no_other_host() -> None:
    for path in own_files():
        found = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+[^\s\"'`]*", path.read_text(encoding="utf-8"))
        assert [url for url in found if not url.endswith("w3.org/2000/svg")] == [], path.name


@pytest.mark.parametrize(
    "name",
    ["..%2fapp.py", "../app.py", "none.css", "%2e%2e%2fsettings.py", ".", "index.html%00.js", f"{300 * 'a'}.css"],
)
def test_pages_serve_no_other_files(client: TestClient, name: str) -> None:
    assert client.get(f"/pages/{name}").status_code == 404


def test_pages_have_landmarks() -> None:
    for name in ("index.html", "docs.html"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert '<html lang="en">' in text and "<main" in text and "<h1>" in text and 'class="skip"' in text


def test_pages_are_revalidated_with_their_policy(client: TestClient) -> None:
    for path in ("/", "/docs", "/pages/style.css"):
        page = client.get(path)
        again = client.get(path, headers={"If-None-Match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["content-security-policy"] == page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-cache"


def test_vendored_files_match_their_digests() -> None:
    vendor = FOLDER / "vendor"
    lines = (vendor / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    digests = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert {path.relative_to(vendor).as_posix() for path in vendor.glob("*/*")} == digests.keys()
    assert {f"{folder.name}/LICENSE" for folder in vendor.iterdir() if folder.is_dir()} <= digests.keys()
    for name, digest in digests.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest
