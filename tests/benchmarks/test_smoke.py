"""Every benchmark runs, at sizes that say nothing about speed."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.benchmarks import (
    ablation,
    accumulate,
    checkpoint,
    convolution,
    features,
    gpu,
    health,
    loss,
    shuffle,
    step,
)
from tests.benchmarks import (
    input as input_,
)
from tests.gpu import measure
from tests.object_store import CREDENTIALS


def rows(output: str) -> list[list[str]]:
    """The cells of the tables' rows, without headers."""
    lines = [line.strip("|").split("|") for line in output.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines]


def test_loss(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(loss, "BATCHES", (8,))
    monkeypatch.setattr(loss, "WIDTHS", (4, 16))
    monkeypatch.setattr(loss, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(loss, "SHARED", ((8, 16),))
    monkeypatch.setattr(loss, "RANKS", (1,))
    x, y = loss.batch(8, 16)
    torch.testing.assert_close(loss.our_loss(x, y), loss.authors_loss(x, y))
    loss.main([])
    table = rows(capsys.readouterr().out)
    assert [row[:2] for row in table if row[0] == "8"] == [["8", "4"], ["8", "16"], ["8", "16"]]


def test_convolution(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(convolution, "BATCH", 2)
    monkeypatch.setattr(convolution, "ROUNDS", 2)
    monkeypatch.setattr(convolution, "SHAPES", [(4, 8, 2, 1, 3)])
    convolution.main()
    measured = [row for row in rows(capsys.readouterr().out) if row[0] == "4→8"]
    assert [row[4] for row in measured] == ["float32", "bfloat16"]


def test_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(step, "SETS", (40,))
    step.main(["--size", "32", "--batch", "8", "--width", "8", "--rounds", "1"])
    table = rows(capsys.readouterr().out)
    assert {"authors", "ours"} <= {row[1] for row in table if row[0] == "step"}
    parts = {"forward", "loss", "backward", "optimiser", "watch", "input", "the rest"}
    assert parts <= {row[0] for row in table}
    assert table[-1][0] == "40"


def test_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is there to run without one."""
    monkeypatch.setattr(gpu, "JPEGS", 8)
    monkeypatch.setattr(gpu, "READ", 16)
    sizes = ["--size", "32", "--batches", "8", "--width", "8", "--matrix", "16"]
    network = ["--backbone", "resnet18", "--stem", "cifar"]
    gpu.main(["--device", "cpu", *network, *sizes, "--rounds", "1", "--steps", "1"])
    gpu.main(["--device", "cpu", *sizes, "--loaders", "0"])
    table = rows(capsys.readouterr().out)
    assert table[-1][0] == "0"
    steps = [row[0] for row in table if row[1] == "8" and row[2:3] != [""] and len(row) == 9]
    assert steps == ["authors", "lightly", "ours"]  # lightly without numbers: it is not installed
    ours = {row[2] for row in table if row[0] == "ours" and len(row) == 5}
    assert {"forward", "loss", "backward", "watch", "optimiser", "the rest"} <= ours


def test_what_a_gpu_shows_is_written_and_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the CPU: each part, one that fails, and one for which no time is left."""
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_one.py").write_text("def test_right(): pass\ndef test_wrong(): assert False\n")
    for split, count in (("train", 12), ("test", 4)):
        for label, channel in (("red", 0), ("blue", 2)):
            (tmp_path / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = [10 * index] * 3
                pixels[channel] = 255
                image = Image.new("RGB", (8, 8), tuple(pixels))
                image.save(tmp_path / split / label / f"{index}.png")
    sizes = ["--size", "32", "--batches", "8", "--width", "8", "--matrix", "16", "--steps", "1"]
    small = ["--backbone", "resnet18", "--stem", "cifar", *sizes]
    monkeypatch.setattr(measure, "TESTS", tests)
    monkeypatch.setattr(measure, "NETWORKS", {"resnet18": small, "broken": ["--backbone", "none"]})
    monkeypatch.setattr(measure, "SHORTEST_TRAINING", 0)
    training = ["--backbone", "resnet10", "--size", "8", "--batch", "8", "--width", "8"]
    monkeypatch.setattr(measure, "TRAINING", [*training, "--loaders", "0", "--seconds", "1"])
    file = tmp_path / "gpu.json"
    arguments = [str(file), "--device", "cpu", "--images", str(tmp_path)]
    with pytest.raises(SystemExit):
        measure.main(arguments)
    parts = json.loads(file.read_text())["parts"]
    assert parts["tests"]["passed"] == 1
    assert parts["tests"]["failed"] == ["test_one::test_wrong"]
    assert [row["step"] for row in parts["resnet18"]["steps"]] == ["authors", "lightly", "ours"]
    assert "error" in parts["broken"]
    assert 0 <= parts["cifar10"]["knn_top1"] <= 1
    assert parts["cifar10"]["epochs"] >= 2
    printed = capsys.readouterr().out
    measure.main(["--tables", str(file)])
    assert capsys.readouterr().out in printed
    monkeypatch.setattr(measure, "SHORTEST_TRAINING", 10_000)
    with pytest.raises(SystemExit):
        measure.main(arguments)
    assert "were left" in json.loads(file.read_text())["parts"]["cifar10"]["error"]


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        measure.main([])


def test_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--backbone", "resnet10", "--width", "8", "--saves", "2"]
    checkpoint.main([*sizes, "--storage", str(tmp_path)])
    table = rows(capsys.readouterr().out)
    kinds = ["waiting", "first, without room", "first", "following"]
    assert [row[0] for row in table[2:6]] == kinds
    assert [row[0] for row in table[-2:]] == ["waiting", "now"]
    assert list(tmp_path.iterdir()) == []


def test_ablation(tmp_path: Path) -> None:
    jobs = ablation.ablation("ablation-loss-small")
    assert len({job["name"] for job in jobs}) == len(jobs) > 1
    tiny = jobs[0] | {
        "backbone": {"name": "resnet10", "stem": "cifar"},
        "expander": {"layers": [8, 8]},
        "data": {"source": "digits", "image_size": 8, "share": 0.05},
        "training": {"epochs": 1, "batch_size": 16},
    }
    (row,) = rows(ablation.row(tiny, tmp_path))
    assert row[0] == "loss-inv"
    assert all(float(cell) >= 0 for cell in row[1:])


def test_accumulate(capsys: pytest.CaptureFixture[str]) -> None:
    accumulate.main(["--batch", "32", "--size", "32", "--rounds", "1"])
    table = rows(capsys.readouterr().out)
    assert [row[0] for row in table[-4:]] == ["1", "2", "4", "8"]


def test_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = health.SPEC | {"training": {"epochs": 1, "batch_size": 256, "warmup_epochs": 0}}
    monkeypatch.setattr(health, "SPEC", short)
    raw = ["--raw", str(tmp_path / "raw.json")]
    health.main([*raw, "--runs", "constant images"])
    (row,) = rows(capsys.readouterr().out)[2:]
    assert row[0] == "constant images (cifar)"
    health.main([*raw, "--runs", "none"])  # it is not made again
    assert rows(capsys.readouterr().out)[2:] == [row]


def test_features(capsys: pytest.CaptureFixture[str]) -> None:
    features.main(["--images", "300", "--width", "8", "--queries", "20"])
    stages = [row[0] for row in rows(capsys.readouterr().out)[2:]]
    assert [stage.split(",")[0] for stage in stages] == [
        "extracting them", "`knn`", "`linear`", "`retrieval`",
    ]  # fmt: skip


def test_shuffle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (("train", 80), ("test", 8)):
        for label, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            folder = tmp_path / "cifar10" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (32, 32), colour).save(folder / f"{index}.png")
    monkeypatch.setattr(shuffle, "SHARDS", 8)
    shuffle.main([str(tmp_path), "--epochs", "1", "--share", "1", "--seeds", "0"])
    table = rows(capsys.readouterr().out)[2:]
    assert [row[0].split()[0] for row in table] == ["global", "four", "four"]
    assert all(0 <= float(row[1]) <= 1 for row in table)


def test_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("AWS_ENDPOINT_URL", "VICREG_CACHE", *CREDENTIALS):
        monkeypatch.setenv(name, "")  # what it sets is undone after the test
    monkeypatch.setattr(input_, "BATCH", 8)
    monkeypatch.setattr(input_, "LOADERS", (1,))
    threads = torch.get_num_threads()
    try:
        input_.main(["--images", "16", "--many", "2000", "--rounds", "1"])
    finally:
        torch.set_num_threads(threads)
    table = rows(capsys.readouterr().out)
    ours = [row for row in table if row[0] == "ours"]
    assert [row[2] for row in ours] == ["1.00", "1.00"]
    assert {"folder", "shards on a disk", "Parquet", "shards in S3, cached"} <= {
        row[0] for row in table
    }
    assert table[-1][0] == "2,000"
