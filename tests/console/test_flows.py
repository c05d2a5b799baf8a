"""What people do in the console, on a running platform with real jobs."""

from __future__ import annotations

import os
import re
import signal

import yaml
from playwright.sync_api import Browser, Page, expect

from tests.console.browser import Watched, new_page
from tests.e2e.conftest import Running, small

OWN = {"layers": [48, 48]}
"""An expander that no other test trains."""
LONG = 120_000.0
"""Milliseconds that a job may take."""


def write(page: Page, label: str, text: str) -> None:
    """Replace the text of an editor."""
    editor = page.get_by_label(label, exact=True)
    editor.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


def submit(page: Page, **changes: object) -> str:
    """Submit a job in the console; its id."""
    page.get_by_role("link", name="New job").click()
    write(page, "Spec", yaml.safe_dump(small(**changes)))
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("/jobs/[0-9a-f]{20}"))
    return page.url.rsplit("/", 1)[-1].partition("?")[0]


def test_a_job_is_corrected_submitted_and_watched_to_its_end(
    console: Watched, running: Running
) -> None:
    page = console.open("/")
    page.get_by_role("link", name="New job").click()
    page.get_by_role("link", name=re.compile("^digits VICReg")).click()
    expect(page.get_by_label("Spec", exact=True)).to_contain_text("LARS with solo-learn")
    # A fault is named, at its line, and nothing can be submitted.
    faulty = small(name="watched", training={"epochs": 0, "batch_size": 128})
    write(page, "Spec", yaml.safe_dump(faulty))
    fault = page.get_by_role("alert").filter(has_text="training.epochs")
    expect(fault).to_contain_text("greater than or equal to 1")
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    marked = page.locator(".cm-lintRange-error")
    expect(marked).to_have_text("epochs")
    write(
        page,
        "Spec",
        yaml.safe_dump(
            small(name="watched", expander=OWN, evaluations=[{"protocol": {"name": "knn"}}])
        ),
    )
    expect(page.get_by_text("The spec is valid.")).to_be_visible()
    cost = page.get_by_role("note", name="What it would take")
    expect(cost).to_contain_text("no run is known with the same network")
    expect(page.get_by_label("Resolved spec")).to_contain_text("kind: pretrain")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("/jobs/[0-9a-f]{20}"))
    # It changes by itself: the page is not loaded again.
    page.evaluate("window.neverReloaded = true")
    heading = page.get_by_role("heading", name="watched", level=1)
    expect(heading).to_be_visible()
    for state in ("running", "succeeded"):
        expect(page.locator("main").get_by_text(state, exact=True).first).to_be_visible(
            timeout=LONG
        )
    expect(page.get_by_text("2 of 2 epochs")).to_be_visible()
    expect(page.get_by_text("first step", exact=True)).to_be_visible()
    # So short a training is no good, and is said to be none.
    expect(page.get_by_role("alert", name="invariance not falling")).to_be_visible()
    expect(page.get_by_text(re.compile("^vicreg export [0-9a-f]{20} encoder.pth"))).to_be_visible()
    page.get_by_role("tab", name="Curves").click()
    expect(
        page.get_by_role("figure", name=re.compile("^Loss, latest: train.loss [0-9]"))
    ).to_be_visible()
    page.get_by_role("tab", name="Evaluations").click()
    expect(page.get_by_role("row", name=re.compile(r"knn.top1 [0-9.]+ %"))).to_be_visible(
        timeout=LONG
    )
    assert page.evaluate("window.neverReloaded") is True
    page.get_by_role("tab", name="Files").click()
    last = page.get_by_role("region", name="Checkpoints").get_by_role("row", name=re.compile("^22"))
    expect(last).to_contain_text(str(running.storage))
    expect(last).to_contain_text("checkpoints/step-00000022")
    with page.expect_download() as download:
        page.get_by_role("link", name=re.compile("safetensors$")).first.click()
    assert download.value.path().stat().st_size > 100_000
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("row", name=re.compile("watched"))).to_contain_text("%")
    # What it has taken is what another would take.
    page.get_by_role("link", name="New job").click()
    write(page, "Spec", yaml.safe_dump(small(name="again", expander=OWN)))
    expect(cost).to_contain_text(re.compile("Training would take .* Each takes up to .* MiB|GiB"))
    cost.get_by_role("link", name="watched").click()
    expect(heading).to_be_visible()


def test_logs_are_read_live_searched_and_by_attempt(console: Watched) -> None:
    page = console.page
    submit(page, name="logged", training={"epochs": 6, "batch_size": 128})
    page.get_by_role("tab", name="Logs").click()
    log = page.get_by_label("Log", exact=True)
    expect(log).to_contain_text("saved a checkpoint after step", timeout=LONG)
    page.get_by_role("button", name="Search by regular expression").click()
    page.locator(".cm-search input[name=search]").press_sequentially("step [0-9]{2}")
    page.keyboard.press("Enter")
    expect(page.locator(".cm-searchMatch-selected")).to_have_text(
        re.compile("step [0-9]{2}"), timeout=LONG
    )
    page.get_by_role("combobox", name="Attempt").click()
    page.get_by_role("option", name="Attempt 1").click()
    page.wait_for_url(re.compile("attempt=1"))
    log.click()
    page.keyboard.press("Control+Home")  # it is followed at its end
    expect(log).to_contain_text("attempt 1 of job")


