"""What the console asks of the API: lists, counts, bulk actions, events as they happen, files."""

from __future__ import annotations

import json
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from sqlalchemy import event as sql_event

from tests.integration.conftest import MlflowServer, wait_until
from tests.integration.test_api import DIGITS, Platform, ended_sweep, platform  # noqa: F401
from tests.integration.test_keys import Holder, admin, holder  # noqa: F401
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.contract.checkpoint import CheckpointReport
from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.tags import CHECKPOINTS_TAG, PROGRESS_TAG, TIMELINE_TAG
from vicreg_platform.contract.timeline import AttemptTimeline, Timeline
from vicreg_platform.tracking import MetricPoint, mlflow_client, thinned
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.selfsup.context import State

PROGRESS = Progress(
    epoch=4, epochs=4, step=44, steps=44, images_per_second=900.0, eta_seconds=0.0,
    resumed_at=0, device="CPU", peak_memory=2**30,
)  # fmt: skip
KNN = {
    "kind": "evaluate",
    "protocol": {"name": "knn"},
    "data": {"train": {"source": "digits"}, "test": {"source": "digits", "split": "test"}},
}


def listed(platform: Platform, **query: Any) -> list[str]:  # noqa: F811
    """The names of all jobs of a list, page by page."""
    names: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        answer = platform.http.get("/v1/jobs", params=query | {"limit": 2} | cursor)
        assert answer.status_code == 200, answer.text
        names += [job["name"] for job in answer.json()["items"]]
        if answer.json()["next_cursor"] is None:
            return names
        cursor = {"cursor": answer.json()["next_cursor"]}


def test_jobs_are_filtered_sorted_and_paged(platform: Platform) -> None:  # noqa: F811
    for name, priority in (("b", 5), ("a", 0), ("c", 5), ("100%", 1)):
        platform.submit(name=name, priority=priority, experiment="vision", labels={"team": name})
    platform.http.post(f"/v1/jobs/{platform.submit(name='gone')}/cancel")
    assert listed(platform) == ["gone", "100%", "c", "a", "b"]
    assert listed(platform, order="asc") == ["b", "a", "c", "100%", "gone"]
    assert listed(platform, sort="name", order="asc") == ["100%", "a", "b", "c", "gone"]
    assert listed(platform, sort="priority") == ["c", "b", "100%", "gone", "a"]
    # Unfinished jobs finish last.
    assert listed(platform, sort="finished", order="asc")[0] == "gone"
    assert listed(platform, text="VISION", sort="name", order="asc") == ["100%", "a", "b", "c"]
    assert listed(platform, text="%") == ["100%"]
    assert listed(platform, label="team=b") == ["b"]
    newest = platform.http.get("/v1/jobs", params={"limit": 1}).json()["items"][0]
    assert listed(platform, text=newest["id"]) == ["gone"]
    assert listed(platform, created_from=newest["created_at"]) == ["gone"]
    assert "gone" not in listed(platform, created_before=newest["created_at"])
    assert listed(platform, owner="nobody") == []


def test_jobs_stand_under_the_one_that_they_follow_from(platform: Platform) -> None:  # noqa: F811
    parent = platform.submit(name="p", evaluations=[{"protocol": {"name": "knn"}}])
    assert listed(platform, top_level=True) == ["p"]
    assert listed(platform, parent=parent) == ["p-knn"]
    sweep = ended_sweep(platform)
    promoted = platform.http.post(f"/v1/jobs/{sweep['id']}/promote").json()
    assert promoted["parent"] == sweep["id"]
    assert listed(platform, parent=sweep["id"]) == [promoted["name"]]


def test_counts_are_of_all_pages(platform: Platform) -> None:  # noqa: F811
    for number in range(5):
        platform.submit(name=f"n{number}", experiment="one" if number < 3 else "two")
    platform.http.post(f"/v1/jobs/{platform.submit(experiment='two')}/cancel")
    assert platform.http.get("/v1/jobs/counts").json() == {
        "total": 6,
        "items": [{"value": "queued", "count": 5}, {"value": "cancelled", "count": 1}],
    }
    by_experiment = platform.http.get("/v1/jobs/counts", params={"by": "experiment"}).json()
    assert {each["value"]: each["count"] for each in by_experiment["items"]} == {"one": 3, "two": 3}
    assert platform.http.get("/v1/jobs/counts", params={"state": "failed"}).json()["total"] == 0


