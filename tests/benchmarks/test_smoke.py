"""Every benchmark runs, at sizes that say nothing about speed."""

from pathlib import Path

import pytest
import torch

from tests.benchmarks import ablation, accumulate, checkpoint, convolution, gpu, health, loss, step


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
    assert [row[0] for row in table if row[1] == "8"] == ["authors", "ours"]
    ours = {row[1] for row in table if row[0] == "ours"}
    assert {"forward", "loss", "backward", "watch", "optimiser", "the rest"} <= ours


def test_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--backbone", "resnet10", "--width", "8", "--saves", "2"]
    checkpoint.main([*sizes, "--storage", str(tmp_path)])
    table = rows(capsys.readouterr().out)
    assert [row[0] for row in table[2:5]] == ["waiting", "first", "following"]
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
