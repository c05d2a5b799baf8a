"""The same cluster with checkpoints and artifacts on an object store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compose.conftest import Cluster, brought_up
from tests.e2e.conftest import logged_steps
from vicreg_platform.jobs.states import JobState

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]
EPOCHS = 12


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with brought_up(
        "tests/compose/object-store.yml",
        VICREG_STORAGE="s3://vicreg/storage",
        VICREG_ARTIFACTS="s3://vicreg/artifacts",
        AWS_ENDPOINT_URL="http://s3:9000",  # path-style: no host name of the bucket's own
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_DEFAULT_REGION="us-east-1",
    ) as made:
        in_s3(made, "s3.create_bucket(Bucket='vicreg')")
        yield made


def in_s3(cluster: Cluster, statement: str) -> str:
    """Run a statement with a client of the S3 server."""
    client = "boto3.client('s3', endpoint_url='http://127.0.0.1:9000', region_name='us-east-1')"
    return cluster.compose(
        "exec", "-T", "-e", "AWS_ACCESS_KEY_ID=key", "-e", "AWS_SECRET_ACCESS_KEY=secret",
        "s3", "python3", "-c", f"import boto3; s3 = {client}; {statement}",
    )  # fmt: skip


def test_trained_killed_resumed_and_evaluated_from_it(cluster: Cluster) -> None:
    job = cluster.submit(
        training={"epochs": EPOCHS, "batch_size": 128},
        evaluations=[{"protocol": {"name": "linear"}}],
    )
    cluster.until(job.id, lambda view: view.progress and view.progress.epoch >= 2)
    cluster.docker("kill", cluster.container("ray-worker"))
    cluster.docker("start", cluster.container("ray-worker"))
    ended = cluster.client.wait(job.id, timeout=420)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None)
    log = "".join(cluster.client.logs(job.id, attempt=each.number) for each in ended.attempts)
    assert "resuming from the checkpoint after step" in log
    points = [int(point["step"]) for point in cluster.client.metrics(job.id)["train/loss"]]
    assert points == logged_steps(EPOCHS)

    (evaluation,) = cluster.client.find_all(kind="evaluate")
    assert "linear/top1" in cluster.client.wait(evaluation.id, timeout=420).summary
    keys = in_s3(
        cluster,
        "print(*(o['Key'] for o in s3.list_objects_v2(Bucket='vicreg')['Contents']), sep='\\n')",
    ).splitlines()
    assert any(key.startswith(f"storage/{job.id}/checkpoints/") for key in keys), keys
    assert any(key.startswith("artifacts/") and "/encoder/" in key for key in keys), keys
