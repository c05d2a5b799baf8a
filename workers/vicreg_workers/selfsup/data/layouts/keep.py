"""Where lists of images are kept, so that they are not made again."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np

logger = logging.getLogger(__name__)

Kept = TypeVar("Kept")


class Keep(Protocol):
    """A folder that all workers reach. See ``storage.Folder``."""

    def read(self, name: str) -> bytes:
        """The content of a file. Raises FileNotFoundError."""
        ...

    def write(self, name: str, content: bytes = b"") -> None:
        """Write a file."""
        ...


def read_kept(keep: Keep | None, name: str, parse: Callable[[bytes], Kept]) -> Kept | None:
    """What a file holds; None if it cannot be read, or is something else.

    Args:
        keep: where it is kept; None keeps nothing.
        name: of the file.
        parse: makes it of the content; raises ValueError.
    """
    try:
        return None if keep is None else parsed(keep.read(name), name, parse)
    except OSError:
        return None


def parsed(content: bytes | None, name: str, parse: Callable[[bytes], Kept]) -> Kept | None:
    """What a content holds; None, with a warning, if it is something else."""
    try:
        return None if content is None else parse(content)
    except ValueError as error:
        logger.warning("%s is not used: %s", name, error)
        return None


@contextmanager
def arrays_of(content: bytes, what: str) -> Iterator[Mapping[str, np.ndarray]]:
    """While in it, the arrays that a file of numpy's holds.

    Args:
        content: of the file.
        what: it should be, for people.

    Raises:
        ValueError: it is something else, or what is done with its arrays fails.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            yield arrays
    except Exception as error:  # whatever numpy makes of damaged bytes
        raise ValueError(f"not {what}: {error}") from None


def write_kept(keep: Keep | None, name: str, content: Callable[[], bytes]) -> None:
    """Keep what ``content`` makes, if that is possible; else it is made again when it is needed."""
    if keep is None:
        return
    try:
        keep.write(name, content())
    except OSError as error:
        logger.warning("the list of images %s is not kept: %s", name, error)
