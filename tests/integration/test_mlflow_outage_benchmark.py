"""The benchmark of an MLflow outage runs."""

from tests.benchmarks.mlflow_outage import measure
from tests.integration.conftest import MlflowServer


def test_the_time_of_a_step_is_measured(mlflow_server: MlflowServer) -> None:
    # Breaking the server would slow the tests that share it.
    assert measure(mlflow_server, ("answering",), rounds=1)["answering"] > 0
