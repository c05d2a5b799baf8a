"""The alert rules, as Prometheus itself reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
API = '{job="vicreg-api", instance="api:8000"}'
DISPATCHER = '{job="vicreg-dispatcher", instance="dispatcher:9108"}'


def promtool(*arguments: str | Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: it comes with Prometheus")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def labelled(series: str, **labels: str) -> str:
    """A series of one of the two targets, with labels of its own beside the target's."""
    more = "".join(f', {name}="{value}"' for name, value in labels.items())
    return series.replace("}", more + "}")


def test_prometheus_takes_configuration_and_rules() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")


ALARMS = {
    "VicregApiDown": (["up" + API, "0x60"], "5m"),
    "VicregDispatcherStands": (
        ["vicreg_dispatch_last_round_timestamp" + DISPATCHER, "60x60"],
        "9m",
    ),
    "VicregRayDoesNotAnswer": (
        [labelled("vicreg_call_failures_total" + DISPATCHER, service="ray"), "0+1x60"],
        "12m",
    ),
    "VicregMlflowDoesNotAnswer": (
        [labelled("vicreg_call_failures_total" + DISPATCHER, service="mlflow"), "0+1x60"],
        "12m",
    ),
    "VicregQueueStands": (
        ["vicreg_oldest_queued_seconds" + API, "20000x60",
         labelled("vicreg_jobs" + API, state="running"), "0x60"],
        "20m",
    ),
    "VicregJobsAreLost": (
        [labelled("vicreg_attempts_ended_total" + DISPATCHER, outcome="infrastructure"), "0+1x60"],
        "30m",
    ),
}  # fmt: skip
"""Of each alert: series that it is for, and the time by which it has gone off."""
WELL = [
    "up" + API, "1x60",
    "vicreg_dispatch_last_round_timestamp" + DISPATCHER, "0+60x60",
    labelled("vicreg_call_failures_total" + DISPATCHER, service="ray"), "3x60",
    labelled("vicreg_call_failures_total" + DISPATCHER, service="mlflow"), "3x60",
    "vicreg_oldest_queued_seconds" + API, "20000x60",
    labelled("vicreg_jobs" + API, state="running"), "1x60",
    labelled("vicreg_attempts_ended_total" + DISPATCHER, outcome="infrastructure"), "2x60",
]  # fmt: skip


def rule_test(tmp_path: Path, series: list[str], alarms: list[str], at: str) -> Path:
    """A file of promtool's in which just these alerts, of all there are, go off."""
    pairs = zip(series[::2], series[1::2], strict=True)
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    content: dict[str, Any] = {
        "rule_files": [str(MONITORING / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in pairs],
                # Not alert_rule_test, which compares every text of an alert too.
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{rule["alert"]}", '
                        'alertstate="firing"}) or vector(0)',
                        "eval_time": at,
                        "exp_samples": [{"labels": "{}", "value": int(rule["alert"] in alarms)}],
                    }
                    for rule in rules
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("alert", ALARMS)
def test_goes_off(alert: str, tmp_path: Path) -> None:
    series, at = ALARMS[alert]
    names = set(series[::2])
    others = [item for pair in zip(WELL[::2], WELL[1::2], strict=True)
              if pair[0] not in names for item in pair]  # fmt: skip
    promtool("test", "rules", rule_test(tmp_path, [*series, *others], [alert], at))


def test_all_is_quiet_while_all_is_well(tmp_path: Path) -> None:
    promtool("test", "rules", rule_test(tmp_path, WELL, [], "50m"))


def test_every_alert_is_tested() -> None:
    text = (MONITORING / "alerts.yml").read_text()
    assert set(re.findall(r"alert: (\w+)", text)) == set(ALARMS)
