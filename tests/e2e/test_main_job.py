"""POST a pretrain spec, get an encoder and its evaluations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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
        "embedding/std_mean", "embedding/std_min", "embedding/std_low_share",
        "representation/std_mean", "representation/std_min", "representation/covariance",
        "representation/rankme", "representation/alpha_req", "knn/top1", "data/corrupt_images",
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
        *(f"pictures/embedding_std_epoch_0000{n}.png" for n in (1, 2, 3, 4)),
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
