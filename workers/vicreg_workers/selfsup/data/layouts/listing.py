"""The images of a folder, as a job has found them.

A job keeps its list: all of its workers and attempts read the same images, whatever is added to the
folder meanwhile, and only the first worker walks through it.
"""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vicreg_workers.selfsup.data.layouts.keep import arrays_of
from vicreg_workers.selfsup.data.layouts.names import Names


@dataclass(frozen=True)
class Listing:
    """The images of a folder, in order."""

    files: Names
    """Their paths in the folder, ``[N]``."""
    labels: Sequence[int]
    """The class of each, ``[N]``; 0 if there are no classes."""
    classes: Sequence[str]
    """Their names; empty if the images have no labels."""

    def to_bytes(self) -> bytes:
        """The listing as a file, compressed: each job keeps one."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            files=self.files.content,
            ends=self.files.ends,
            labels=np.asarray(self.labels, dtype=np.int32),
            classes=np.frombuffer(json.dumps(self.classes).encode(), dtype=np.uint8),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Listing:
        """What ``to_bytes`` wrote.

        Raises:
            ValueError: it is something else.
        """
        with arrays_of(content, "a list of images") as file:
            listing = cls(
                Names.of(file["files"], file["ends"]),
                array("i", file["labels"].astype(np.int32).tobytes()),
                [str(name) for name in json.loads(file["classes"].tobytes())],
            )
            if len(listing.files) != len(listing.labels):
                raise ValueError("its parts have different lengths")
        return listing