def test_a_dry_run_says_what_the_training_would_take_as_measured_before(
    platform: Platform,  # noqa: F811
    mlflow_server: MlflowServer,
) -> None:
    def cost(**changes: Any) -> Any:
        answer = platform.http.post("/v1/jobs", params={"dry_run": True}, json=DIGITS | changes)
        assert answer.status_code == 200, answer.text
        return answer.json()["cost"]

    assert cost() is None
    job = platform.submit(name="first", training={"epochs": 4})
    platform.starts(job)
    first_step = datetime(2026, 1, 1, tzinfo=UTC)
    last_step = first_step + timedelta(seconds=43)
    timeline = Timeline(first_step=first_step, last_step=last_step, published=last_step)
    run = platform.http.get(f"/v1/jobs/{job}").json()["mlflow"]["run_id"]
    told = AttemptTimeline(attempt=1, timeline=timeline).model_dump_json(exclude_none=True)
    client = mlflow_client(mlflow_server.url)
    client.set_tag(run, PROGRESS_TAG, PROGRESS.model_dump_json())
    client.set_tag(run, TIMELINE_TAG, told)
    platform.dispatcher.round()
    # While it runs, its rate counts; at its end, all that it did.
    assert cost(training={"epochs": 100})["job"] == job
    platform.cluster.set(f"{job}-1", SubmissionState.SUCCEEDED, 0)
    platform.dispatcher.round()
    assert platform.http.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"
    assert cost(name="second", training={"epochs": 100, "seed": 5}) == {
        "seconds": 1100.0,  # 100 epochs of 11 steps, each of a second
        "basis": "run",
        "images_per_second": 256.0,
        "workers": 1,
        "device": "CPU",
        "peak_memory": 2**30,
        "job": job,
        "name": "first",
    }
    assert cost(resources={"workers": 2}) is None
    assert cost(training={"batch_size": 128}) is None
    assert platform.http.post("/v1/jobs", params={"dry_run": True}, json=KNN | {
        "encoder": {"job": job}
    }).json()["cost"] is None  # fmt: skip


def test_the_checkpoints_that_there_are_say_where_and_those_that_are_gone_say_so(
    platform: Platform,  # noqa: F811
    mlflow_server: MlflowServer,
    tmp_path: Path,
) -> None:
    job = platform.submit(training={"epochs": 4})
    path = f"/v1/jobs/{job}/checkpoints"
    assert platform.http.get(path).json() == {"items": [], "total": 0}
    platform.starts(job)
    assert platform.http.get(path).json() == {"items": [], "total": 0}
    run = platform.http.get(f"/v1/jobs/{job}").json()["mlflow"]["run_id"]
    client = mlflow_client(mlflow_server.url)

    def tell(report: CheckpointReport) -> None:
        client.set_tag(run, CHECKPOINTS_TAG, report.model_dump_json())

    # As the workers do, in the storage that this API sees.
    checkpoints = Checkpoints(str(tmp_path), job, keep=2, tell=tell)
    for step in (22, 33, 44):
        checkpoints.save(State(step, {"weights": torch.ones(3)}, {}))
    checkpoints.finish()
    client.set_tag(run, PROGRESS_TAG, PROGRESS.model_dump_json())
    last = folder(tmp_path, job, 44)
    client.log_artifact(run, str(last / "shared.pt"), f"checkpoints/{last.name}")
    platform.dispatcher.round()
    answer = platform.http.get(path).json()
    assert answer["total"] == 2
    newest, oldest = answer["items"]
    assert (newest["step"], newest["epoch"], newest["workers"]) == (44, 4.0, 1)
    assert (newest["storage"], newest["present"]) == (str(last), True)
    assert newest["artifact"] == "checkpoints/step-00000044"
    assert newest["size"] > 0
    assert newest["saved_at"] is not None
    assert (oldest["step"], oldest["epoch"], oldest["artifact"]) == (33, 3.0, None)
    # Someone clears the storage up.
    shutil.rmtree(tmp_path / job)
    answer = platform.http.get(path).json()
    assert [each["present"] for each in answer["items"]] == [False, False]
    # A run of a version before says nothing of the storage.
    client.delete_tag(run, CHECKPOINTS_TAG)
    (only,) = platform.http.get(path).json()["items"]
    assert (only["step"], only["storage"], only["present"]) == (44, None, None)
    assert only["artifact"] == "checkpoints/step-00000044"
    # What workers never write is no checkpoint, whoever has written it.
    for name in ("step-44", f"step-{'1' * 200}", "zzz"):
        client.log_text(run, "", f"checkpoints/{name}/shared.pt")
    told = {"step": 10**300, "saved_at": None, "size": -1, "workers": 1}
    client.set_tag(run, CHECKPOINTS_TAG, json.dumps({"folder": "", "checkpoints": [told]}))
    assert platform.http.get(path).json()["items"] == [only]


