"""POST a pretrain spec, get an encoder and its evaluations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.artifacts
import numpy as np
import torch
import torchvision
import yaml
from mlflow.tracking import MlflowClient
from PIL import Image
from safetensors.torch import load_file

from tests.e2e.conftest import Running, logged_steps, small
from tests.integration.conftest import wait_until
from vicreg_platform.jobs.states import JobState


def test_two_workers_make_an_encoder_while_api_and_dispatcher_are_killed(
    running: Running, tmp_path: Path
) -> None:
    """Fails without: the supervisor's restarts, the loop's re-reading of live attempts."""
    job = running.submit(
        name="main",
        labels={"suite": "e2e"},
        training={"epochs": 4, "batch_size": 128},
        resources={"workers": 2},
        evaluations=[{"protocol": {"name": "knn"}}, {"protocol": {"name": "linear"}}],
    )
    running.until_epoch(job, 1)
    for name in ("api", "dispatcher"):
        child = running.child(name)
        assert child.process is not None
        child.process.send_signal(signal.SIGKILL)
    ended = running.wait(job)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None)
    assert len(ended.attempts) == 1
    assert running.child("api").restarts == running.child("dispatcher").restarts == 1
    assert running.steps(job) == logged_steps(4)
    # Its log is stored with the run after its end.
    wait_until(lambda: running.client.get(job.id).attempts[0].archived_at)
    assert list(running.client.get(job.id).attempts[0].moments()) == [
        "queued", "submitted", "driver_up", "workers_up", "process_group_up", "data_open",
        "network_built", "first_step", "last_step", "published", "ended", "archived",
    ]  # fmt: skip
    assert ended.progress is not None
    assert (ended.progress.epoch, ended.progress.step) == (4, 44)

    evaluations = [
        running.wait(each)
        for each in running.client.find_all(kind="evaluate", label="suite=e2e")
        if each.depends_on == [job.id]
    ]
    assert {each.state for each in evaluations} == {JobState.SUCCEEDED}
    summary = {k: v for each in evaluations for k, v in each.summary.items()}
    assert summary["knn/top1"] > 0.5
    assert summary["linear/top1"] > 0.5
    assert summary["knn/top5"] >= summary["knn/top1"]

    _check_run(running, ended.mlflow.run_id, tmp_path)  # type: ignore[union-attr]


def _check_run(running: Running, run_id: str, folder: Path) -> None:
    client = MlflowClient(running.platform.mlflow_url)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.epochs"] == "4"
    assert run.data.tags["vicreg.attempt"] == "1"
    assert {"vicreg.torch", "vicreg.ray", "vicreg.job_id", "vicreg.host"} <= set(run.data.tags)
    assert {
        "train/loss", "train/invariance", "train/variance", "train/covariance",
        "train/learning_rate", "train/gradient_norm", "train/images_per_second", "train/epoch",
        "embedding/std_mean", "embedding/std_min", "embedding/std_low_share", "embedding/rankme",
        "representation/std_mean", "representation/std_min", "representation/covariance",
        "representation/rankme", "representation/alpha_req", "representation/nesum",
        "representation/lidar", "knn/top1", "data/corrupt_images",
        # The evaluations, at the step of their encoder.
        "evaluations/knn/top1", "evaluations/knn/top5", "evaluations/linear/top1",
        "evaluations/linear/top5", "evaluations/linear/learning_rate",
        "evaluations/linear/holdout_top1",
    } == set(run.data.metrics)  # fmt: skip
    root = Path(
        mlflow.artifacts.download_artifacts(
            run_id=run_id, tracking_uri=running.platform.mlflow_url, dst_path=str(folder)
        )
    )
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {
        "encoder/encoder.json",
        "encoder/encoder.safetensors",
        "checkpoints/step-00000044/manifest.json",
        "checkpoints/step-00000044/shared.pt",
        "checkpoints/step-00000044/worker-0.pt",
        "checkpoints/step-00000044/worker-1.pt",
        "logs/attempt-1.log",
        "pictures/views.png",
        "pictures/neighbours.png",
        "pictures/embedding_map.png",
        *(
            f"pictures/{kind}_epoch_0000{n}.png"
            for kind in ("embedding_std", "spectrum")
            for n in (1, 2, 3, 4)
        ),
    }
    weights = load_file(root / "encoder/encoder.safetensors")
    network = torchvision.models.resnet._resnet(
        torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], None, False
    )
    network.conv1 = torch.nn.Conv2d(3, 64, 3, bias=False)
    assert network.load_state_dict(weights, strict=False).missing_keys == ["fc.weight", "fc.bias"]


def test_an_image_folder_with_a_corrupt_file_trains_from_the_command_line(
    running: Running, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for label in ("cat", "dog"):
            folder = running.data_root / "pets" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 255, (20, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
    (running.data_root / "pets/train/cat/5.jpg").write_bytes(b"no image")
    file = tmp_path / "pets.yaml"
    spec = small(
        name="pets",
        data={"source": "image_folder", "path": "pets/train", "image_size": 8},
        training={"epochs": 3, "batch_size": 16},
        evaluations=[{"protocol": {"name": "knn"}}],
    )
    file.write_text(yaml.safe_dump(spec))
    done = subprocess.run(
        [sys.executable, "-m", "vicreg_platform.cli", "submit", str(file),
         "--follow", "--api", running.platform.api_url],
        capture_output=True, text=True, check=False,
        env=os.environ | {"VICREG_HOME": str(running.platform.settings.home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 3/3" in done.stdout
    (job,) = [each for each in running.client.find_all(kind="pretrain") if each.name == "pets"]
    assert job.summary["data/corrupt_images"] == 1.0
    assert running.client.logs(job.id).count("pets/train/cat/5.jpg") == 1
    (evaluation,) = [e for e in running.client.find_all() if e.depends_on == [job.id]]
    assert running.wait(evaluation).summary["data/corrupt_images"] == 1.0


def test_a_folder_emptied_after_the_post_is_a_user_failure(running: Running) -> None:
    folder = running.data_root / "shortlived" / "class"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(b"")
    spec = {"source": "image_folder", "path": "shortlived", "image_size": 8}
    job = running.submit(name="empty", data=spec)
    (folder / "0.png").unlink()
    ended = running.wait(job)
    assert (ended.state, ended.failure) == (JobState.FAILED, "user")
    assert "there are no images in" in (ended.reason or "")
    assert len(ended.attempts) == 1


def test_a_training_starts_from_the_encoder_of_another(running: Running) -> None:
    """Before its first step, the second one is what the first one was after its last."""
    shared: dict[str, Any] = {
        "training": {"epochs": 2, "batch_size": 128},
        "watch": {"knn_every_epochs": 1},
    }
    first = running.submit(name="first", **shared)
    second = running.submit(
        name="second",
        **shared
        | {
            "init": {"job": first.id},
            "training": shared["training"] | {"freeze_epochs": 1},
            "resources": {"workers": 2},
        },
    )
    assert second.state is JobState.WAITING
    ended = [running.wait(job) for job in (first, second)]
    assert [(job.state, job.reason) for job in ended] == [(JobState.SUCCEEDED, None)] * 2
    client = MlflowClient(running.platform.mlflow_url)
    before, after = (
        {
            point.step: point.value
            for point in client.get_metric_history(job.mlflow.run_id, "knn/top1")
        }
        for job in ended
        if job.mlflow is not None
    )
    assert after[0] == before[max(before)]
    # A frozen backbone's representations stay.
    assert after[sorted(after)[1]] == after[0]
    assert "100.00 % of resnet10" in running.client.logs(second.id)


def test_a_network_of_a_library_is_trained_and_evaluated(running: Running) -> None:
    job = running.submit(
        name="library",
        backbone={"name": "timm/convnext_atto", "drop_path": 0.1},
        data={"source": "digits", "image_size": 32},
        training={"epochs": 1, "batch_size": 128},
        optimizer={"name": "adamw", "layer_decay": 0.8},
        resources={"workers": 2},
        evaluations=[{"protocol": {"name": "knn"}}],
    )
    assert running.wait(job).state is JobState.SUCCEEDED
    (evaluation,) = running.client.find_all(parent=job.id)
    done = running.wait(evaluation)
    assert done.state is JobState.SUCCEEDED, done.reason
    assert done.summary["knn/top1"] > 0.2
    assert "timm/convnext_atto has no BatchNorm" in running.client.logs(job.id)
    unknown = running.submit(name="unknown", backbone={"name": "timm/convnext_attto"})
    refused = running.wait(unknown)
    assert refused.state is JobState.FAILED
    assert refused.failure == "user"
    assert "did you mean timm/convnext_atto" in str(refused.reason)


def test_an_encoder_is_evaluated_while_its_training_goes_on(running: Running) -> None:
    job = running.submit(
        name="long",
        training={"epochs": 16, "batch_size": 128},
        evaluations=[{"protocol": {"name": "linear", "epochs": 5}, "seeds": 2, "at_epochs": [1]}],
    )
    early, late = sorted(running.client.find_all(parent=job.id), key=lambda each: len(each.name))[
        ::-1
    ]
    assert (early.name, late.name) == ("long-linear-epoch-1", "long-linear")
    ended = [running.wait(each) for each in (early, job, late)]
    assert [(each.state, each.reason) for each in ended] == [(JobState.SUCCEEDED, None)] * 3
    assert ended[0].finished_at is not None
    assert ended[1].finished_at is not None
    assert ended[0].finished_at < ended[1].finished_at
    # Each is a point of the training's curves, at the step of its encoder.
    assert ended[1].mlflow is not None
    client = MlflowClient(running.platform.mlflow_url)
    points = client.get_metric_history(ended[1].mlflow.run_id, "evaluations/linear/top1")
    assert {point.step: point.value for point in points} == {
        11: ended[0].summary["linear/top1"],
        176: ended[2].summary["linear/top1"],
    }
    assert ended[0].summary["linear/top1_std"] >= 0
