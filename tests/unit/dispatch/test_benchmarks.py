"""The queue's benchmarks run, at sizes that say nothing about speed."""

from __future__ import annotations

import pytest

from tests.benchmarks import dispatch_round, queue_policies


def test_traces_are_played_by_every_policy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(queue_policies, "COST_QUEUED", 20)
    monkeypatch.setattr(queue_policies, "COST_RUNNING", 10)
    monkeypatch.setattr(queue_policies, "ROUNDS", 1)
    monkeypatch.setattr(queue_policies, "print_adversarial", lambda: None)
    queue_policies.main(["--days", "1", "--jobs", "200"])
    said = capsys.readouterr().out
    assert all(f"| {policy} |" in said for policy in queue_policies.POLICIES)


def test_a_round_is_measured_with_mlflow_and_without(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dispatch_round.main(["--queued", "50", "--running", "10", "--seconds", "4"])
    said = capsys.readouterr().out
    assert "| answers |" in said
    assert "| hangs |" in said
