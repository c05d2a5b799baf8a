"""The alert rules, as Prometheus itself reads them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"


def promtool(*arguments: str | Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: it comes with Prometheus")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_configuration_and_rules() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")


UP = 'up{job="vicreg-api", instance="api:8000"}'
LAST_ROUND = 'vicreg_dispatch_last_round_timestamp{instance="dispatcher:9108", loop="cluster"}'
RAY_FAILURES = 'vicreg_call_failures_total{instance="dispatcher:9108", service="ray"}'
MLFLOW_FAILURES = 'vicreg_call_failures_total{instance="dispatcher:9108", service="mlflow"}'
OLDEST_QUEUED = 'vicreg_oldest_queued_seconds{instance="api:8000"}'
RUNNING = 'vicreg_jobs{instance="api:8000", state="running"}'
LOST = 'vicreg_attempts_ended_total{instance="dispatcher:9108", outcome="infrastructure"}'
WELL = {
    UP: "1x60",
    LAST_ROUND: "0+60x60",
    RAY_FAILURES: "3x60",
    MLFLOW_FAILURES: "3x60",
    OLDEST_QUEUED: "20000x60",
    RUNNING: "1x60",
    LOST: "2x60",
}
"""Series of one hour, one value per minute, in promtool's notation."""
ALARMS = {
    "VicregApiDown": ({UP: "0x60"}, "5m"),
    "VicregDispatcherStands": ({LAST_ROUND: "60x60"}, "9m"),
    "VicregRayDoesNotAnswer": ({RAY_FAILURES: "0+1x60"}, "12m"),
    "VicregMlflowDoesNotAnswer": ({MLFLOW_FAILURES: "0+1x60"}, "12m"),
    "VicregQueueStands": ({RUNNING: "0x60"}, "20m"),
    "VicregJobsAreLost": ({LOST: "0+1x60"}, "30m"),
}
"""For each alert: what is wrong, and the time by which it fires."""


def check_alerts(tmp_path: Path, series: dict[str, str], firing: list[str], at: str) -> None:
    """Exactly these alerts fire by the time ``at``."""
    content: dict[str, Any] = {
        "rule_files": [str(MONITORING / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in series.items()
                ],
                # Not alert_rule_test, which also compares every text of an alert.
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) '
                        "or vector(0)",
                        "eval_time": at,
                        "exp_samples": [{"labels": "{}", "value": int(alert in firing)}],
                    }
                    for alert in ALARMS
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(content))
    promtool("test", "rules", path)


@pytest.mark.parametrize("alert", ALARMS)
def test_goes_off(alert: str, tmp_path: Path) -> None:
    unwell, at = ALARMS[alert]
    check_alerts(tmp_path, WELL | unwell, [alert], at)


def test_all_is_quiet_while_all_is_well(tmp_path: Path) -> None:
    check_alerts(tmp_path, WELL, [], "50m")


def test_every_alert_is_tested() -> None:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    assert {rule["alert"] for rule in group["rules"]} == set(ALARMS)
