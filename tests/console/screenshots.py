"""Pictures of each screen, at 1280 and 390 pixels, light and dark.

``python -m tests.console.screenshots FOLDER`` starts a platform of its own, with real jobs in it:
two pretrainings with evaluations, the untrained network, a sweep of eight trials, a schedule, one
job that failed, one that was cancelled, and one that runs. ``--url`` and ``--key`` take one that
is there already.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.console.browser import chromium, new_page
from vicreg_platform.cli.local import LocalOptions, LocalPlatform, free_ports
from vicreg_platform.client import Client
from vicreg_platform.jobs.states import JobState
from vicreg_platform.recipes import load_recipe

SETTLE_MILLISECONDS = 1500
"""For what is drawn after the page has loaded."""


@contextmanager
def platform() -> Iterator[tuple[str, str]]:
    """A platform with jobs of every kind: its address and its key."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "data").mkdir()
        api_port, mlflow_port = free_ports(2)
        started = LocalPlatform(LocalOptions(home, home / "data", api_port, mlflow_port, cpus=2))
        started.start()
        try:
            key = started.settings.api_key or ""
            with Client(started.api_url, key=key, wait_seconds=60) as client:
                fill(client)
                yield started.api_url, key
        finally:
            started.end()


def fill(client: Client) -> None:
    """Submit the jobs, and wait for all but the last."""
    digits = load_recipe("digits")
    wide = digits | {"name": "digits-wide", "expander": {"layers": [1024, 1024, 1024]}}
    late = digits | {"name": "digits-out-of-time", "max_runtime": "PT3S", "evaluations": []}
    ended: list[dict[str, Any]] = [
        digits, load_recipe("digits-untrained"), wide, load_recipe("digits-sweep"), late,
    ]  # fmt: skip
    jobs = [client.submit(spec) for spec in ended]
    client.cancel(client.submit(digits | {"name": "digits-by-mistake"}).id)
    job = digits | {"name": "digits {{ scheduled_time }}"}
    client.create_schedule({"name": "nightly", "cron": "30 2 * * *", "job": job})
    for each in jobs:
        client.wait(each.id, timeout=1200)
    training = digits["training"] | {"epochs": 60}
    running = client.submit(digits | {"name": "digits-long", "training": training})
    found = running
    while found.progress is None or found.progress.epoch < 2:
        found = client.get(running.id)
        assert not found.ended, found.reason
        time.sleep(0.5)


def screens(client: Client) -> dict[str, str]:
    """The address of each screen, by name."""
    trained = client.find(kind="pretrain", state="succeeded").items
    by_name = {job.name: job.id for job in trained}
    digits = by_name.get("digits", trained[-1].id)
    pair = quote(str([job.id for job in trained[:3]]).replace("'", '"'))
    sweep = client.find(kind="sweep").items
    failed = client.find(state="failed").items
    running = client.find(state=JobState.RUNNING.value, kind="pretrain").items
    schedules = client.schedules().items
    found = {
        "home": "/",
        "jobs": "/jobs",
        "job": f"/jobs/{digits}",
        "curves": f"/jobs/{digits}?tab=curves",
        "evaluations": f"/jobs/{digits}?tab=evaluations",
        "logs": f"/jobs/{digits}?tab=logs",
        "spec": f"/jobs/{digits}?tab=spec",
        "attempts": f"/jobs/{digits}?tab=attempts",
        "files": f"/jobs/{digits}?tab=files",
        "events": f"/jobs/{digits}?tab=events",
        "compare": f"/compare?job={pair}",
        "new": "/new?recipe=digits",
        "models": "/models",
        "schedules": "/schedules",
        "cluster": "/cluster",
        "keys": "/keys",
    }
    if sweep:
        found |= {"sweep": f"/jobs/{sweep[0].id}?tab=trials"}
        found |= {"trial": f"/jobs/{sweep[0].id}/trials/0"}
    found |= {"failed": f"/jobs/{failed[0].id}"} if failed else {}
    found |= {"running": f"/jobs/{running[0].id}?tab=curves"} if running else {}
    found |= {"schedule": f"/schedules/{schedules[0].id}"} if schedules else {}
    return found


def take(url: str, key: str, folder: Path) -> None:
    """Write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with Client(url, key=key) as client, chromium() as browser:
        for width in (1280, 390):
            for dark in (False, True):
                watched = new_page(browser, url, width=width, dark=dark)
                watched.sign_in(key)
                for name, path in screens(client).items():
                    watched.open(path).wait_for_timeout(SETTLE_MILLISECONDS)
                    file = folder / f"{name}-{width}-{'dark' if dark else 'light'}.png"
                    watched.page.screenshot(path=file)
                watched.page.context.close()
                watched.check()


def main() -> None:
    """Take the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url")
    parser.add_argument("--key", default="")
    given = parser.parse_args()
    if given.url is not None:
        take(given.url, given.key, given.folder)
        return
    with platform() as (url, key):
        take(url, key, given.folder)


if __name__ == "__main__":
    main()