def folder(storage: Path, job: str, step: int) -> Path:
    return storage / job / "checkpoints" / f"step-{step:08d}"


def test_one_request_changes_many_jobs_and_one_failure_stops_none(
    platform: Platform,  # noqa: F811
    admin: Holder,  # noqa: F811
) -> None:
    alice = holder(platform, admin, "alice", "user")
    bob = holder(platform, admin, "bob", "user")
    own = [alice.submit().json()["id"] for _ in range(2)]
    others = bob.submit().json()["id"]
    asked = {"action": "cancel", "jobs": [own[0], others, "none", own[1]]}
    items = alice.ask("POST", "/v1/jobs/bulk", json=asked).json()["items"]
    assert [item["id"] for item in items] == asked["jobs"]
    assert [(item["job"] or {}).get("state") for item in items] == [
        "cancelled", None, None, "cancelled",
    ]  # fmt: skip
    assert [(item["problem"] or {}).get("code") for item in items] == [
        None, "forbidden", "not_found", None,
    ]  # fmt: skip
    again = alice.ask("POST", "/v1/jobs/bulk", json={"action": "retry", "jobs": own}).json()
    assert [item["job"]["retry_of"] for item in again["items"]] == own
    viewer = holder(platform, admin, "carol", "viewer")
    assert viewer.ask("POST", "/v1/jobs/bulk", json=asked).status_code == 403


def test_labels_can_be_changed_later(platform: Platform) -> None:  # noqa: F811
    job = platform.submit(labels={"team": "vision", "keep": "1"})
    changed = platform.http.patch(f"/v1/jobs/{job}", json={"labels": {"team": None, "good": "yes"}})
    assert changed.json()["labels"] == {"keep": "1", "good": "yes"}
    assert len(platform.http.get("/v1/jobs", params={"label": "good=yes"}).json()["items"]) == 1
    assert platform.http.get("/v1/jobs", params={"label": "team=vision"}).json()["items"] == []
    refused = platform.http.patch(f"/v1/jobs/{job}", json={"labels": {"a//b": "1"}})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_spec")
    assert refused.json()["errors"][0]["field"] == "labels.a//b"
    assert platform.http.get(f"/v1/jobs/{job}").json()["labels"] == {"keep": "1", "good": "yes"}
    many = {"labels": {f"k{number}": "v" for number in range(40)}}
    assert platform.http.patch(f"/v1/jobs/{job}", json=many).status_code == 422


def test_the_spec_as_written_can_be_read_again(platform: Platform) -> None:  # noqa: F811
    job = platform.submit(name="w")
    assert platform.http.get(f"/v1/jobs/{job}/request").json() == DIGITS | {"name": "w"}


