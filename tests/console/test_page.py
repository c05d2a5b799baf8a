"""What holds on every screen: little to load, nothing from elsewhere, open to everyone, safe."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser import Watched, new_page
from tests.e2e.conftest import Running, small
from tests.integration.conftest import wait_until
from vicreg_platform.jobs.schemas import JobSchema
from vicreg_platform.tracking import Tracking

AXE = Path(__file__).parents[2] / "api/console/node_modules/axe-core/axe.min.js"
FIRST_LOAD = 250 * 1024
"""Bytes of compressed script before the first screen shows."""
HOSTILE = "<img src=x onerror=alert(1)>\"'`{{7*7}} \u202e\u05e9\u05dc\u05d5\u05dd " + "W" * 150
LOG_LINES = 150_000
SHIFTS = """() => {
  window.shifted = 0;
  window.lastShift = performance.now();
  const add = (list) => list.getEntries().forEach((each) => {
    if (each.hadRecentInput) return;
    window.shifted += each.value;
    window.lastShift = performance.now();
  });
  new PerformanceObserver(add).observe({type: "layout-shift", buffered: true});
}"""


@pytest.fixture(scope="module")
def job(running: Running) -> JobSchema:
    """An ended job, with an evaluation, and text that means harm wherever there can be text."""
    spec = small(
        name=HOSTILE[:200],
        experiment="<script>alert(2)</script>",
        labels={f"key.{number}": HOSTILE[:190] for number in range(32)},
        training={"epochs": 1, "batch_size": 128},
    )
    return running.wait(running.client.submit(spec))


@pytest.fixture
def hostile_log(running: Running, job: JobSchema) -> Iterator[str]:
    """Ten megabytes, with the commands of a terminal, as the log of the job's first attempt."""
    line = "\x1b[31m<img src=x onerror=alert(3)>\x1b[0m \x1b]0;title\x07" + "x" * 30 + "\n"
    text = line * LOG_LINES + "ValueError: at last\n"
    assert len(text) > 10 * 2**20
    assert job.mlflow is not None
    deadline = time.monotonic() + 60
    while running.client.get(job.id).attempts[0].archived_at is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    tracking = Tracking(running.platform.settings.mlflow_url)
    before = b"".join(tracking.log(job.mlflow.run_id, 1))
    tracking.store_log(job.mlflow.run_id, 1, [text.encode()])
    yield text
    tracking.store_log(job.mlflow.run_id, 1, [before])


def screens(job: JobSchema) -> list[str]:
    tabs = (
        "overview",
        "curves",
        "evaluations",
        "logs",
        "spec",
        "attempts",
        "files",
        "events",
        "json",
    )
    return [
        "/", "/jobs", "/queue", "/models", "/schedules", "/schedules/new", "/cluster", "/keys",
        "/new",
        f"/compare?job=%5B%22{job.id}%22%5D",
        *(f"/jobs/{job.id}?tab={tab}" for tab in tabs),
    ]  # fmt: skip


def test_the_first_load_is_small(console: Watched) -> None:
    page = console.page
    sizes: dict[str, int] = {}
    cdp = page.context.new_cdp_session(page)
    scripts: dict[str, str] = {}
    cdp.on("Network.responseReceived", lambda event: _note(event, scripts))
    cdp.on(
        "Network.loadingFinished",
        lambda event: sizes.update({event["requestId"]: int(event["encodedDataLength"])}),
    )
    cdp.send("Network.enable")
    cdp.send("Network.setCacheDisabled", {"cacheDisabled": True})
    console.open("/")
    expect(page.get_by_role("heading", name="Health")).to_be_visible()
    page.wait_for_load_state("load")
    total = sum(sizes.get(request, 0) for request in scripts)
    assert 50_000 < total <= FIRST_LOAD, (total, scripts)


def _note(event: dict[str, Any], scripts: dict[str, str]) -> None:
    if event["type"] == "Script":
        scripts[event["requestId"]] = event["response"]["url"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_serious_stands_in_anyone_s_way(
    browser: Browser, running: Running, job: JobSchema, dark: bool, width: int
) -> None:
    watched = new_page(browser, running.platform.api_url, dark=dark, width=width)
    key = running.platform.settings.api_key
    assert key is not None
    watched.sign_in(key)
    found: list[str] = []
    for path in screens(job):
        page = watched.open(path)
        page.get_by_role("heading").first.wait_for(state="attached")
        page.wait_for_timeout(400)  # what is drawn later is looked at by the next screens
        page.evaluate(AXE.read_text())
        answer = page.evaluate(
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa']})"
        )
        found += [
            f"{path}: {each['id']}: {each['nodes'][0]['html']}: "
            f"{each['nodes'][0]['failureSummary']}"
            for each in answer["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        # Nothing is wider than the screen: what is, scrolls inside itself.
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    watched.page.context.close()
    assert not found, "\n".join(found)
    watched.check()


def test_nothing_moves_under_a_reader(browser: Browser, running: Running) -> None:
    """Layout shifts as Chromium counts them; the load of a page is good up to 0.1."""
    live = running.submit(name="live", training={"epochs": 4000, "batch_size": 128})
    running.until_epoch(live, 2)
    key = running.platform.settings.api_key
    assert key is not None
    # On a phone, those screens that are laid out in another way.
    home, page_of_job = "/", f"/jobs/{live.id}"
    wide = (home, "/jobs", "/queue", page_of_job, f"{page_of_job}?tab=curves")
    for width, paths in ((1280, wide), (390, (home, page_of_job))):
        watched = new_page(browser, running.platform.api_url, width=width)
        watched.sign_in(key)
        for path in paths:
            page = watched.open(path)
            page.evaluate(SHIFTS)
            page.get_by_text(re.compile("^live$")).first.wait_for()
            wait_until(partial(page.evaluate, "performance.now() - window.lastShift > 1000"))
            loaded = page.evaluate("window.shifted")
            assert loaded <= 0.1, (path, width)
            if live.id in path:
                progress = page.get_by_text(re.compile(r"\d+ of 4,?000 epochs")).first
                expect(progress).not_to_have_text(progress.inner_text(), timeout=60_000)
                assert page.evaluate("window.shifted") - loaded <= 0.005, (path, width)
        watched.page.context.close()
        watched.check()
    running.client.cancel(live.id)


def test_text_that_means_harm_is_text(console: Watched, job: JobSchema, hostile_log: str) -> None:
    page = console.page
    for path in screens(job):
        console.open(path)
        page.get_by_role("heading").first.wait_for(state="attached")
    # The fixture looks for dialogs, and for what the policy refused.
    console.open(f"/jobs/{job.id}")
    expect(page.get_by_role("heading", level=1)).to_have_text(job.name)
    console.open(f"/jobs/{job.id}?tab=logs&attempt=1")
    log = page.get_by_label("Log", exact=True)
    expect(log).to_contain_text("<img src=x onerror=alert(3)> xxxx")
    assert "\x1b" not in log.inner_text()
    size = page.get_by_role("status").filter(has_text="MiB")
    expect(size).not_to_contain_text("reading")
    began = time.monotonic()
    page.get_by_role("button", name="First error").click()
    expect(log).to_contain_text("ValueError: at last")
    assert time.monotonic() - began < 5.0
