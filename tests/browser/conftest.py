"""Headless Chromium, and a service over tiny bundles that listens on a port.

Fixtures import what they need: the process that distributes the tests to others does without the three seconds.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from sparserve.models.bundle.store import Store

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_MILLISECONDS = 20_000
# Chromium reports answers with an error status there; the page reports them to the user.
EXPECTED_MESSAGE = "Failed to load resource"

Site = Callable[..., str]
Evaluate = Callable[[str, Any], Any]


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """A headless Chromium of this machine; skips where there is none, unless the gate requires it."""
    from playwright.sync_api import expect, sync_playwright

    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        message = f"no browser: install one of {', '.join(NAMES)}"
        assert not os.environ.get("SPARSERVE_REQUIRE_BROWSER"), message
        pytest.skip(message)
    with sync_playwright() as playwright:
        expect.set_options(timeout=TIMEOUT_MILLISECONDS)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: "Browser") -> Iterator["BrowserContext"]:
    """A browser without cookies, storage and cache."""
    context = chromium.new_context(viewport={"width": 1100, "height": 800})
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    yield context
    context.close()


@pytest.fixture
def page(context: "BrowserContext") -> Iterator["Page"]:
    """A tab; fails the test if a script raises, the policy forbids something, or the console has an error."""
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    yield page
    assert [fault for fault in faults if not fault.startswith(EXPECTED_MESSAGE)] == []


@pytest.fixture(scope="session")
def rival_store(tmp_path_factory: pytest.TempPathFactory) -> "Store":
    """`dense` and a `rival` that often answers otherwise."""
    from sparserve.models.bundle.store import Store
    from tests.support.tiny_bundles import graph, publish

    store = Store(tmp_path_factory.mktemp("browser") / "store")
    publish(store, variant="dense", model=graph(seed=1))
    publish(store, variant="rival", model=graph(seed=2))
    return store


@pytest.fixture
def serve_site(rival_store: "Store", tmp_path: Path) -> Iterator[Site]:
    """Start services with some settings; returns their URLs."""
    from sparserve.service.app import create_app
    from sparserve.service.settings import Settings
    from tests.support.service.listening import listening

    with ExitStack() as running:

        def start(**settings: Any) -> str:
            url = f"sqlite:///{tmp_path}/disagreements.db"
            defaults = {"store": rival_store.root, "threads": 1, "disagreements_url": url}
            app = create_app(Settings(**{**defaults, **settings}))
            return f"http://{running.enter_context(listening(app))}"

        yield start


@pytest.fixture(scope="session")
def site(rival_store: "Store") -> Iterator[str]:
    """The URL of one service for all tests that leave no trace in it."""
    from sparserve.service.app import create_app
    from sparserve.service.settings import Settings
    from tests.support.service.listening import listening

    with listening(create_app(Settings(store=rival_store.root, threads=1))) as address:
        yield f"http://{address}"


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled CSV file."""
    from tests.support.service.page_actions import LABELS, TEXTS, write_csv

    return write_csv(tmp_path_factory.mktemp("data") / "texts.csv", ("text", "label"), TEXTS, LABELS)


@pytest.fixture(scope="session")
def evaluate(chromium: "Browser", site: str) -> Iterator[Evaluate]:
    """Run a function of the page's modules."""
    context = chromium.new_context()
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    page = context.new_page()
    page.goto(site)
    yield page.evaluate
    context.close()


def module(name: str) -> str:
    """Return the address of a module of the section Compare."""
    return f"./pages/compare/{name}.js"