def test_a_job_is_paused_resumed_and_made_urgent(console: Watched, running: Running) -> None:
    page = console.page
    main = page.locator("main")
    large = {"training": {"epochs": 400, "batch_size": 128}, "resources": {"workers": 2}}
    holding = submit(page, name="holding", **large)
    expect(main.get_by_text("running", exact=True).first).to_be_visible(timeout=LONG)
    waiting = submit(page, name="waiting-one", **large)
    expect(main.get_by_text("queued", exact=True).first).to_be_visible()
    page.get_by_role("navigation").get_by_role("link", name="Queue").click()
    row = page.get_by_role("row", name=re.compile("waiting-one"))
    expect(row).to_contain_text("waits for room: it needs 2 × 1 CPU")
    # Its priority changes in place, and it takes the other's room.
    row.get_by_role("button", name=re.compile("priority", re.IGNORECASE)).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name="Priority").fill("7")
    dialog.get_by_role("button", name="Save").click()
    running.until(running.client.get(holding), lambda job: job.made_room_for == waiting)
    page.goto(f"{console.url}/jobs/{waiting}")
    expect(main.get_by_text("running", exact=True).first).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(main.get_by_text("paused", exact=True).first).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Resume", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name="Workers").fill("1")
    dialog.get_by_role("button", name="Resume the job").click()
    resumed = running.until(
        running.client.get(waiting),
        lambda job: len(job.attempts) == 2 and job.state == "running",
    )
    assert [attempt.workers for attempt in resumed.attempts] == [2, 1]
    page.get_by_role("tab", name="Attempts").click()
    expect(main.get_by_text(re.compile("paused")).first).to_be_visible()
    for job in (holding, waiting):
        running.client.cancel(job)
        running.wait(running.client.get(job))


def test_a_job_is_cancelled_and_retried(console: Watched) -> None:
    page = console.page
    first = submit(page, name="stopped", training={"epochs": 400, "batch_size": 128})
    main = page.locator("main")
    expect(main.get_by_text("running", exact=True).first).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("Its last checkpoint is kept")
    page.get_by_role("button", name="Cancel the job").click()
    expect(main.get_by_text("cancelled", exact=True).first).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Retry").click()
    page.wait_for_url(lambda url: "/jobs/" in url and first not in url)
    expect(page.get_by_text("Retries")).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(main.get_by_text("cancelled", exact=True).first).to_be_visible(timeout=LONG)


def test_two_jobs_are_found_chosen_and_compared(console: Watched, running: Running) -> None:
    for width in (32, 64):
        running.submit(
            name=f"pair {width}",
            expander={"layers": [width, width]},
            training={"epochs": 1, "batch_size": 128},
        )
    page = console.open("/jobs")
    page.get_by_role("heading", name="Jobs").wait_for()
    page.keyboard.press("/")
    page.keyboard.insert_text("pair ")
    page.wait_for_url(re.compile("text="))
    expect(page.get_by_role("status").get_by_text("2 jobs")).to_be_visible()
    expect(page.locator("tr[id^=row-]")).to_have_count(2)
    page.keyboard.press("Escape")
    # Enter does what the focused control does, not what the row would.
    page.get_by_role("button", name=re.compile("^Name")).focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("sort=name"))
    # By the keyboard alone.
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.get_by_role("region", name="Chosen jobs")).to_contain_text("2 jobs chosen")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("columnheader", name="expander.layers")).to_be_visible()
    # Only what differs.
    expect(page.get_by_role("columnheader", name="training.epochs")).to_have_count(0)
    figure = page.get_by_role(
        "figure", name=re.compile("^train.loss, latest: pair .* [0-9.]+, pair .* [0-9.]+")
    )
    expect(figure).to_be_visible(timeout=LONG)
    # The address is all that another person needs.
    other = console.page.context.new_page()
    other.goto(page.url)
    expect(other.get_by_role("columnheader", name="expander.layers")).to_be_visible()
    other.close()
    console.open("/jobs?text=pair")
    page.get_by_label("Choose all on this page").click()
    page.get_by_role("button", name="Label").click()
    page.get_by_role("textbox", name="Label").fill("team=vision")
    page.get_by_role("button", name="Set the label").click()
    expect(page.get_by_text("Labelled: 2 jobs")).to_be_visible()
    console.open("/jobs?label=team%3Dvision")
    expect(page.get_by_role("status").get_by_text("2 jobs")).to_be_visible()
    # One is compared from its own page, with another that is found by its name.
    page.get_by_role("link", name="pair 32").click()
    page.locator("main").get_by_role("link", name="Compare").click()
    page.get_by_role("combobox", name="Add a job by its name or id").fill("pair 6")
    page.get_by_role("option", name=re.compile("^pair 64")).click()
    expect(page.get_by_role("columnheader", name="expander.layers")).to_be_visible()


