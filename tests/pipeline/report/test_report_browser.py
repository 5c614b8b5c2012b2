"""The pages of a run and of a sweep in a real browser: nothing sticks out, nothing fails, nothing is asked for."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.sweep import write_sweep_report
from pipeline.run import Run
from tests.pipeline.report.pages import Page, hostile_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOOK = """<script>
const errors = [];
addEventListener("error", event => errors.push(String(event.message || event.target.src)), true);
addEventListener("load", () => parent.postMessage(JSON.stringify({
  width: innerWidth, page: document.documentElement.scrollWidth, errors,
  dark: matchMedia("(prefers-color-scheme: dark)").matches, paper: getComputedStyle(document.body).backgroundColor,
  requests: performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:")),
  broken: [...document.images].filter(image => !image.naturalWidth).length, images: document.images.length,
}), "*"))</script>"""
FRAME = """<!doctype html><title>nothing came</title>
<script>addEventListener("message", event => { document.title = event.data })</script>
<iframe src="page.html" style="border: 0; height: 900px; width: %dpx"></iframe>"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that came to its end."""
    return hostile_run(tmp_path_factory.mktemp("browser"))


def look(page: Path, folder: Path, width: int, dark: bool) -> dict[str, Any]:
    """Open a page in a frame of a width, and return what it says of itself."""
    source = page.read_text(encoding="utf-8")
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert len(policy.findall(source)) == 1
    looked_at = policy.sub(lambda _: LOOK, source).replace("<details>", "<details open>")
    (folder / "page.html").write_text(looked_at, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME % width)  # the browser's own window is never narrower than 500
    done = subprocess.run(
        [str(CHROMIUM), "--no-sandbox", "--headless=new", "--disable-gpu", "--hide-scrollbars",
         "--enable-logging=stderr", "--virtual-time-budget=10000", "--window-size=1400,1000",
         f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--user-data-dir={folder / 'profile'}",
         "--dump-dom", (folder / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    assert "CONSOLE" not in done.stderr
    seen: dict[str, Any] = json.loads(unescape(title[1]))
    return seen


def check(seen: dict[str, Any], page: Path, width: int, dark: bool) -> None:
    """Compare what a page said of itself with what it should."""
    assert seen["width"] == width
    assert seen["page"] <= width, "the page scrolls sideways"
    assert (seen["errors"], seen["requests"], seen["broken"]) == ([], [], 0)
    assert seen["images"] == len(Page(page).all("img")) > 0
    assert seen["dark"] is dark
    assert (seen["paper"] == "rgb(18, 22, 28)") is dark


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_a_real_browser_shows_a_run(ended: Run, tmp_path: Path, width: int, dark: bool) -> None:
    seen = look(ended.folder / "report.html", tmp_path, width, dark)
    check(seen, ended.folder / "report.html", width, dark)
    assert seen["images"] == 7


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False)])
def test_a_real_browser_shows_a_sweep(ended_sweep: Path, tmp_path: Path, width: int, dark: bool) -> None:
    page, _, _ = write_sweep_report(ended_sweep)
    check(look(page, tmp_path, width, dark), page, width, dark)


def test_the_page_keeps_its_own_policy(ended: Run, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(CHROMIUM), "--no-sandbox", "--headless=new", "--disable-gpu", "--enable-logging=stderr",
         "--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (ended.folder / "report.html").as_uri()],
        capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    assert "</html>" in done.stdout
    assert "CONSOLE" not in done.stderr, "a style, script or picture of the page was refused by its policy"
