"""The pages of the documentation, and the blocks of code in them.

A comment before a block says how the tests take it; CONTRIBUTING.md describes both::

    <!-- file: NAME -->       the block is saved as NAME in the folder where the page's examples run
    <!-- not run: NAME -->    the block is not run; ``NOT_RUN`` of test_examples.py says why
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

_BLOCK = re.compile(
    r"(?:^<!-- (?P<comment>file|not run): (?P<name>[^\n]+) -->\n)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code."""

    page: str
    line: int
    language: str
    text: str
    file: str | None
    not_run: str | None


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            page=name_of(page),
            line=text.count("\n", 0, match.start()) + 1,
            language=match["language"],
            text=match["text"],
            file=match["name"] if match["comment"] == "file" else None,
            not_run=match["name"] if match["comment"] == "not run" else None,
        )
        for match in _BLOCK.finditer(text)
    ]


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return _BLOCK.sub("", page.read_text())
