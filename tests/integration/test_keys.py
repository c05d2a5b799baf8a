"""API keys over a socket: who may do what, how often, and what the audit log records."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import wait_until
from tests.integration.test_api import DIGITS, Platform, platform  # noqa: F401
from vicreg_api.access import RateLimit
from vicreg_platform.cli.local import free_ports
from vicreg_platform.database import Database
from vicreg_platform.errors import InvalidKey, TooManyRequests
from vicreg_platform.keys.schemas import Role
from vicreg_platform.keys.service import KeyService, new_key

SCHEDULE = {"name": "s", "cron": "0 0 * * *", "job": DIGITS}


class Holder:
    """Someone with an API key."""

    def __init__(self, platform: Platform, key: str) -> None:  # noqa: F811
        self._http = platform.http
        self.key = key

    def ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | body.pop("headers", {})
        return self._http.request(method, path, headers=headers, **body)

    def submit(self, **changes: Any) -> httpx.Response:
        return self.ask("POST", "/v1/jobs", json=DIGITS | changes)


@pytest.fixture
def admin(platform: Platform) -> Holder:  # noqa: F811
    """The first key: from now on the API requires one."""
    made = platform.http.post("/v1/keys", json={"name": "root", "role": "admin"})
    assert made.status_code == 201, made.text
    return Holder(platform, made.json()["key"])


def holder(platform: Platform, admin: Holder, name: str, role: str, **limits: Any) -> Holder:  # noqa: F811
    made = admin.ask("POST", "/v1/keys", json={"name": name, "role": role} | limits)
    assert made.status_code == 201, made.text
    return Holder(platform, made.json()["key"])


def test_without_keys_loopback_is_open_and_the_first_key_closes_it(platform: Platform) -> None:  # noqa: F811
    assert platform.http.get("/v1/jobs").status_code == 200
    platform.http.post("/v1/keys", json={"name": "root", "role": "admin"})
    refused = platform.http.get("/v1/jobs")
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_key")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert platform.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/schedules", "/v1/cluster", "/v1/keys"])
def test_every_resource_asks_for_a_key(platform: Platform, admin: Holder, path: str) -> None:  # noqa: F811
    assert platform.http.get(path).status_code == 401
    assert Holder(platform, new_key()).ask("GET", path).status_code == 401
    assert Holder(platform, admin.key + "x").ask("GET", path).status_code == 401
    assert admin.ask("GET", path).status_code == 200


def test_viewers_look_users_change_their_own_and_admins_all(
    platform: Platform,  # noqa: F811
    admin: Holder,
) -> None:
    alice = holder(platform, admin, "alice", "user")
    bob = holder(platform, admin, "bob", "user")
    viewer = holder(platform, admin, "carol", "viewer")
    job = alice.submit().json()
    assert job["owner"] == "alice"
    path = f"/v1/jobs/{job['id']}"
    schedule = alice.ask("POST", "/v1/schedules", json=SCHEDULE).json()
    assert schedule["owner"] == "alice"
    clock = f"/v1/schedules/{schedule['id']}"

    for other in (bob, viewer):
        assert other.ask("GET", path).status_code == 200
        for method, place in (
            ("POST", f"{path}/cancel"),
            ("POST", f"{clock}/pause"),
            ("POST", f"{clock}/run-now"),
            ("DELETE", clock),
        ):
            refused = other.ask(method, place)
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), place
    assert viewer.submit().status_code == 403
    assert bob.ask("POST", f"{path}/clone").json()["owner"] == "bob"
    assert bob.ask("GET", "/v1/keys").status_code == 403
    assert bob.ask("GET", "/v1/audit").status_code == 403

    made = alice.ask("POST", f"{clock}/run-now").json()
    assert made["owner"] == "alice"
    assert alice.ask("POST", f"{path}/cancel").json()["state"] == "cancelled"
    assert admin.ask("DELETE", clock).status_code == 204


def test_a_key_ends_when_it_is_revoked_or_expires(platform: Platform, admin: Holder) -> None:  # noqa: F811
    alice = holder(platform, admin, "alice", "user")
    prefix = alice.key.split("_")[1]
    assert alice.ask("GET", "/v1/jobs").status_code == 200
    revoked = admin.ask("DELETE", f"/v1/keys/{prefix}").json()
    assert revoked["revoked_at"] is not None
    assert alice.ask("GET", "/v1/jobs").status_code == 401
    listed = {key["prefix"]: key for key in admin.ask("GET", "/v1/keys").json()["items"]}
    assert listed[prefix]["last_used_at"] is not None
    assert admin.ask("DELETE", "/v1/keys/00000000").status_code == 404


def test_there_is_always_an_administrator(platform: Platform) -> None:  # noqa: F811
    early = platform.http.post("/v1/keys", json={"name": "a", "role": "user"})
    assert (early.status_code, early.json()["code"]) == (409, "conflict")
    made = platform.http.post("/v1/keys", json={"name": "root", "role": "admin"}).json()
    root = Holder(platform, made["key"])
    assert root.ask("DELETE", f"/v1/keys/{made['prefix']}").status_code == 409
    other = root.ask("POST", "/v1/keys", json={"name": "second", "role": "admin"}).json()
    assert root.ask("DELETE", f"/v1/keys/{made['prefix']}").status_code == 200
    assert Holder(platform, other["key"]).ask("GET", "/v1/keys").status_code == 200


def test_a_revoked_keys_quota_still_bounds_its_owners_schedules(
    platform: Platform,  # noqa: F811
    admin: Holder,
) -> None:
    alice = holder(platform, admin, "alice", "user", max_jobs=1)
    schedule = alice.ask("POST", "/v1/schedules", json=SCHEDULE | {"overlap": "queue"}).json()
    admin.ask("DELETE", f"/v1/keys/{alice.key.split('_')[1]}")
    run = f"/v1/schedules/{schedule['id']}/run-now"
    assert admin.ask("POST", run).status_code == 201
    assert admin.ask("POST", run).json()["code"] == "quota_exceeded"


@pytest.mark.parametrize(
    "odd",
    [
        {"expires_in": 1e15},
        {"expires_in": -1},
        {"expires_in": "12:00"},
        {"max_jobs": 2**40},
        {"max_gpus": 2**40},
        {"role": "god"},
        {"name": "a\x00b"},
    ],
    ids=str,
)
def test_an_odd_key_is_refused(platform: Platform, odd: dict[str, Any]) -> None:  # noqa: F811
    answer = platform.http.post("/v1/keys", json={"name": "a", "role": "user"} | odd)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "Value error" not in answer.text


def test_an_expired_key_opens_nothing(database_url: str) -> None:
    database = Database(database_url)
    database.migrate()
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    keys = KeyService(database, lambda: moment)
    made = keys.create("alice", Role.ADMIN, expires_in=timedelta(days=1))
    assert keys.authenticate(made.key).name == "alice"
    moment += timedelta(days=1)
    with pytest.raises(InvalidKey):
        keys.authenticate(made.key)
    assert keys.any()
    assert not keys.any_administrator()


def test_a_quota_bounds_jobs_and_gpus_that_have_not_ended(
    platform: Platform,  # noqa: F811
    admin: Holder,
) -> None:
    alice = holder(platform, admin, "alice", "user", max_jobs=2, max_gpus=2)
    two = {"resources": {"gpus_per_worker": 1, "workers": 2}}
    first = alice.submit(**two).json()
    refused = alice.submit(**two)
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
    assert "2 GPUs" in refused.json()["detail"]
    cloud = {"resources": {"gpus_per_worker": 1}, "evaluations": [{"protocol": {"name": "knn"}}]}
    bob = holder(platform, admin, "bob", "user", max_gpus=1)
    assert "would add 2" in bob.submit(**cloud).json()["detail"]
    assert alice.submit(evaluations=[{"protocol": {"name": "knn"}}]).status_code == 403
    assert alice.submit().status_code == 201
    assert "2 unfinished jobs" in alice.submit().json()["detail"]
    alice.ask("POST", f"/v1/jobs/{first['id']}/cancel")
    assert alice.submit(**two).status_code == 201


def test_a_key_makes_only_so_many_changes() -> None:
    seconds = 0.0
    rate = RateLimit(2, lambda: seconds)
    rate.take("a")
    rate.take("a")
    with pytest.raises(TooManyRequests) as refusal:
        rate.take("a")
    assert refusal.value.seconds == 30
    rate.take("b")
    seconds = 30.0
    rate.take("a")
    with pytest.raises(TooManyRequests):
        rate.take("a")


def test_every_change_is_in_the_audit_log_with_how_it_ended(
    platform: Platform,  # noqa: F811
    admin: Holder,
) -> None:
    alice = holder(platform, admin, "alice", "user")
    job = alice.submit().json()
    alice.ask("GET", f"/v1/jobs/{job['id']}")
    alice.ask("POST", "/v1/keys", json={"name": "x", "role": "admin"})

    def entries() -> list[tuple[Any, ...]]:
        items = admin.ask("GET", "/v1/audit").json()["items"]
        return [(each["name"], each["method"], each["path"], each["status"]) for each in items]

    expected = [
        ("alice", "POST", "/v1/keys", 403),
        ("alice", "POST", "/v1/jobs", 201),
        ("root", "POST", "/v1/keys", 201),
        ("anyone", "POST", "/v1/keys", 201),
    ]
    wait_until(lambda: entries() == expected)  # the outcome is recorded after the answer
    newest = admin.ask("GET", "/v1/audit", params={"limit": 1}).json()
    assert newest["items"][0]["address"] == "127.0.0.1"
    assert newest["items"][0]["key"] == alice.key.split("_")[1]
    older = admin.ask("GET", "/v1/audit", params={"cursor": newest["next_cursor"]}).json()
    assert older["items"][0]["path"] == "/v1/jobs"
    assert older["items"][0]["made"] == f"/v1/jobs/{job['id']}"


def test_an_odd_path_is_written_too(platform: Platform, admin: Holder) -> None:  # noqa: F811
    assert admin.ask("POST", "/v1/jobs/%00/cancel").status_code == 422
    (entry,) = admin.ask("GET", "/v1/audit", params={"limit": 1}).json()["items"]
    assert entry["path"] == "/v1/jobs/%00/cancel"


def test_one_owners_idempotency_keys_are_not_anothers(platform: Platform, admin: Holder) -> None:  # noqa: F811
    alice, bob = (holder(platform, admin, name, "user") for name in ("alice", "bob"))
    same = {"headers": {"Idempotency-Key": "1"}, "json": DIGITS}
    jobs = [who.ask("POST", "/v1/jobs", **same).json() for who in (alice, alice, bob)]
    assert [job["owner"] for job in jobs] == ["alice", "alice", "bob"]
    assert jobs[0]["id"] == jobs[1]["id"] != jobs[2]["id"]


def serve(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "vicreg_api", *arguments],
        env=os.environ | {"VICREG_HOME": str(folder)} | environment,
        stdout=(folder / "api.log").open("wb"),
        stderr=subprocess.STDOUT,
    )


@contextmanager
def served(folder: Path, key: str, **environment: str) -> Iterator[httpx.Client]:
    """A client of an API that others can reach; its log is ``api.log`` of the folder."""
    (port,) = free_ports(1)
    environment["VICREG_API_KEY"] = key
    process = serve(folder, "--host", "0.0.0.0", "--port", str(port), **environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:

            def answers() -> bool:
                try:
                    return http.get("/healthz").is_success
                except httpx.TransportError:
                    assert process.poll() is None, (folder / "api.log").read_text()
                    return False

            wait_until(answers)
            yield http
    finally:
        process.terminate()
        process.wait()


def test_where_others_reach_it_the_api_does_not_start_without_a_key(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    place = ("--host", "0.0.0.0", "--port", str(port))
    refused = serve(tmp_path, *place)
    assert refused.wait(60) == 2
    assert (
        "there is no administrator's API key: create one with `vicreg keys create"
        in (tmp_path / "api.log").read_text()
    )
    weak = serve(tmp_path, *place, VICREG_API_KEY="secret")
    assert weak.wait(60) == 2
    assert "must be vk_, 8 hex digits" in (tmp_path / "api.log").read_text()


def test_a_key_is_in_no_log_no_row_and_no_error(tmp_path: Path) -> None:
    key = new_key()
    with served(tmp_path, key) as http:
        bearer = {"Authorization": f"Bearer {key}"}
        made = http.post("/v1/keys", json={"name": "a", "role": "user"}, headers=bearer)
        assert made.status_code == 201
        answers_given = [
            http.post("/v1/jobs", json={"kind": key[:3]}, headers=bearer).text,
            http.get("/v1/jobs", headers={"Authorization": f"Bearer {key}x"}).text,
            http.get("/v1/keys", headers=bearer).text,
            http.get("/v1/audit", headers=bearer).text,
        ]
    stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"POST /v1/keys" in stored
    for secret in (key, made.json()["key"]):
        tail = re.sub(r"^vk_[0-9a-f]{8}_", "", secret)
        assert tail.encode() not in stored
        assert not any(tail in answer for answer in answers_given)


def test_changes_of_every_kind_are_limited_also_those_that_are_refused(tmp_path: Path) -> None:
    """What is beyond the limit is in no audit log, which would otherwise grow without one."""
    key = new_key()
    with served(tmp_path, key, VICREG_POSTS_PER_MINUTE="3") as http:
        http.headers["Authorization"] = f"Bearer {key}"
        asked = [
            http.request(method, path).status_code
            for method, path in (
                ("POST", "/v1/jobs/none/cancel"),
                ("PATCH", "/v1/jobs/none"),
                ("DELETE", "/v1/keys/00000000"),
                ("POST", "/v1/jobs/none/cancel"),
                ("PATCH", "/v1/jobs/none"),
                ("DELETE", "/v1/keys/00000000"),
            )
        ]
        assert 429 not in asked[:3]
        assert asked[3:] == [429] * 3
        assert len(http.get("/v1/audit").json()["items"]) == 3


def test_a_caller_is_where_a_trusted_proxy_says(tmp_path: Path) -> None:
    """Anyone can send X-Forwarded-For: the audit log must not repeat it."""
    key = new_key()
    sent = {"Authorization": f"Bearer {key}", "X-Forwarded-For": "203.0.113.7"}
    for trusted, address in (
        ({}, "127.0.0.1"),
        ({"FORWARDED_ALLOW_IPS": "192.0.2.1"}, "127.0.0.1"),
        ({"FORWARDED_ALLOW_IPS": "127.0.0.1"}, "203.0.113.7"),
    ):
        with served(tmp_path, key, **trusted) as http:
            assert http.post("/v1/jobs/none/cancel", headers=sent).status_code >= 400
            newest = http.get("/v1/audit", params={"limit": 1}, headers=sent).json()["items"][0]
            assert newest["address"] == address


def test_what_a_key_may_not_do_fills_no_log(platform: Platform, admin: Holder) -> None:  # noqa: F811
    viewer = holder(platform, admin, "carol", "viewer")

    def entries() -> list[int]:
        return [entry["id"] for entry in admin.ask("GET", "/v1/audit").json()["items"]]

    before = entries()
    for _ in range(5):
        assert viewer.ask("POST", f"/v1/jobs/{'x' * 3000}/cancel").status_code in (403, 422)
    assert entries() == before
    admin.ask("POST", f"/v1/jobs/{'x' * 3000}/cancel")
    assert len(admin.ask("GET", "/v1/audit").json()["items"][0]["path"]) == 200


def test_a_first_key_that_was_rotated_is_of_no_more_use(platform: Platform) -> None:  # noqa: F811
    keys = KeyService(platform.database)
    old, new = new_key(), new_key()
    keys.ensure(old)
    keys.ensure(old)
    assert keys.authenticate(old).role is Role.ADMIN
    keys.ensure(new)
    assert keys.authenticate(new).role is Role.ADMIN
    with pytest.raises(InvalidKey):
        keys.authenticate(old)
    keys.ensure(old)  # a replica that was not told: it revives nothing, and revokes nothing
    assert keys.authenticate(new).role is Role.ADMIN
    with pytest.raises(InvalidKey):
        keys.authenticate(old)
