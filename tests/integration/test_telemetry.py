"""What Prometheus reads, over a socket."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.test_api import Platform, platform  # noqa: F401
from vicreg_platform.cluster import SubmissionState


def read(platform: Platform) -> dict[tuple[str, ...], float]:  # noqa: F811
    text = platform.http.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_jobs_waits_and_calls_are_told(platform: Platform) -> None:  # noqa: F811
    before = read(platform)

    def grown(*name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    job = platform.submit(evaluations=[{"protocol": {"name": "knn"}}])
    after = read(platform)
    assert after["vicreg_jobs", "pretrain", "queued"] == 1
    assert after["vicreg_jobs", "evaluate", "waiting"] == 1
    assert after["vicreg_oldest_queued_seconds",] > 0
    assert grown("vicreg_http_request_seconds_count", "/v1/jobs", "201", "POST") == 1

    platform.dispatcher.round()
    platform.cluster.set(f"{job}-1", SubmissionState.SUCCEEDED)
    platform.dispatcher.round()
    after = read(platform)
    assert ("vicreg_jobs", "pretrain", "queued") not in {k for k, v in after.items() if v}
    assert grown("vicreg_queue_wait_seconds_count") >= 1
    assert grown("vicreg_attempts_ended_total", "pretrain", "succeeded") == 1
    assert grown("vicreg_call_seconds_count", "mlflow") > 0
    routes = {name[1] for name in after if name[0] == "vicreg_http_request_seconds_count"}
    assert not any(job in route for route in routes)


def test_an_invented_method_makes_no_series_of_its_own(platform: Platform) -> None:  # noqa: F811
    for number in range(5):
        platform.http.request(f"INVENTED{number}", "/v1/jobs")
    names = [name for name in read(platform) if name[0] == "vicreg_http_request_seconds_count"]
    assert not any("INVENTED" in part for name in names for part in name)
    assert any("other" in name for name in names)
