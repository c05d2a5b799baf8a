"""The benchmark of an MLflow outage runs."""

from tests.benchmarks.mlflow_outage import measure
from tests.integration.conftest import MlflowServer


def test_it_measures_every_condition(mlflow_server: MlflowServer) -> None:
    seconds = measure(mlflow_server, ("answering", "hung"), rounds=1)
    assert all(value > 0 for value in seconds.values())
