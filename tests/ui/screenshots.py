"""Pictures of a finished study in MLflow and optuna-dashboard, as docs/mlflow-ui.md shows them: real pages, nothing drawn.

python -m tests.ui.screenshots --out docs/images [--study FOLDER --tracking-uri URI] [--front FOLDER]
Without a study it runs those of the UI tests first (minutes), on a server of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.servers import dashboard, free_port, mlflow_server
from tests.ui.browser import RUN_NAME, chromium, column, new_page, visit
from tests.ui.conftest import Finished, finish

#: Drawn slowly on a busy machine, after the page itself is there.
SETTLE = 5_000
LIMIT = 300_000


def save(page: Page, path: Path) -> None:
    """The page as it is, in few colours where it would be large."""
    page.wait_for_timeout(SETTLE)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path, optimize=True)
    assert path.stat().st_size < LIMIT, f"{path} has {path.stat().st_size} bytes"
    print(path, path.stat().st_size)


def of_mlflow(tour: Finished, page: Page) -> Iterator[tuple[str, Callable[[], object]]]:
    """Names of pictures, each with what to wait for once its page is opened."""
    visit(page, tour.table("divfeat-search"))
    yield "search-table", lambda: column(page, RUN_NAME)
    visit(page, tour.table("divfeat-search", charts=True))
    yield "search-charts", lambda: page.locator(".scatterlayer path.point").first.wait_for(state="attached")
    visit(page, tour.table("divfeat-confirm"))
    yield "confirmation-table", lambda: column(page, RUN_NAME)
    visit(page, tour.page())
    page.get_by_text("Show more").click()
    yield "study-run", lambda: page.get_by_text("winner minus").first.wait_for()
    visit(page, tour.page("report/report.html"))
    yield "report", lambda: page.frame_locator("iframe").first.locator("h1").wait_for()
    registered = tour.ledger.phase("registered")
    assert registered is not None
    visit(page, f"{tour.uri}/#/models/{tour.name}/versions/{registered['version']}")
    yield "registered-model", lambda: page.get_by_text("where it came from").wait_for()


def of_optuna(uri: str, name: str, page: Page) -> Iterator[tuple[str, Callable[[], object]]]:
    """The same of the dashboard."""
    visit(page, f"{uri}/dashboard/studies/1")
    yield name, lambda: page.locator(".scatterlayer path.point").first.wait_for(state="attached")


def take(browser: Browser, pictures: Callable[[Page], Iterator[tuple[str, Callable[[], object]]]], out: Path) -> None:
    """Take pictures one after another."""
    page = new_page(browser, 1400, 900)
    for name, ready in pictures(page):
        ready()
        save(page, out / f"{name}.png")
    page.context.close()


def main() -> None:
    """Take all pictures."""
    flags = argparse.ArgumentParser(prog="python -m tests.ui.screenshots", description=__doc__)
    flags.add_argument("--out", type=Path, required=True)
    flags.add_argument("--study", type=Path, help="folder of a finished study on the server")
    flags.add_argument("--tracking-uri", help="the server")
    flags.add_argument("--front", type=Path, help="folder of a finished study of two objectives")
    given = flags.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="divfeat-")))
        uri = given.tracking_uri or stack.enter_context(mlflow_server(scratch / "mlflow", free_port()))
        tour = Finished(given.study.name, given.study.resolve(), uri) if given.study else finish("tour", scratch, uri)
        front = given.front.resolve() if given.front else finish("front", scratch, uri).folder
        browser = stack.enter_context(chromium())
        take(browser, lambda page: of_mlflow(tour, page), given.out)
        for name, storage in (("optuna", tour.storage), ("optuna-front", f"sqlite:///{front / 'optuna.db'}")):
            with dashboard(storage, scratch, free_port()) as board:
                take(browser, lambda page, board=board, name=name: of_optuna(board, name, page), given.out)


if __name__ == "__main__":
    main()
