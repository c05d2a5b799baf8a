"""How the console and its stream bear 100,000 jobs and 200 browsers.

``python -m tests.benchmarks.console``: a database of 100,000 jobs, the API alone, Chromium. Times
are from the interaction to the frame in which its answer stands on the screen.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.sync_api import Page
from sqlalchemy import insert

from tests.console.browser import chromium, new_page
from vicreg_platform.cli.local import free_ports
from vicreg_platform.client import Client
from vicreg_platform.database import Database
from vicreg_platform.jobs.tables import Event, Job
from vicreg_platform.recipes import load_recipe
from vicreg_platform.specs import parse_spec

STREAMS = 200
ROUNDS = 7


def fill(database: Database, count: int) -> None:
    """Store jobs of all states, as wide as real ones."""
    spec = parse_spec(load_recipe("digits")).model_dump(mode="json")
    states = ["succeeded"] * 80 + ["failed"] * 12 + ["cancelled"] * 7 + ["queued"]
    now = datetime.now(UTC)
    generator = random.Random(0)
    with database.write() as session:
        for start in range(0, count, 1000):
            rows: list[dict[str, Any]] = []
            for number in range(start, start + 1000):
                state = generator.choice(states)
                at = now - timedelta(seconds=30 * (count - number))
                ended = None if state == "queued" else at + timedelta(seconds=90)
                rows.append(
                    {
                        "id": f"{number:015x}00000",
                        "kind": "pretrain",
                        "name": f"job {generator.randrange(10**6):06d}",
                        "experiment": f"experiment {number % 40}",
                        "priority": generator.randrange(5),
                        "spec": spec,
                        "request": spec,
                        "max_attempts": 3,
                        "state": state,
                        "owner": f"owner {number % 12}",
                        "summary": {"train/loss": generator.random()},
                        "created_at": at,
                        "started_at": ended and at,
                        "finished_at": ended,
                        "run_closed_at": ended,
                    }
                )
            session.execute(insert(Job), rows)
            session.execute(
                insert(Event),
                [{"job_id": row["id"], "at": row["created_at"], "after": "queued"} for row in rows],
            )


def interactions(page: Page) -> dict[str, Callable[[], None]]:
    """What a person does with the list, each with the condition of its answer."""

    def click(name: str) -> Callable[[], None]:
        return lambda: page.get_by_role("button", name=name).click()

    def choose(kind: str, option: str) -> Callable[[], None]:
        def act() -> None:
            page.get_by_role("combobox", name=kind).click()
            page.get_by_role("option", name=option, exact=True).click()

        return act

    return {
        "next page": click("Next page"),
        "sort by name": click("Name"),
        "sort by time again": click("Submitted"),
        "only failed": choose("State", "failed"),
    }


WATCH = """() => {
  const first = () => document.querySelector('#row-0 a')?.href
    + document.querySelector('tbody tr:last-child a')?.href;
  const before = first();
  window.answered = null;
  window.pressed = null;
  const press = (event) => { window.pressed = event.timeStamp; };
  addEventListener('pointerdown', press, {capture: true});
  const look = () => {
    if (first() !== before && document.querySelector('#row-0')) {
      requestAnimationFrame(() => { window.answered = performance.now(); });
    } else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""


def timed(page: Page, act: Callable[[], None]) -> float:
    """Milliseconds from the last press of an interaction to the frame with other rows."""
    page.evaluate(WATCH)
    act()
    while page.evaluate("window.answered") is None:
        page.wait_for_timeout(20)
    return float(page.evaluate("window.answered - window.pressed"))


def streams(url: str, key: str, api: psutil.Process, client: Client) -> dict[str, float]:
    """The memory of the API with 200 streams, and how late they tell of a job."""
    heard: list[float] = []
    opened = threading.Semaphore(0)

    def listen() -> None:
        headers = {"Authorization": f"Bearer {key}"}
        address = f"{url}/v1/events/stream"
        with httpx.stream("GET", address, headers=headers, timeout=None) as answer:
            opened.release()
            for line in answer.iter_lines():
                if "streamed" in line:
                    heard.append(time.monotonic())
                    return

    memory = [api.memory_info().rss / 2**20]
    threads = [threading.Thread(target=listen, daemon=True) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    for _ in threads:
        opened.acquire()
    time.sleep(5)  # the memory of a span of time, not of its start
    memory.append(api.memory_info().rss / 2**20)
    time.sleep(20)
    memory.append(api.memory_info().rss / 2**20)
    began = time.monotonic()
    client.submit({"kind": "pretrain", "name": "streamed", "data": {"source": "digits"}})
    for thread in threads:
        thread.join(10)
    return {
        "MiB before": memory[0],
        "MiB with 200 streams": memory[1],
        "MiB 20 s later": memory[2],
        "streams told": float(len(heard)),
        "s until the last was told": max(heard) - began,
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (port,) = free_ports(1)
        database = Database(f"sqlite:///{folder}/platform.db")
        database.migrate()
        fill(database, given.jobs)
        key = "vk_0123abcd_" + "k" * 40
        environment = os.environ | {"VICREG_HOME": folder, "VICREG_API_KEY": key}
        command = [sys.executable, "-m", "vicreg_api", "--port", str(port)]
        with open(Path(folder) / "api.log", "wb") as log:
            api = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            client = Client(url, wait_seconds=60, key=key)
            print(f"{client.find(limit=1).items[0].id}: {given.jobs} jobs", flush=True)
            measure(url, key, given.rounds)
            for name, value in streams(url, key, psutil.Process(api.pid), client).items():
                print(f"{name:30} {value:8.2f}")
        finally:
            api.terminate()
            api.wait()


def measure(url: str, key: str, rounds: int) -> None:
    """Interaction to paint, in milliseconds."""
    with chromium() as browser:
        watched = new_page(browser, url)
        watched.sign_in(key)
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            page = watched.open("/jobs")
            page.locator("#row-49").wait_for()
            for name, act in interactions(page).items():
                times.setdefault(name, []).append(timed(page, act))
        for name, found in times.items():
            print(
                f"{name:30} median {statistics.median(found):6.0f} ms, worst {max(found):6.0f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