def test_recipes_and_schemas_are_offered(platform: Platform) -> None:  # noqa: F811
    recipes = {each["name"]: each for each in platform.http.get("/v1/recipes").json()["items"]}
    assert recipes["digits"]["summary"].startswith("VICReg on scikit-learn's handwritten digits")
    for recipe in recipes.values():
        checked = platform.http.post(
            "/v1/jobs?dry_run=true",
            content=recipe["text"],
            headers={"Content-Type": "application/yaml"},
        )
        # Data that is not here is a fault of the path alone.
        faults = checked.json().get("errors") or []
        assert all("path" in fault["field"] for fault in faults), checked.text
    assert "PretrainSpec" in platform.http.get("/v1/schemas/job").json()["$defs"]
    assert "cron" in platform.http.get("/v1/schemas/schedule").json()["properties"]
    assert platform.http.get("/v1/schemas/other").status_code == 422


# Signing in


@contextmanager
def browser(platform: Platform) -> Iterator[httpx.Client]:  # noqa: F811
    with httpx.Client(base_url=platform.http.base_url, timeout=30) as client:
        yield client


def test_a_browser_signs_in_once_and_out_again(
    platform: Platform,  # noqa: F811
    admin: Holder,  # noqa: F811
) -> None:
    with browser(platform) as client:
        assert client.get("/v1/session").status_code == 401
        assert client.post("/v1/session", json={"key": "vk_wrong"}).status_code == 401
        answer = client.post("/v1/session", json={"key": admin.key})
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert admin.key not in cookie
        assert answer.json() | {"csrf": None} == {
            "name": "root", "role": "admin", "key": admin.key.split("_")[1], "csrf": None,
        }  # fmt: skip
        assert client.get("/v1/jobs").status_code == 200
        csrf = {"X-CSRF-Token": answer.json()["csrf"]}
        assert client.post("/v1/jobs", json=DIGITS).status_code == 403
        wrong = client.post("/v1/jobs", json=DIGITS, headers={"X-CSRF-Token": "x"})
        assert (wrong.status_code, wrong.json()["code"]) == (403, "forbidden")
        made = client.post("/v1/jobs", json=DIGITS, headers=csrf)
        assert (made.status_code, made.json()["owner"]) == (201, "root")
        kept = client.cookies["vicreg_session"]
        assert client.delete("/v1/session", headers=csrf).status_code == 204
        assert "vicreg_session" not in client.cookies
        # Not only forgotten by the browser: ended.
        client.cookies.set("vicreg_session", kept)
        assert client.get("/v1/jobs").status_code == 401


def test_a_session_ends_with_its_key(platform: Platform, admin: Holder) -> None:  # noqa: F811
    viewer = holder(platform, admin, "carol", "viewer")
    with browser(platform) as client:
        csrf = client.post("/v1/session", json={"key": viewer.key}).json()["csrf"]
        # A viewer changes nothing, but may sign out.
        assert client.delete("/v1/session", headers={"X-CSRF-Token": "x"}).status_code == 403
        assert client.delete("/v1/session", headers={"X-CSRF-Token": csrf}).status_code == 204
        assert client.get("/v1/session").status_code == 401
        csrf = client.post("/v1/session", json={"key": viewer.key}).json()["csrf"]
        refused = client.post("/v1/jobs", json=DIGITS, headers={"X-CSRF-Token": csrf})
        assert (refused.status_code, refused.json()["detail"]) == (
            403, "a viewer's key cannot change anything",
        )  # fmt: skip
        admin.ask("DELETE", f"/v1/keys/{viewer.key.split('_')[1]}")
        assert client.get("/v1/jobs").status_code == 401


def test_a_cookie_of_another_service_does_not_lock_out(platform: Platform) -> None:  # noqa: F811
    with browser(platform) as client:
        client.cookies.set("vicreg_session", "of another port")
        assert client.get("/v1/session").json()["role"] == "admin"


# Events as they happen


