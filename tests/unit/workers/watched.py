"""``watched://``: the local disk, through which a test sees and holds up what is read and written.

What is set here counts in the process that sets it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Watch:
    """What a test sees and holds up."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        """Names of the files read."""
        self.full = ""
        """There is no room for a file with this in its path."""
        self.held = ""
        """A file with this in its path is opened for writing, and then held up."""
        self.holding = threading.Event()
        """A file is held up."""
        self.released = threading.Event()
        self.looks = threading.Semaphore(0)
        """Released each time that a folder is listed."""

    def opened(self, path: str) -> None:
        if self.full and self.full in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.held and self.held in path:
            self.holding.set()
            self.released.wait()


_watch = Watch()


@contextmanager
def watching(full: str = "", held: str = "") -> Iterator[Watch]:
    """Watch the file system meanwhile, with nothing seen so far."""
    global _watch
    _watch = Watch()
    _watch.full, _watch.held = full, held
    try:
        yield _watch
    finally:
        _watch.released.set()
        _watch = Watch()


class Watched(LocalFileSystem):  # type: ignore[misc]
    protocol = "watched"

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        stripped: str = super()._strip_protocol(str(path).removeprefix("watched://"))
        return stripped

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super().open(path, mode, **options)
        if "w" in mode:
            _watch.opened(path)
        return file

    def cat_file(self, path: str, *span: Any, **options: Any) -> Any:
        _watch.reads.append(PurePosixPath(path).name)
        return super().cat_file(path, *span, **options)

    def ls(self, path: str, *detail: Any, **options: Any) -> Any:
        _watch.looks.release()
        return super().ls(path, *detail, **options)


fsspec.register_implementation("watched", Watched, clobber=True)
