"""What the commands ``vicreg data check`` and ``vicreg data pack`` share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from torch.utils.data import DataLoader, Dataset

from vicreg_workers.data.source import SOURCE_HELP, shown
from vicreg_workers.selfsup.data.decoding import AnyPicture
from vicreg_workers.selfsup.errors import SelfsupError

Result = TypeVar("Result")

EXAMPLES = 10
"""Images or groups that a report names."""
messages = Console(stderr=True, soft_wrap=True, highlight=False)


def source_arguments(description: str) -> argparse.ArgumentParser:
    """A parser of what both commands take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("source", help=SOURCE_HELP)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--data-root", type=Path, default=Path())
    return parser


def in_parallel(work: Dataset[Result], count: int, workers: int) -> Iterator[Result]:
    """The items of ``work``, in the order in which they are ready.

    Args:
        work: items 0 to ``count`` - 1.
        count: how many there are.
        workers: processes; with 1, this one makes them.

    Raises:
        SelfsupError: what an item raised.
        RuntimeError: a process was killed.
    """
    loaders = min(workers, count)
    made: DataLoader[Result | SelfsupError] = DataLoader(
        _Outcomes(work),
        sampler=range(count),
        batch_size=None,
        num_workers=loaders if loaders > 1 else 0,
        collate_fn=_as_it_is,
        in_order=False,
    )
    for item in made:
        if isinstance(item, SelfsupError):
            raise item
        yield item


class _Outcomes(Dataset[Result | SelfsupError]):
    """Items, or why they cannot be made: a loader would add its traceback to the text."""

    def __init__(self, work: Dataset[Result]) -> None:
        self._work = work

    def __getitem__(self, index: int) -> Result | SelfsupError:
        try:
            return self._work[index]
        except SelfsupError as error:
            return error


def _as_it_is(item: Result) -> Result:
    return item


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """A bar of ``total`` images on standard error, if that is a terminal."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=messages, transient=True, disable=not messages.is_terminal
    ) as progress:
        yield progress, progress.add_task(title, total=total)


def decode(picture: AnyPicture) -> None:
    """See whether an image can be decoded.

    Raises:
        OSError: it is truncated or broken.
    """
    # At an eighth of its size, where the format can: every byte is read all the same.
    picture.pixels(8.0)


def unreadable(name: str, error: OSError) -> str:
    """Which image cannot be read and why, in one line that names it once."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return shown(f"{name}: {reason.replace(name, 'it')}")


def warn(text: str) -> None:
    """Print one line for the user."""
    messages.print(f"[yellow]warning[/]: {escape(text)}")


@contextmanager
def one_message() -> Iterator[None]:
    """End the process with one message and exit code 1 if what is known to happen happens."""
    try:
        yield
    except SelfsupError as error:
        _end(str(error))
    except RuntimeError as error:
        # What torch raises; all else that the commands do is caught before.
        if "DataLoader worker" not in str(error):
            raise
        _end(f"a process was killed, perhaps because memory ran out: try fewer --workers ({error})")
    except KeyboardInterrupt:
        sys.exit(130)


def _end(text: str) -> None:
    messages.print(f"[bold red]error[/]: {escape(' '.join(text.split()))}")
    sys.exit(1)