class Stream:
    """Reads server-sent events in a thread."""

    def __init__(self, platform: Platform, **headers: str) -> None:  # noqa: F811
        self.messages: list[tuple[float, str, dict[str, Any], int | None]] = []
        self.ended = False
        self._client = httpx.Client(base_url=platform.http.base_url, timeout=None)
        self._headers = headers
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_until(lambda: any(kind == "alive" for _, kind, _, _ in self.messages))

    def _read(self) -> None:
        try:
            with self._client.stream("GET", "/v1/events/stream", headers=self._headers) as answer:
                kind, number = "", None
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        kind = value
                    elif name == "id":
                        number = int(value)
                    elif name == "data":
                        self.messages.append((time.monotonic(), kind, json.loads(value), number))
        except httpx.HTTPError:
            pass
        self.ended = True

    def of(self, job_id: str, kind: str = "job") -> list[tuple[float, str, dict[str, Any], Any]]:
        return [each for each in self.messages if each[1] == kind and each[2]["job_id"] == job_id]

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def streams(platform: Platform) -> Iterator[Any]:  # noqa: F811
    opened: list[Stream] = []

    def make(**headers: str) -> Stream:
        opened.append(Stream(platform, **headers))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_an_event_is_told_within_a_second(platform: Platform, streams: Any) -> None:  # noqa: F811
    stream = streams()
    late = []
    for _ in range(5):
        began = time.monotonic()
        job = platform.submit(name="told")
        wait_until(partial(stream.of, job))
        at, _kind, event, _id = stream.of(job)[0]
        late.append(at - began)
    # On a busy machine, one of five may wait for a processor.
    assert statistics.median(late) < 1.0, late
    assert (event["name"], event["after"]) == ("told", "queued")
    assert set(event) == set(platform.http.get("/v1/events").json()["items"][0])


def test_progress_is_told(platform: Platform, streams: Any) -> None:  # noqa: F811
    stream = streams()
    job = platform.submit()
    platform.starts(job)
    # It may be seen while it starts.
    wait_until(lambda: "running" in [each[2]["state"] for each in stream.of(job, "progress")])


def test_a_stream_goes_on_where_it_was_cut(platform: Platform, streams: Any) -> None:  # noqa: F811
    first = streams()
    job = platform.submit()
    wait_until(lambda: first.of(job))
    last = first.of(job)[0][3]
    first.close()
    missed = [platform.submit(name=f"missed {number}") for number in range(3)]
    second = streams(**{"Last-Event-ID": str(last)})
    wait_until(lambda: all(second.of(each) for each in missed))


def test_many_streams_ask_the_database_once(platform: Platform, streams: Any) -> None:  # noqa: F811
    counted = {"now": 0}

    @sql_event.listens_for(platform.database.engine, "before_cursor_execute")
    def _count(*_: Any) -> None:
        counted["now"] += 1

    def rate(seconds: float = 3.0) -> float:
        before = counted["now"]
        time.sleep(seconds)  # a rate is of a span of time
        return (counted["now"] - before) / seconds

    streams()
    of_one = rate()
    for _ in range(19):
        streams()
    assert rate() < 1.5 * of_one + 1


