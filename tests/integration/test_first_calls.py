"""MLflow is imported by the first call to it, whoever makes that, and however many at once."""

from __future__ import annotations

import subprocess
import sys

CALLS = """
import threading, time
from vicreg_platform.errors import TrackingUnavailable
from vicreg_platform.tracking import Tracking, is_refusal, mlflow_client

tracking = Tracking("http://127.0.0.1:1")
seen = []

def call(method, *arguments):
    try:
        method(*arguments)
        seen.append("done")
    except TrackingUnavailable:
        seen.append("done")
    except BaseException as error:
        seen.append(repr(error))

# Each enters MLflow by another module, while those before are in the middle of importing it.
calls = [
    (mlflow_client, "http://127.0.0.1:1"), (tracking.history, "r", "m"), (is_refusal, OSError()),
    (tracking.ensure_run, "j", "n", "e", {}, None),
] * 6
threads = [threading.Thread(target=call, args=each) for each in calls]
for thread in threads:
    thread.start()
    time.sleep(0.02)
for thread in threads:
    thread.join()
assert seen == ["done"] * len(calls), seen
"""


def test_first_calls_at_once_each_find_the_whole_of_mlflow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
