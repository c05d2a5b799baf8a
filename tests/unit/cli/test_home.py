"""The home of `vicreg up`: who may enter it, and what its path may hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import make_url

from vicreg_platform.cli.local import LocalOptions, LocalPlatform, free_ports
from vicreg_platform.database import Database
from vicreg_platform.errors import LocalPlatformError
from vicreg_platform.settings import Settings, sqlite_url

ODD = "50%, 100%25 a%20b?c=d#e f"
"""What a URL would mean something else by."""


@pytest.fixture(autouse=True)
def _no_other_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's folder lies in this test's, and the settings are its own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in os.environ:
        if name.startswith("VICREG_"):
            monkeypatch.delenv(name)


def platform(home: Path) -> LocalPlatform:
    """One that is not started."""
    api, mlflow = free_ports(2)
    return LocalPlatform(LocalOptions(home, home / "data", api, mlflow))


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o777


def test_a_home_is_its_users_alone(tmp_path: Path) -> None:
    home = tmp_path / "no" / "parents" / "yet"
    platform(home)
    assert mode(home) == 0o700


def test_a_home_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    """As version 0.2 made it."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    platform(home)
    assert mode(home) == 0o700


def test_a_home_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    platform(tmp_path / "home")
    assert mode(tmp_path / "disk") == 0o700


def test_the_home_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 4711)
    with pytest.raises(LocalPlatformError, match="belongs to another user"):
        platform(tmp_path)


def test_everything_is_in_a_home_of_an_odd_name(tmp_path: Path) -> None:
    home = tmp_path / ODD
    settings = platform(home).settings
    assert settings.storage == f"{home}/storage"
    database = Database(settings.database_url)
    database.migrate()
    database.dispose()
    assert (home / "platform.db").stat().st_size > 0
    assert {each.name for each in tmp_path.iterdir() if "vicreg-" not in each.name} == {ODD}


def test_the_default_database_is_in_a_home_of_an_odd_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VICREG_HOME", str(tmp_path / ODD))
    settings = Settings.from_environment()
    assert settings.database_url == sqlite_url(tmp_path / ODD / "platform.db")
    assert make_url(settings.database_url).database == f"{tmp_path}/{ODD}/platform.db"
