"""A Ray cluster, over the HTTP API of its head (Ray 2.60).

The control plane does not import Ray, so it can serve clusters of other versions.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TypeVar

import httpx

from vicreg_platform.cluster import (
    Capacity,
    Device,
    Machine,
    Node,
    Submission,
    SubmissionState,
    SubmissionStatus,
)
from vicreg_platform.errors import ClusterUnavailable, LogUnavailable, SubmissionRefused
from vicreg_platform.needs import Bundle
from vicreg_platform.telemetry import CALL_FAILURES, CALL_SECONDS

T = TypeVar("T")

TIMEOUT_SECONDS = 15.0
LOG_SECONDS = 600
"""How long Ray may take to send a whole log."""
END_SECONDS = 5.0
"""How long it may take to send the end of one, for which others wait."""
END_BYTES = 2**16
"""Of the end of a log, whose lines may be of any length."""
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
        timeout: seconds that it may take to answer.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        nodes: tuple[Bundle, ...] | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._url = url
        self._nodes = nodes
        self._timeout = timeout
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(base_url=url, timeout=timeout, headers=headers)

    def submit(self, submission: Submission) -> None:
        """See ``Cluster.submit``."""
        answer = self._call(
            "POST",
            "/api/jobs/",
            json={
                "submission_id": submission.id,
                # Ray starts a shell, and stops it and the children that it has just then. Without
                # `exec`, a stop that comes before the shell has forked leaves the process running,
                # and Ray says that it has stopped.
                "entrypoint": f"exec {shlex.join(submission.arguments)}",
                "entrypoint_num_cpus": submission.driver.cpus,
                "entrypoint_num_gpus": submission.driver.gpus,
                "metadata": submission.metadata,
            },
        )
        if answer.is_success:
            return
        # Ray answers a known id with status 500, as it does many other errors.
        if self._details(submission.id) is None:
            raise SubmissionRefused(f"Ray refused the submission: {_last_line(answer.text)}")

    def submissions(self) -> dict[str, SubmissionStatus]:
        """See ``Cluster.submissions``."""
        return self._parsed(self._call("GET", "/api/jobs/"), _submissions)

    def stop(self, submission_id: str) -> None:
        """See ``Cluster.stop``."""
        self._call("POST", f"/api/jobs/{submission_id}/stop")

    def log(self, submission_id: str) -> Iterator[bytes] | None:
        """See ``Cluster.log``."""
        details = self._details(submission_id)
        if details is None:
            return None
        chunks = self._log_file(submission_id, details, -1, self._timeout)
        # The first piece is read here, so that a log that Ray cannot give is known at once.
        return chain([next(chunks, b"")], chunks)

    def last_lines(self, submission_id: str, count: int) -> str:
        """See ``Cluster.last_lines``."""
        details = self._details(submission_id)
        if details is None:
            raise LogUnavailable(f"Ray does not know {submission_id}")
        end = b""
        for piece in self._log_file(submission_id, details, count, END_SECONDS):
            end = (end + piece)[-END_BYTES:]
        return end.decode(errors="replace")

    def _log_file(
        self, submission_id: str, details: dict[str, Any], lines: int, seconds: float
    ) -> Iterator[bytes]:
        """The driver's log file, from the agent of its node.

        ``/api/jobs/<id>/logs`` is not used: it answers 500 for a log that is not UTF-8, and holds
        all of it in memory.

        Args:
            submission_id: the driver's.
            details: what Ray knows of it.
            lines: how many of its last lines; -1 for all.
            seconds: how long each part may take.

        Raises:
            LogUnavailable: the head answers, and the log does not come.
            ClusterUnavailable: the head is unreachable.
        """
        node = details.get("driver_node_id")
        if node is None:
            return  # its process has not started
        query = {
            "node_id": str(node),
            "filename": f"job-driver-{submission_id}.log",
            "lines": str(lines),
            "timeout": str(LOG_SECONDS),
        }
        try:
            with self._client.stream(
                "GET", "/api/v0/logs/file", params=query, timeout=seconds
            ) as answer:
                if not answer.is_success:
                    answer.read()
                    raise LogUnavailable(f"Ray cannot give the log: {_last_line(answer.text)}")
                yield from answer.iter_raw()
        except (httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError) as error:
            # A node whose agent hangs is not the cluster. If the head does too, this raises:
            self._call("GET", "/api/version")
            reason = str(error) or type(error).__name__
            raise LogUnavailable(f"Ray does not give the log: {reason}") from error
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def capacity(self) -> Capacity:
        """See ``Cluster.capacity``."""
        # /api/cluster_status has structured figures, but not with Ray's v2 autoscaler.
        used = self._parsed(self._call("GET", "/nodes?view=summary"), _used)
        total = Bundle(sum(n.cpus for n in used.values()), sum(n.gpus for n in used.values()))
        if self._nodes is not None:
            return Capacity(self._nodes, total)
        # Ray's default limit is 100 nodes, dead ones included.
        present = self._parsed(self._call("GET", "/api/v0/nodes?detail=1&limit=10000"), _nodes)
        free = tuple(
            Bundle(node.cpus - used[name].cpus, node.gpus - used[name].gpus)
            if name in used
            else node
            for name, node in present.items()
        )
        placed = None
        if len(present) > 1:
            by_node = self._placed()
            placed = tuple(by_node.get(name, {}) for name in present)
        return Capacity(tuple(present.values()), total, free, placed)

    def _placed(self) -> dict[str, dict[str, Bundle]]:
        """By node: the submissions that run there, and what each occupies of it."""
        names = self._parsed(self._call("GET", "/api/jobs/"), _drivers)
        groups = self._parsed(
            self._call("GET", "/api/v0/placement_groups?detail=1&limit=10000"), _groups
        )
        placed: dict[str, dict[str, Bundle]] = {}
        for name, node in names.values():
            if node is not None:
                placed.setdefault(node, {})[name] = Bundle(0, 0)
        for ray_job, node, bundle in groups:
            if ray_job in names:
                on_node = placed.setdefault(node, {})
                before = on_node.get(names[ray_job][0], Bundle(0, 0))
                on_node[names[ray_job][0]] = Bundle(
                    before.cpus + bundle.cpus, before.gpus + bundle.gpus
                )
        return placed

    def machines(self) -> list[Node]:
        """See ``Cluster.machines``."""
        summary = self._call("GET", "/nodes?view=summary")
        used = self._parsed(summary, _used)
        machines = self._parsed(summary, _machines)
        present = self._parsed(self._call("GET", "/api/v0/nodes?detail=1&limit=10000"), _nodes)
        placed = self._placed()
        found = []
        for node_id, total in present.items():
            machine = machines.get(node_id, Machine(node_id[:12]))
            used_here = used.get(node_id, Bundle(0, 0))
            found.append(Node(node_id, total, used_here, machine, placed.get(node_id, {})))
        return sorted(found, key=lambda node: (node.machine.name, node.id))

    def _details(self, submission_id: str) -> dict[str, Any] | None:
        """What Ray knows of a submission; None if it does not know it."""
        answer = self._call("GET", f"/api/jobs/{submission_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return self._parsed(answer, dict[str, Any])

    def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            with CALL_SECONDS.labels("ray").time():
                return self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> ClusterUnavailable:
        CALL_FAILURES.labels("ray").inc()
        reason = str(error) or type(error).__name__
        return ClusterUnavailable(f"Ray is unreachable at {self._url}: {reason}")

    def _parsed(self, answer: httpx.Response, parse: Callable[[Any], T]) -> T:
        """What an answer says, by ``parse``, which may raise on anything unexpected."""
        if not answer.is_success:
            raise ClusterUnavailable(
                f"Ray answered {answer.status_code} at {answer.url}: {_last_line(answer.text)}"
            )
        try:
            return parse(answer.json())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ClusterUnavailable(
                f"Ray's answer at {answer.url} has another form than expected "
                f"({type(error).__name__}: {error})"
            ) from None


def _submissions(jobs: Any) -> dict[str, SubmissionStatus]:
    """Ray's list of jobs, without drivers that were not submitted."""
    return {
        str(job["submission_id"]): SubmissionStatus(
            # A state that this version does not know cannot be an end.
            state=_STATES.get(job.get("status"), SubmissionState.RUNNING),
            exit_code=code if isinstance(code := job.get("driver_exit_code"), int) else None,
            message=None if job.get("message") is None else str(job["message"]),
        )
        for job in jobs
        if job.get("submission_id") is not None
    }


