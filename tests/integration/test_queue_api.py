"""Pausing, changing, extending and the queue, over HTTP and on both databases."""

from __future__ import annotations

from typing import Any

from tests.integration.test_api import DIGITS, Platform, platform  # noqa: F401
from tests.integration.test_keys import Holder, admin, holder  # noqa: F401
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.contract.failure_class import FailureClass
from vicreg_platform.needs import Bundle

LARGE = {"resources": {"workers": 4}}


def post(platform: Platform, path: str, **body: Any) -> tuple[int, dict[str, Any]]:  # noqa: F811
    answer = platform.http.post(f"/v1/jobs/{path}", json=body or None)
    return answer.status_code, answer.json()


def test_the_queue_is_answered_in_the_order_of_the_scheduler(platform: Platform) -> None:  # noqa: F811
    platform.cluster.nodes = (Bundle(4, 0),)
    running = platform.submit(name="running", max_runtime=3600, **LARGE)
    platform.dispatcher.round()
    second = platform.submit(name="second")
    first = platform.submit(name="first", priority=5, **LARGE)
    before = platform.http.get("/v1/queue").json()
    assert before["total"] == 2  # those that have just come are there, without a place
    assert {entry["position"] for entry in before["items"]} == {None}
    platform.dispatcher.round()
    queue = platform.http.get("/v1/queue").json()
    assert [(e["job_id"], e["position"], e["needs"]) for e in queue["items"]] == [
        (first, 1, "4 × 1 CPU"),
        (second, 2, "1 CPU"),
    ]
    assert [(e["job_id"], e["cpus"]) for e in queue["holders"]] == [(running, 4.0)]
    assert queue["items"][0]["basis"] == "limit"
    assert queue["items"][1]["start"] is None
    job = platform.http.get(f"/v1/jobs/{first}").json()
    assert job["queue"]["position"] == 1
    assert job["reason"] == "waits for room: it needs 4 × 1 CPU"
    dry = platform.http.post("/v1/jobs", params={"dry_run": True}, json=DIGITS | LARGE).json()
    assert dry["reason"].startswith("waits for room")
    assert dry["queue"]["position"] == 3
    assert platform.http.get("/v1/queue", params={"limit": 1}).json()["total"] == 2


def test_a_job_is_paused_and_resumed(platform: Platform) -> None:  # noqa: F811
    job = platform.submit()
    assert post(platform, f"{job}/pause")[1]["state"] == "paused"
    assert post(platform, f"{job}/resume", workers=2)[1]["workers"] == 2
    status, problem = post(platform, f"{job}/resume")
    assert (status, problem["code"]) == (409, "illegal_transition")
    other = platform.submit()
    done = platform.http.post(
        "/v1/jobs/bulk", json={"action": "pause", "jobs": [job, other, "none"]}
    ).json()["items"]
    assert [each["job"] and each["job"]["state"] for each in done] == ["paused", "paused", None]
    assert done[2]["problem"]["status"] == 404
    platform.http.post("/v1/jobs/bulk", json={"action": "resume", "jobs": [job, other]})
    platform.dispatcher.round()
    assert platform.http.get(f"/v1/jobs/{other}").json()["state"] == "starting"
    platform.http.post(f"/v1/jobs/{job}/cancel")
    platform.cluster.set(f"{job}-1", SubmissionState.FAILED, FailureClass.INFRASTRUCTURE.exit_code)
    platform.dispatcher.round()
    status, problem = post(platform, f"{job}/pause")
    assert (status, problem["detail"]) == (409, f"job {job} is cancelled: it cannot be paused")


def test_a_change_of_an_older_version_is_refused(platform: Platform) -> None:  # noqa: F811
    path = f"/v1/jobs/{platform.submit()}"
    tag = platform.http.get(path).headers["etag"]
    assert tag == '"1"'
    changed = platform.http.patch(path, json={"priority": 4}, headers={"If-Match": tag})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert changed.json()["priority"] == 4
    assert changed.json()["spec"]["priority"] == 4
    late = platform.http.patch(path, json={"priority": 9}, headers={"If-Match": tag})
    assert (late.status_code, late.json()["code"]) == (412, "precondition_failed")
    odd = platform.http.patch(path, json={"priority": 9}, headers={"If-Match": "newest"})
    assert odd.status_code == 422
    refused = platform.http.patch(path, json={"priority": 9, "data": {}, "kind": "sweep"})
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == ["data", "kind"]
    assert platform.http.get(path).json()["priority"] == 4
    messages = [event["message"] for event in platform.http.get(f"{path}/events").json()["items"]]
    assert messages == ["submitted", "changed by its owner: priority to 4"]


def test_only_its_owner_and_administrators_change_a_job(
    platform: Platform,  # noqa: F811
    admin: Holder,  # noqa: F811
) -> None:
    ann = holder(platform, admin, "ann", "user", max_priority=3)
    bob = holder(platform, admin, "bob", "user")
    job = f"/v1/jobs/{ann.submit().json()['id']}"
    assert bob.ask("POST", f"{job}/pause").status_code == 403
    assert bob.ask("POST", f"{job}/resume").status_code == 403
    assert bob.ask("PATCH", job, json={"priority": 1}).status_code == 403
    assert ann.ask("PATCH", job, json={"priority": 3}).status_code == 200
    above = ann.ask("PATCH", job, json={"priority": 4})
    assert above.status_code == 403
    assert "above 3, the limit of the keys of ann" in above.json()["detail"]
    assert ann.submit(priority=4).status_code == 403
    assert admin.ask("PATCH", job, json={"priority": 4}).status_code == 200
    bulk = {"action": "priority", "priority": 5, "jobs": [job.rpartition("/")[2]]}
    (done,) = ann.ask("POST", "/v1/jobs/bulk", json=bulk).json()["items"]
    assert done["problem"]["status"] == 403
    unsaid = ann.ask("POST", "/v1/jobs/bulk", json=bulk | {"priority": None})
    assert unsaid.status_code == 422
    assert unsaid.json()["detail"] == "priority: the action `priority` needs the new one"
    (found,) = [key for key in admin.ask("GET", "/v1/keys").json()["items"] if key["name"] == "ann"]
    assert (found["max_priority"], found["weight"]) == (3, None)
