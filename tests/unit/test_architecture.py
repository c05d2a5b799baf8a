"""Which part may import which, and rules of the layout."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("platform", "workers", "api")


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_a_source_root_holds_one_package_and_no_module(root: str) -> None:
    # A package named `platform` at the repo root would shadow the standard library's.
    entries = {entry.name for entry in (ROOT / root).iterdir()} - {"__pycache__"}
    assert entries - {"console"} == {f"vicreg_{root}"}
    assert ("console" in entries) == (root == "api")  # the sources of a page: no Python package
    assert not (ROOT / root / "console" / "__init__.py").exists()


def test_no_folder_of_the_tests_is_named_like_a_standard_module() -> None:
    named = {path.parent.name for path in (ROOT / "tests").rglob("*.py")}
    assert not named & sys.stdlib_module_names


def test_every_folder_of_the_tests_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_standard_platform_module_is_the_one_imported_from_the_repo_root() -> None:
    code = "import platform; print(platform.__file__); platform.machine()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).name == "platform.py"


def test_the_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_api_and_the_dispatcher_load_neither_torch_nor_ray() -> None:
    # What import-linter cannot see: a library that imports them.
    code = (
        "import sys, vicreg_api.app, vicreg_platform.dispatch.loop, vicreg_platform.cli.commands;"
        "print([m for m in ('torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_only_the_repository_and_the_database_write_sql() -> None:
    # The lease, the queue's view, the owners' usage and how far the webhook is are rows that have
    # one reader each.
    own_rows = {"lease.py", "queue_snapshot.py", "usage.py", "webhook.py"}
    allowed = {"database.py", "changes.py", "tables.py", "repository.py", "service.py"} | own_rows
    importing = {
        path.name
        for path in (ROOT / "platform").rglob("*.py")
        if "migrations" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
        if [name.name for name in node.names] != ["Session"]
    }
    assert importing <= allowed
