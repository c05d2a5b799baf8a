"""A job's folder on a path or an fsspec URL that every worker reaches.

* ``<storage>/<job>/``
  - ``checkpoints/step-00000044/``: see ``checkpoints``
  - ``attempt-1/``: see ``stop_signal``
  - ``images-….npz``: its images in a folder, see ``selfsup.data.layouts.listing``
  - ``capture.pt``: the step at which a training diverged, see ``selfsup.capture``
  - ``encoders/epoch-00100/``: kept to be evaluated, see ``weights``
  - ``trials/00000.json``: of a sweep, see ``sweep.ledger``
  - ``trials/00000/``: the folder of a sweep's trial, laid out as a job's
* ``<storage>/indexes/``: where in their shards images lie, see ``selfsup.data.layouts.shard_index``
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import fsspec

INDEXES = "indexes"


class Folder:
    """A folder in the storage. It need not exist until something is written into it.

    Other processes write there too, so cached listings are never used.
    """

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem = filesystem
        self._path = path

    @classmethod
    def of_job(cls, storage: str, job_id: str) -> Folder:
        """The folder of a job or trial in ``storage``, a path or an fsspec URL."""
        filesystem, root = fsspec.core.url_to_fs(storage)
        return cls(filesystem, f"{root.rstrip('/')}/{job_id}")

    def __truediv__(self, name: str) -> Folder:
        """The sub-folder ``name``."""
        return Folder(self._filesystem, f"{self._path}/{name}")

    def __str__(self) -> str:
        return self._path

    def names(self) -> list[str]:
        """The names of the files and folders in it, sorted. Empty if it does not exist."""
        self._filesystem.invalidate_cache()
        if not self._filesystem.exists(self._path):
            return []
        paths = self._filesystem.ls(self._path, detail=False)
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def holds(self, name: str) -> bool:
        """Whether the file ``name`` exists."""
        self._filesystem.invalidate_cache()
        return bool(self._filesystem.exists(f"{self._path}/{name}"))

    def read(self, name: str) -> bytes:
        """The content of the file ``name``.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        content: bytes = self._filesystem.cat_file(f"{self._path}/{name}")
        return content

    def write(self, name: str, content: bytes = b"") -> None:
        """Write the file ``name`` atomically: a reader sees all of it or none."""
        with self.writer(name) as file:
            file.write(content)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """Open the file ``name`` to be written atomically, piece by piece.

        It is written under another name, which no other writer has, and on a local disk it is
        synced before it is renamed, when the block ends. If the block fails, nothing is written.
        """
        path = f"{self._path}/{name}"
        part = f"{path}.{uuid.uuid4().hex}.part"
        self._filesystem.makedirs(self._path, exist_ok=True)
        try:
            with self._filesystem.open(part, "wb") as file:
                yield file
                file.flush()
                if self._filesystem.protocol[0] == "file":
                    os.fsync(file.fileno())
            self._filesystem.mv(part, path)
        except BaseException:
            with suppress(OSError):
                self._filesystem.rm_file(part)
            raise

    def remove_file(self, name: str) -> None:
        """Remove the file ``name``."""
        self._filesystem.rm_file(f"{self._path}/{name}")

    def remove(self) -> None:
        """Remove the folder and all it holds, if it exists."""
        self._filesystem.invalidate_cache()
        if self._filesystem.exists(self._path):
            # Another process may write or remove something in it meanwhile.
            with suppress(FileNotFoundError):
                self._filesystem.rm(self._path, recursive=True)
