"""`/docs` needs no other network, runs no script but its own, and can be tried out in a browser.

Rules of the file:
- The browser is the one that is installed (Debian: `apt-get install chromium`); where there is none, its tests are
  skipped and say so.
- The browser reaches the gateway and nothing else: names do not resolve, and whatever it asked for is looked at.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from edge.docs import FOLDER, POLICY
from edge.shapes_documents import PAGE_FILES
from tests.support.gateway import Gateway
from tests.support.http import ask

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)")


def test_the_vendored_files_are_the_released_ones() -> None:
    """Nobody edited them, and a new release is a decision: CHECKSUMS names it."""
    lines = (FOLDER / "CHECKSUMS").read_text().splitlines()
    assert re.match(r"# swagger-ui-dist \d+\.\d+\.\d+", lines[0])
    listed = {name: digest for digest, name in (line.split() for line in lines[1:])}
    assert listed.keys() == {path.name for path in FOLDER.glob("swagger-ui*")}
    for name, digest in listed.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    assert "Apache License" in (FOLDER / "swagger-ui.LICENSE").read_text()


def test_the_page_holds_no_script_and_no_address_of_elsewhere() -> None:
    """What the policy forbids is not there to begin with."""
    page = (FOLDER / "index.html").read_text()
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert re.findall(r"\son\w+=|style=|<style", page) == []
    for name in ("index.html", "page.js", "page.css"):
        assert "//" not in re.sub(r"^//.*$", "", (FOLDER / name).read_text(), flags=re.MULTILINE), name
    assert set(re.findall(r'(?:src|href)="docs/([^"]+)"', page)) == PAGE_FILES.keys()


async def test_the_page_is_served_with_its_policy(gateway: Gateway) -> None:
    """Every part says to the browser what it may load."""
    for path, media in {
        "/docs": "text/html; charset=utf-8",
        **{f"/docs/{k}": v for k, v in PAGE_FILES.items()},
    }.items():
        answer = await ask(gateway.url, "GET", path)
        assert (answer.status, answer.header("content-type")) == (200, media)
        assert answer.header("content-security-policy") == POLICY
        assert answer.header("x-content-type-options") == "nosniff"
    assert POLICY.startswith("default-src 'self';")
    assert "unsafe" not in POLICY


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium for which no name resolves."""
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-background-networking"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's sandbox does not start as root
    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def page(browser: Browser, gateway: Gateway) -> Iterator[Page]:
    """The page, open; afterwards it must have asked nobody but the gateway, and complained of nothing."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1600})
    asked: list[str] = []
    complaints: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.set_default_timeout(90_000)  # a browser beside other tests on two cores
    opened.goto(f"{gateway.url}/docs")
    opened.locator(".opblock").first.wait_for()
    opened.locator("#channels").wait_for()
    yield opened
    opened.close()
    assert [url for url in asked if not url.startswith((gateway.url, "data:"))] == []
    assert complaints == []


@needs_chromium
def test_the_page_shows_every_operation_and_every_channel(page: Page, tmp_path: Path) -> None:
    """What the documents hold is on the page."""
    paths = page.eval_on_selector_all(".opblock-summary-path", "all => all.map(one => one.dataset.path)")
    assert {"/healthz", "/ingest", "/api/ingest", "/consumers/{durable}"} <= set(paths)
    channels = page.locator("#channels article h3").all_inner_texts()
    assert "WebSocket /stream" in " ".join(channels)
    page.screenshot(path=tmp_path / "docs.png", full_page=True)


@needs_chromium
def test_a_request_can_be_tried_from_the_page(page: Page, tmp_path: Path) -> None:
    """`Try it out`, `Execute`: the example goes to the gateway, and its answer is shown."""
    operation = page.locator("#operations-hashes-post_cache_batch")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table tbody tr.response").first
    answer.wait_for()
    assert answer.locator(".response-col_status").inner_text().split()[0] == "200"
    assert '"MISS"' in answer.locator(".response-col_description").inner_text()
    page.screenshot(path=tmp_path / "tried.png", full_page=True)
