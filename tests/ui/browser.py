"""A headless Chromium on the pages of MLflow and optuna-dashboard: for tests and for screenshots."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator

from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: A busy machine is no defect.
TIMEOUT = 180_000


def executable() -> str | None:
    """The system's Chromium; none is ever downloaded."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for the block."""
    found = executable()
    assert found is not None, "no chromium on PATH: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


def new_page(browser: Browser, width: int = 1500, height: int = 950) -> Page:
    """A page with nothing remembered: as who opens the UI for the first time sees it."""
    context = browser.new_context(viewport={"width": width, "height": height}, locale="en-GB")
    # What MLflow 3 offers on a first visit covers a third of the page.
    context.add_init_script(
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
        "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')"
    )
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    return page


def visit(page: Page, url: str) -> None:
    """Open a page of an application that keeps its place behind the '#': from scratch, or it would keep its state."""
    page.goto("about:blank")
    page.goto(url)


RUN_NAME = "attributes.`Run Name`"


def column(page: Page, name: str) -> list[str]:
    """Cells of a column of MLflow's table, from top to bottom."""
    cells = page.locator(f'.ag-row [col-id="{name}"]')
    cells.first.wait_for()
    place = "all => all.map(e => [+e.closest('.ag-row').getAttribute('row-index'), e.innerText])"
    return [_said(text) for _, text in sorted(cells.evaluate_all(place))]


def settled(page: Page, expected: int, name: str = RUN_NAME) -> list[str]:
    """The same once the table has `expected` rows: it fills while the page is there."""
    deadline = time.monotonic() + TIMEOUT / 1000
    while len(found := column(page, name)) != expected and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    return found


def _said(text: str) -> str:
    """Of a cell the first line that is no colour: a run's dot has its own as a hidden text."""
    return next((line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
