"""The screen of a trial, with a real API, database and MLflow server, and no cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser import Watched, new_page
from tests.integration.conftest import MlflowServer, mlflow_server
from tests.integration.test_api import Platform, platform
from tests.integration.test_trials import tried_sweep
from vicreg_platform.cluster import SubmissionState

__all__ = ["mlflow_server", "platform"]


@pytest.fixture
def console(browser: Browser, platform: Platform) -> Iterator[Watched]:
    """A page of the platform, which ends only when nobody listens to it any more."""
    watched = new_page(browser, str(platform.http.base_url).rstrip("/"))
    yield watched
    watched.page.context.close()
    watched.check()


def test_a_trial_is_opened_from_the_leaderboard_and_says_why_it_was_cut(
    console: Watched,
    platform: Platform,
    mlflow_server: MlflowServer,
) -> None:
    job = tried_sweep(platform, mlflow_server.url)
    page = console.open(f"/jobs/{job['id']}?tab=trials")
    page.get_by_role("link", name="Trial 1").click()
    page.wait_for_url(re.compile("/trials/1"))
    expect(page.get_by_role("heading", name="Trial 1", level=1)).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text(
        "asha stopped it after 2 epochs: others were better there"
    )
    expect(page.get_by_role("region", name="Parameters")).to_contain_text("method.variance5")
    seeds = page.get_by_role("region", name="Seeds")
    expect(seeds).to_contain_text("2 of 2 have begun")
    expect(seeds.get_by_role("row", name=re.compile("^11 stopped 2 of 4"))).to_be_visible()
    curve = page.get_by_role(
        "figure",
        name=re.compile(r"latest: knn.top1, seed 10 0.22, knn.top1, seed 11 1.22"),
    )
    expect(curve).to_be_visible()
    # What it shows is in its address.
    page.get_by_text("epoch", exact=True).click()
    page.wait_for_url(re.compile("axis=epoch"))
    page.get_by_role("link", name="search").click()
    expect(page.get_by_role("heading", name="Leaderboard")).to_be_visible()
    # One that has not begun is not there.
    console.open(f"/jobs/{job['id']}/trials/9")
    expect(page.get_by_text("has no trial 9")).to_be_visible()


def test_the_best_configuration_of_a_sweep_is_promoted(
    console: Watched,
    platform: Platform,
    mlflow_server: MlflowServer,
) -> None:
    job = tried_sweep(platform, mlflow_server.url)
    platform.cluster.set(f"{job['id']}-1", SubmissionState.SUCCEEDED, 0)
    platform.dispatcher.round()
    page = console.open(f"/jobs/{job['id']}?tab=trials")
    for title in ("^Parameters and objective", "^Objective"):
        expect(page.get_by_role("figure", name=re.compile(title)).first).to_be_visible()
    page.get_by_role("button", name="Promote the best").click()
    page.wait_for_url(re.compile(f"/jobs/(?!{job['id']})[0-9a-f]{{20}}"))
    facts = page.get_by_role("row", name=re.compile("^Promoted from"))
    expect(facts).to_contain_text(job["name"])
    expect(page).to_have_title(re.compile(" · VICReg$"))
