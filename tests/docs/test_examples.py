"""The examples of the documentation work: specs parse, and every page's commands run in order."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.conftest import Platform
from tests.docs.pages import PAGES, Block, blocks, name_of
from vicreg_platform.schedules.spec import parse_schedule
from vicreg_platform.specs import parse_spec

NOT_RUN = {
    "make-demo": "takes minutes; .ci/run does the same job in tests/e2e",
    "contributing": "the checks and the suite, which this test is part of",
    "readme-up": "installs, and runs until Ctrl-C: the fixture starts a platform instead",
    "readme-up-images": "runs until Ctrl-C",
    "tutorial-up": "installs, and runs until Ctrl-C",
    "data-pack": "needs ImageNet",
    "backup": "needs the databases of a cluster of containers",
    "compose": "needs Docker Engine with Compose: tests/compose runs it",
    "compose-gpu": "needs GPUs and the NVIDIA container toolkit",
    "kubernetes": "needs a Kubernetes cluster",
    "cifar10-small": "needs CIFAR-10 and a quarter of an hour",
    "sweep-cifar10": "needs CIFAR-10 and a quarter of an hour",
    "sweep-extend": "needs a sweep that has succeeded",
    "ablation-table-7": "needs CIFAR-10 and half an hour",
    "ablation-loss": "needs CIFAR-10 and half an hour",
    "linear-protocols": "needs CIFAR-10",
    "push": "needs an account of the Hugging Face Hub: see tests/integration/test_export.py",
    "continue": "needs published weights, photographs and a GPU",
    "register": "needs a better encoder: see tests/integration/test_registration.py",
}
"""Examples that no test runs, by name, and why."""

BLOCKS = [block for page in PAGES for block in blocks(page)]
SPECS = [block for block in BLOCKS if block.language == "yaml"]
USE_ENCODER = ("README.md", "docs/guides/encoders.md")
"""Pages that use a finished encoder; it is trained while the others run."""
RUN = sorted(
    {block.page for block in BLOCKS if block.language in ("sh", "python") and not block.not_run},
    key=lambda page: (page in USE_ENCODER, page),
)


@pytest.mark.parametrize("block", SPECS, ids=lambda block: f"{block.page}:{block.line}")
def test_every_spec_parses(block: Block) -> None:
    data = yaml.safe_load(block.text)
    if "kind" in data:
        parse_spec(data)
    else:
        parse_schedule(data)


def test_every_block_that_is_not_run_is_listed() -> None:
    assert sorted(block.not_run for block in BLOCKS if block.not_run) == sorted(NOT_RUN)


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run_in_order(page: str, platform: Platform, tmp_path: Path) -> None:
    if page in USE_ENCODER:
        platform.wait_for_encoder()
    script = "\n".join(["set -euo pipefail", *commands(page)])
    script = script.replace("localhost:8000", platform.api).replace(
        "localhost:5000", platform.mlflow
    )
    (tmp_path / ".vicreg").symlink_to(platform.home)  # where `vicreg up` keeps its key
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=platform.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    platform.cancel_others()


def commands(page: str) -> Iterator[str]:
    """The blocks of a page as one script; files are saved where they stand."""
    here = next(each for each in PAGES if name_of(each) == page)
    for block in blocks(here):
        if block.not_run:
            continue
        yield f"echo '=== {block.page}:{block.line}' >&2"
        if block.file:
            yield f"cat > {block.file} <<'EXAMPLE'\n{block.text}EXAMPLE"
        elif block.language == "python":
            yield f"python - <<'EXAMPLE'\n{block.text}EXAMPLE"
        elif block.language == "sh":
            yield block.text