def _nodes(answer: Any) -> dict[str, Bundle]:
    """What each node that is up has, by its id."""
    return {
        str(node["node_id"]): Bundle(
            float(node["resources_total"].get("CPU", 0.0)),
            float(node["resources_total"].get("GPU", 0.0)),
        )
        for node in answer["data"]["result"]["result"]
        if _alive(node)
    }


def _used(answer: Any) -> dict[str, Bundle]:
    """What is in use of each node, by its id."""
    return {
        str(name): Bundle(_in_use(text, "CPU"), _in_use(text, "GPU"))
        for name, text in answer["data"]["nodeLogicalResources"].items()
    }


def _machines(answer: Any) -> dict[str, Machine]:
    """What each node's agent says of its machine, by the node's id."""
    return {
        str(node["raylet"]["nodeId"]): _machine(node)
        for node in answer["data"]["summary"]
        if "nodeId" in (node.get("raylet") or {})
    }


def _machine(node: dict[str, Any]) -> Machine:
    memory = node.get("mem")
    cpu = node.get("cpu")
    return Machine(
        name=str(node.get("hostname") or node.get("ip") or node["raylet"]["nodeId"][:12]),
        cpu_percent=None if cpu is None else float(cpu),
        memory_used=int(memory[0]) - int(memory[1]) if memory else None,
        memory_total=int(memory[0]) if memory else None,
        devices=tuple(_device(gpu) for gpu in node.get("gpus") or ()),
    )


def _drivers(answer: Any) -> dict[str, tuple[str, str | None]]:
    """By Ray's own id of a job that runs: its submission, and the node of its driver."""
    return {
        str(job["job_id"]): (str(job["submission_id"]), job.get("driver_node_id"))
        for job in answer
        if job.get("status") == "RUNNING" and job.get("submission_id") and job.get("job_id")
    }


def _groups(answer: Any) -> list[tuple[str, str, Bundle]]:
    """Each bundle of the placement groups: its Ray job, its node, and what it reserves."""
    return [
        (
            str(group["creator_job_id"]),
            str(bundle["node_id"]),
            Bundle(
                float(bundle["unit_resources"].get("CPU", 0.0)),
                float(bundle["unit_resources"].get("GPU", 0.0)),
            ),
        )
        for group in answer["data"]["result"]["result"]
        if group["state"] == "CREATED"
        for bundle in group["bundles"]
    ]


def _device(gpu: dict[str, Any]) -> Device:
    def of_mebibytes(value: object) -> int | None:
        return int(value) * 2**20 if isinstance(value, int | float) else None

    return Device(
        name=str(gpu.get("name", "GPU")),
        utilization=gpu.get("utilizationGpu"),
        memory_used=of_mebibytes(gpu.get("memoryUsed")),
        memory_total=of_mebibytes(gpu.get("memoryTotal")),
    )


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
