"""Images in other places than a folder, through the whole platform."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.e2e.conftest import Running
from tests.e2e.test_queue import until_step
from vicreg_platform.jobs.schemas import JobSchema
from vicreg_platform.jobs.states import JobState

SHARDS, IMAGES = 7, 1400
EPOCHS, BATCH = 5, 128


@pytest.fixture(scope="module")
def shards(object_store: str) -> str:
    """Digits in tar shards, in a bucket."""
    digits = load_digits()
    client = boto3.client("s3", endpoint_url=object_store)
    client.create_bucket(Bucket="images")
    for shard in range(SHARDS):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for number in range(shard, IMAGES, SHARDS):
                image = io.BytesIO()
                Image.fromarray((digits.images[number] * 15).astype("uint8")).save(image, "PNG")
                label = b"%d" % digits.target[number]
                for kind, content in (("png", image.getvalue()), ("cls", label)):
                    member = tarfile.TarInfo(f"{number:04d}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        client.put_object(Bucket="images", Key=f"digits/{shard:03d}.tar", Body=buffer.getvalue())
    return f"s3://images/digits/{{000..{SHARDS - 1:03d}}}.tar"


def spec(shards: str) -> dict[str, Any]:
    return {
        "data": {"source": "webdataset", "shards": shards, "image_size": 8, "hold": "never"},
        "training": {"epochs": EPOCHS, "batch_size": BATCH},
        "optimizer": {"eta": 0.02, "base_lr": 0.0003},  # see test_queue
        "checkpoint": {"every_epochs": 2},
        "resources": {"workers": 2},
    }


def losses(running: Running, job: JobSchema) -> dict[int, float]:
    points = running.client.metrics(job.id, "train/loss")["train/loss"]
    return {int(point["step"]): point["value"] for point in points}


def test_a_run_on_shards_in_a_store_is_killed_and_goes_on_with_one_worker(
    running: Running, shards: str
) -> None:
    undisturbed = running.wait(running.submit(name="shards", **spec(shards)))
    assert undisturbed.state is JobState.SUCCEEDED, undisturbed.reason
    assert undisturbed.summary is not None
    assert undisturbed.summary["data/corrupt_images"] == 0.0
    assert undisturbed.summary["knn/top1"] > 0.3  # chance: 0.1
    job = running.submit(name="killed", **spec(shards))
    until_step(running, job, 2 * (IMAGES // BATCH) + 5)  # in mid-epoch
    running.processes("RayTrainWorker")[-1].kill()
    running.until(job, lambda view: view.progress is not None and view.progress.step > 35)
    running.client.pause(job.id)
    running.until(job, lambda view: view.state is JobState.PAUSED)
    running.client.resume(job.id, workers=1)
    ended = running.wait(job)
    assert ended.state is JobState.SUCCEEDED, ended.reason
    assert ended.attempts[-1].workers == 1
    assert losses(running, job) == pytest.approx(losses(running, undisturbed), rel=1e-5)


def test_photographs_without_classes_are_trained_on_and_measured_on_others(
    running: Running,
) -> None:
    folder = running.data_root / "pictures" / "2026"
    folder.mkdir(parents=True)
    for number, pixels in enumerate(load_digits().images[:300]):
        image = Image.fromarray((pixels * 15).astype("uint8")).resize((24 + number % 5, 24))
        image.convert("RGB").save(folder / f"IMG_{number:04d}.JPG")
    (folder / "IMG_9999.JPG").write_bytes(b"\xff\xd8 cut off")
    digits = {"source": "digits", "image_size": 16}
    job = running.submit(
        name="pictures",
        data={"source": "image_folder", "path": "pictures", "classes": "none", "image_size": 16},
        watch={"probe": {"train": digits, "test": digits | {"split": "test"}}},
        training={"epochs": 1, "batch_size": 64},
    )
    ended = running.wait(job)
    assert ended.state is JobState.SUCCEEDED, ended.reason
    assert ended.summary is not None
    assert ended.summary["knn/top1"] > 0.3
    log = running.client.logs(job.id)
    skipped = ended.summary["data/corrupt_images"]
    assert log.count("IMG_9999.JPG: it is not an image") == int(skipped)
