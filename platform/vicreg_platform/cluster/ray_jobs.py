"""A Ray cluster, over the HTTP API of its head (Ray 2.60).

The control plane does not import Ray, so it can serve clusters of other versions.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

import httpx

from vicreg_platform.cluster import (
    Capacity,
    Submission,
    SubmissionState,
    SubmissionStatus,
)
from vicreg_platform.errors import ClusterUnavailable, SubmissionRefused
from vicreg_platform.specs.needs import Bundle
from vicreg_platform.telemetry import CALL_FAILURES, CALL_SECONDS

TIMEOUT_SECONDS = 15.0
_STATES = {
    "PENDING": SubmissionState.PENDING,
    "RUNNING": SubmissionState.RUNNING,
    "SUCCEEDED": SubmissionState.SUCCEEDED,
    "FAILED": SubmissionState.FAILED,
    "STOPPED": SubmissionState.STOPPED,
}


class RayCluster:
    """The Jobs and State APIs of a Ray head.

    Args:
        url: address of its dashboard, such as ``http://127.0.0.1:8265``.
        token: Ray's token, if the cluster requires one.
        nodes: the nodes of an autoscaling cluster at its largest; None if the cluster does not
            scale.
    """

    def __init__(
        self, url: str, token: str | None = None, nodes: tuple[Bundle, ...] | None = None
    ) -> None:
        self._url = url
        self._nodes = nodes
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, headers=headers)

    def submit(self, submission: Submission) -> None:
        """See ``Cluster.submit``."""
        answer = self._call(
            "POST",
            "/api/jobs/",
            json={
                "submission_id": submission.id,
                "entrypoint": shlex.join(submission.arguments),
                "entrypoint_num_cpus": submission.driver.cpus,
                "entrypoint_num_gpus": submission.driver.gpus,
                "metadata": submission.metadata,
            },
        )
        if answer.is_success:
            return
        # Ray answers a known id with status 500, as it does many other errors.
        if self.status(submission.id) is None:
            raise SubmissionRefused(f"Ray refused the submission: {_last_line(answer.text)}")

    def status(self, submission_id: str) -> SubmissionStatus | None:
        """See ``Cluster.status``."""
        answer = self._call("GET", f"/api/jobs/{submission_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        details = self._body(answer)
        return SubmissionStatus(
            state=_STATES[details["status"]],
            exit_code=details.get("driver_exit_code"),
            message=details.get("message"),
        )

    def stop(self, submission_id: str) -> None:
        """See ``Cluster.stop``."""
        self._call("POST", f"/api/jobs/{submission_id}/stop")

    def log(self, submission_id: str) -> str | None:
        """See ``Cluster.log``."""
        answer = self._call("GET", f"/api/jobs/{submission_id}/logs")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        log: str = self._body(answer)["logs"] or ""
        return log

    def capacity(self) -> Capacity:
        """See ``Cluster.capacity``."""
        # /api/cluster_status has structured figures, but not with Ray's v2 autoscaler.
        answer = self._call("GET", "/nodes?view=summary")
        by_node = self._body(answer)["data"]["nodeLogicalResources"]
        return Capacity(
            nodes=self._nodes or self._present_nodes(),
            used=Bundle(
                cpus=sum(_in_use(text, "CPU") for text in by_node.values()),
                gpus=sum(_in_use(text, "GPU") for text in by_node.values()),
            ),
        )

    def _present_nodes(self) -> tuple[Bundle, ...]:
        # Ray's default limit is 100 nodes, dead ones included.
        answer = self._call("GET", "/api/v0/nodes?detail=1&limit=10000")
        nodes = self._body(answer)["data"]["result"]["result"]
        return tuple(
            Bundle(resources.get("CPU", 0.0), resources.get("GPU", 0.0))
            for resources in (node["resources_total"] for node in nodes if _alive(node))
        )

    def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            with CALL_SECONDS.labels("ray").time():
                return self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            CALL_FAILURES.labels("ray").inc()
            reason = str(error) or type(error).__name__
            raise ClusterUnavailable(f"Ray is unreachable at {self._url}: {reason}") from error

    def _body(self, answer: httpx.Response) -> Any:
        if not answer.is_success:
            raise ClusterUnavailable(
                f"Ray answered {answer.status_code} at {answer.url}: {_last_line(answer.text)}"
            )
        return answer.json()


def _in_use(usage: str, resource: str) -> float:
    """How much of a resource is in use; what a placement group reserves counts as in use.

    Args:
        usage: of a node, one resource per line: ``2.0/4.0 CPU (1.0 used of 2.0 reserved in
            placement groups)``.
        resource: ``CPU`` or ``GPU``.
    """
    line = re.search(rf"^([\d.]+)/[\d.]+ {resource}(?: \(([\d.]+) used of ([\d.]+))?", usage, re.M)
    if line is None:
        return 0.0
    used, reserved_and_used, reserved = (float(number or 0) for number in line.groups())
    return used - reserved_and_used + reserved


def _alive(node: dict[str, Any]) -> bool:
    return bool(node["state"] == "ALIVE")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip(" .")]
    return lines[-1] if lines else "no reason given"