def test_a_schedule_is_made_run_paused_edited_and_deleted(console: Watched) -> None:
    page = console.open("/schedules")
    page.get_by_role("link", name="New schedule").click()
    job = small(name="by the clock")
    schedule = {"name": "weekly", "cron": "0 0 * * 0", "job": job}
    labelled = schedule | {"job": job | {"labels": {"team": "vision"}}}
    write(page, "Schedule", yaml.safe_dump(schedule | {"cron": "99 * * * *"}))
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert")).to_contain_text("cron")
    write(page, "Schedule", yaml.safe_dump(labelled))
    page.get_by_role("button", name="Create").click()
    page.wait_for_url(re.compile("/schedules/[0-9a-f]{20}"))
    address = page.url
    expect(page.get_by_text(re.compile("^in [0-9]+ (d|h|min)")).first).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("main").get_by_text("paused", exact=True)).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("main").get_by_text("active", exact=True)).to_be_visible()
    page.get_by_role("button", name="Edit").click()
    edited = schedule | {"name": "monthly", "cron": "0 0 1 * *"}
    write(page, "Edit the spec of the schedule", yaml.safe_dump(edited))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="monthly")).to_be_visible()
    # Lines that were deleted are gone.
    expect(page.get_by_label("Spec of the schedule")).to_contain_text("by the clock")
    expect(page.get_by_label("Spec of the schedule")).not_to_contain_text("vision")
    page.get_by_role("button", name="Run now").click()
    page.wait_for_url(re.compile("/jobs/[0-9a-f]{20}"))
    expect(page.get_by_role("heading", name="by the clock")).to_be_visible()
    page.goto(address)
    expect(page.get_by_role("region", name="Past times")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the schedule").click()
    page.wait_for_url(re.compile("/schedules$"))


def test_a_key_is_made_used_and_revoked(console: Watched, browser: Browser) -> None:
    page = console.open("/keys")
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Owner").fill("carol")
    page.get_by_role("combobox", name="Role").click()
    page.get_by_role("option", name="viewer").click()
    page.get_by_role("button", name="Create the key").click()
    made = page.get_by_role("dialog").get_by_text(re.compile("^vk_"))
    expect(made).to_be_visible()
    key = made.inner_text()
    page.get_by_role("button", name="Done").click()
    viewer = new_page(browser, console.url)
    viewer.sign_in(key)
    assert key not in viewer.page.url
    stored = viewer.page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert "vk_" not in stored
    assert "vicreg_session" not in stored
    # What a viewer may not do is not offered.
    expect(viewer.page.get_by_role("link", name="New job")).to_have_count(0)
    expect(viewer.page.get_by_role("link", name="Keys")).to_have_count(0)
    row = page.get_by_role("row", name=re.compile("carol"))
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(row).to_contain_text("revoked")
    viewer.open("/jobs")
    expect(viewer.page.get_by_role("button", name="Sign in")).to_be_visible()
    viewer.page.context.close()
    page.get_by_role("tab", name="Audit").click()
    expect(page.get_by_role("row", name=re.compile("DELETE .v1.keys.")).first).to_be_visible()


def test_signing_out_ends_the_session(console: Watched) -> None:
    page = console.open("/jobs")
    page.get_by_role("button", name="Account and help").click()
    page.get_by_role("menuitem", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    console.open("/jobs")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_a_wrong_key_is_refused_in_words(browser: Browser, running: Running) -> None:
    watched = new_page(browser, running.platform.api_url)
    page = watched.open("/jobs")
    page.get_by_role("textbox", name="API key").fill("vk_00000000_" + "x" * 40)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("the API key is not valid")).to_be_visible()
    page.context.close()
    watched.check()


def test_the_reference_of_the_api_loads_nothing_from_elsewhere(
    browser: Browser, running: Running
) -> None:
    watched = new_page(browser, running.platform.api_url)
    page = watched.open("/docs")
    expect(page.get_by_text("/v1/jobs/bulk")).to_be_visible()
    page.context.close()
    watched.check()


def test_the_page_is_marked_stale_when_nothing_is_heard(console: Watched, running: Running) -> None:
    page = console.open("/")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    api = running.child("api").process
    assert api is not None
    os.kill(api.pid, signal.SIGSTOP)
    try:
        expect(page.get_by_text("stale", exact=True)).to_be_visible()
    finally:
        os.kill(api.pid, signal.SIGCONT)
    expect(page.get_by_text("live", exact=True)).to_be_visible()
