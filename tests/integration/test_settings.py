"""Settings as the processes read them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["vicreg_platform.dispatcher", "vicreg_api"])
def test_a_process_with_a_bad_value_says_so_and_exits(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module],
        env=os.environ | {"VICREG_POSTS_PER_MINUTE": "many"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.strip().startswith(f"{module}: VICREG_POSTS_PER_MINUTE is 'many'")
    assert "Traceback" not in done.stderr
