"""Environment variables, read once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vicreg_platform.errors import InvalidSettings
from vicreg_platform.settings import Settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("VICREG_"):
            monkeypatch.delenv(name)


def test_the_defaults_are_those_of_vicreg_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VICREG_HOME", "/srv/vicreg")
    settings = Settings.from_environment()
    assert settings.database_url == "sqlite:////srv/vicreg/platform.db"
    assert settings.storage == "/srv/vicreg/storage"
    assert settings.data_root == Path("/srv/vicreg/data")
    assert settings.mlflow_public_url == settings.mlflow_url == "http://127.0.0.1:5000"
    assert settings.ray_nodes is None


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TOKEN", "RAY_NODES", "API_KEY", "METRICS_PORT", "POSTS_PER_MINUTE"):
        monkeypatch.setenv(f"VICREG_{name}", "")
    assert Settings.from_environment() == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VICREG_POSTS_PER_MINUTE", "many"),
        ("VICREG_POSTS_PER_MINUTE", "0"),
        ("VICREG_METRICS_PORT", "65536"),
        ("VICREG_RETRY_BACKOFF_SECONDS", "nan"),
        ("VICREG_RAY_NODES", "8xx"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=f"^{name} is '{value}': it ") as refusal:
        Settings.from_environment()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "value", ["hooks.example/hidden", "ftp://hidden", "https://", "http://hidden:99999/"]
)
def test_a_bad_address_of_the_webhook_is_said_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("VICREG_WEBHOOK_URL", value)
    with pytest.raises(InvalidSettings, match=r"^VICREG_WEBHOOK_URL: it (should be a|is)") as said:
        Settings.from_environment()
    assert "hidden" not in str(said.value)


def test_every_setting_reaches_a_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VICREG_RAY_NODES", "2x4,1x16x1")
    monkeypatch.setenv("VICREG_POSTS_PER_MINUTE", "7")
    monkeypatch.setenv("VICREG_METRICS_PORT", "9100")
    monkeypatch.setenv("VICREG_RETRY_BACKOFF_SECONDS", "0.5")
    monkeypatch.setenv("VICREG_API_KEY", "secret")
    monkeypatch.setenv("VICREG_WEBHOOK_URL", "https://hooks.example/services/T0/B0")
    monkeypatch.setenv("VICREG_WEBHOOK_SECRET", "secret")
    settings = Settings.from_environment()
    environment = settings.environment()
    assert set(environment) == {f"VICREG_{name.upper()}" for name in Settings.model_fields}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment() == settings


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VICREG_API_KEY", "hidden-key")
    monkeypatch.setenv("VICREG_RAY_TOKEN", "hidden-token")
    monkeypatch.setenv("VICREG_WEBHOOK_URL", "https://hidden.example/token")
    monkeypatch.setenv("VICREG_WEBHOOK_SECRET", "hidden-secret")
    assert "hidden" not in repr(Settings.from_environment())


def test_the_names_of_the_api_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VICREG_API_HOSTS", "api.example, API.lan ,")
    settings = Settings.from_environment()
    assert settings.api_hosts == ("api.example", "api.lan")
    assert settings.environment()["VICREG_API_HOSTS"] == "api.example,api.lan"