def test_a_stream_ends_with_its_key(
    platform: Platform,  # noqa: F811
    admin: Holder,  # noqa: F811
    streams: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vicreg_api.feed.PERMITTED_SECONDS", 0.5)
    viewer = holder(platform, admin, "carol", "viewer")
    stream = streams(Authorization=f"Bearer {viewer.key}")
    admin.ask("DELETE", f"/v1/keys/{viewer.key.split('_')[1]}")
    wait_until(lambda: stream.ended)


def test_the_stream_needs_a_key(platform: Platform, admin: Holder) -> None:  # noqa: F811
    assert platform.http.get("/v1/events/stream").status_code == 401


# Curves and files


def test_curves_of_several_jobs_are_thinned(platform: Platform) -> None:  # noqa: F811
    jobs = [platform.submit(name=name) for name in ("a", "b")]
    for job in jobs:
        platform.starts(job)
    runs = [platform.http.get(f"/v1/jobs/{job}").json()["mlflow"]["run_id"] for job in jobs]
    for step in range(30):
        platform.tracking._client.log_metric(runs[0], "train/loss", float(step), step=step)
    found = platform.http.get(
        "/v1/metrics", params={"job": [*jobs, "none"], "key": ["train/loss", "x"], "points": 4}
    ).json()["items"]
    assert [point["step"] for point in found[jobs[0]]["train/loss"]] == [0, 10, 19, 29]
    assert found[jobs[1]]["train/loss"] == []
    assert "none" not in found


@pytest.mark.parametrize(
    ("count", "most", "kept"),
    [(0, 5, []), (3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (100, 2, [0, 99])],
)
def test_thinning_keeps_the_ends(count: int, most: int, kept: list[int]) -> None:
    points = [MetricPoint(step, 0.0, 0) for step in range(count)]
    assert [point.step for point in thinned(points, most)] == kept


def test_a_run_s_files_are_listed_and_downloaded(platform: Platform, tmp_path: Any) -> None:  # noqa: F811
    job = platform.submit()
    assert platform.http.get(f"/v1/jobs/{job}/artifacts").json()["items"] == []
    platform.starts(job)
    run = platform.http.get(f"/v1/jobs/{job}").json()["mlflow"]["run_id"]
    content = bytes(range(256)) * 1000
    for folder, name in (("encoder", "weights ü.bin"), ("pictures", "a.png"), ("logs", "x.log")):
        (tmp_path / name).write_bytes(content)
        platform.tracking._client.log_artifact(run, str(tmp_path / name), folder)
    items = platform.http.get(f"/v1/jobs/{job}/artifacts").json()["items"]
    assert items == [
        {"path": "encoder/weights ü.bin", "size": len(content)},
        {"path": "pictures/a.png", "size": len(content)},
    ]
    file = platform.http.get(f"/v1/jobs/{job}/artifacts/encoder/weights%20%C3%BC.bin")
    assert file.content == content
    assert file.headers["content-type"] == "application/octet-stream"
    assert (
        file.headers["content-disposition"] == "attachment; filename*=UTF-8''weights%20%C3%BC.bin"
    )
    assert file.headers["x-content-type-options"] == "nosniff"
    picture = platform.http.get(f"/v1/jobs/{job}/artifacts/pictures/a.png")
    assert picture.headers["content-type"] == "image/png"
    for wrong in ("encoder/none.bin", "..%2F..%2Fmlflow.db", "encoder"):
        assert platform.http.get(f"/v1/jobs/{job}/artifacts/{wrong}").status_code == 404


def test_the_importance_of_parameters_is_read_from_the_run(platform: Platform) -> None:  # noqa: F811
    sweep = ended_sweep(platform)
    path = f"/v1/jobs/{sweep['id']}/importance"
    assert platform.http.get(path).json() is None
    run = platform.http.get(f"/v1/jobs/{sweep['id']}").json()["mlflow"]["run_id"]
    written = {"trials": 9, "items": {"method.variance": 1.0}}
    platform.tracking._client.set_tag(run, "vicreg.importance", json.dumps(written))
    assert platform.http.get(path).json()["items"] == {"method.variance": 1.0}
    platform.tracking._client.set_tag(run, "vicreg.importance", "edited by hand")
    assert platform.http.get(path).json() is None
    assert platform.http.get(f"/v1/jobs/{platform.submit()}/importance").status_code == 422


def test_nodes_say_which_jobs_are_on_them(platform: Platform) -> None:  # noqa: F811
    job = platform.submit()
    platform.starts(job)
    (node,) = platform.http.get("/v1/cluster/nodes").json()["items"]
    assert node["total"] == {"cpus": 4, "gpus": 0}
    assert [(each["job_id"], each["attempt"]) for each in node["jobs"]] == [(job, 1)]


# The page


def test_every_answer_says_what_a_page_may_do(platform: Platform) -> None:  # noqa: F811
    for path in ("/", "/jobs", "/docs", "/v1/jobs", "/healthz", "/nothing"):
        headers = platform.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_the_console_is_served_and_its_files_are_kept(platform: Platform) -> None:  # noqa: F811
    for path in ("/", "/jobs/01a21b6df9e2354ca601?tab=logs", "/schedules/new", "/keys"):
        page = platform.http.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["cache-control"] == "no-cache"
    script = page.text.split('src="', 1)[1].split('"', 1)[0]
    answer = platform.http.get(script)
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    assert platform.http.get("/assets/none.js").status_code == 404
    assert platform.http.get("/v1/nothing").status_code == 404
    assert "http" not in platform.http.get("/docs").text.replace("HTTP", "")
