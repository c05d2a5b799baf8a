"""A web page of another site can neither read nor change anything through a user's browser."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.integration.test_api import DIGITS, Platform, platform  # noqa: F401
from vicreg_platform.errors import DatabaseTooNew


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "evil.example:8000"}, {"Host": ""},
        {"Origin": "http://evil.example"}, {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/jobs", "/readyz", "/metrics"])
def test_foreign_requests_are_refused(
    platform: Platform,  # noqa: F811
    headers: dict[str, str],
    path: str,
) -> None:
    answer = platform.http.get(path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_our_own_requests_are_not(platform: Platform) -> None:  # noqa: F811
    port = platform.http.base_url.port
    own = f"http://127.0.0.1:{port}"
    for headers in (
        {},
        {"Host": f"localhost:{port}"},
        {"Host": f"[::1]:{port}"},
        {"Origin": own, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},  # a link was followed
    ):
        assert platform.http.get("/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"]
)
def test_a_form_is_no_spec(platform: Platform, kind: str) -> None:  # noqa: F811
    body = '{"kind": "pretrain", "data": {"source": "digits"}}'
    answer = platform.http.post("/v1/jobs", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert platform.http.get("/v1/jobs").json()["items"] == []


def test_a_database_of_a_newer_version_is_refused_in_a_sentence(platform: Platform) -> None:  # noqa: F811
    platform.submit()
    with platform.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNew, match=r"a newer version of the platform .to 9999; this ver"):
        platform.database.migrate()
