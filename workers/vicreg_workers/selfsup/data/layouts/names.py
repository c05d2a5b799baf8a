"""Many names in little memory."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator

import numpy as np


class Names:
    """Names of files, as one buffer of bytes and where each ends in it.

    A million Python strings take 100 MB, and each loader process would soon have its own copy of
    them: reading an object counts its references, and so writes to its page.

    Args:
        names: the names, in any encoding that the file system has.
    """

    def __init__(self, names: Iterable[str]) -> None:
        content = bytearray()
        ends = array("q")
        for name in names:
            content += os.fsencode(name)
            ends.append(len(content))
        self.content = np.frombuffer(bytes(content), dtype=np.uint8)
        """The names, end to end."""
        self.ends = np.array(ends, dtype=np.int64)
        """Where each ends in ``content``."""

    @classmethod
    def of(cls, content: np.ndarray, ends: np.ndarray) -> Names:
        """The names of these ``content`` and ``ends``."""
        names = cls(())
        names.content, names.ends = content, ends
        return names

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.content[start : self.ends[index]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))
