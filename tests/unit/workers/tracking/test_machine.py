"""A run records the machine and the software it ran on."""

import pytest
import torch

from vicreg_workers.tracking.machine import environment_tags


def test_a_machine_without_git_records_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("VICREG_GIT_COMMIT", raising=False)
    tags = environment_tags(torch.device("cpu"))
    assert tags["vicreg.torch"] == torch.__version__
    assert "mlflow.source.git.commit" not in tags


def test_a_container_image_names_its_commit_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VICREG_GIT_COMMIT", "abc")
    assert environment_tags(torch.device("cpu"))["mlflow.source.git.commit"] == "abc"
