"""The checkpoints of a job: ``checkpoints/step-00000044/`` in its folder.

Each holds ``shared.pt``, ``worker-0.pt`` and so on, and ``manifest.json``. The manifest is written
last, when every worker's file is in place; a folder without one is not a checkpoint. The manifest
holds the size and CRC of every file, so that a damaged checkpoint is detected and the one before
it is loaded.
"""

from __future__ import annotations

import io
import json
import logging
import re
import zlib
from typing import Any, NamedTuple

import torch

from vicreg_workers.selfsup.context import State
from vicreg_workers.selfsup.distributed import barrier, gather_objects, rank, world_size
from vicreg_workers.storage import Folder

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SHARED = "shared.pt"
_STEP = re.compile(r"step-\d+$")


class _Complete(NamedTuple):
    folder: str
    step: int
    workers: int


class Checkpoints:
    """The checkpoints of one job.

    Args:
        storage: a path or an fsspec URL.
        job_id: the job or trial.
        keep: number of checkpoints to keep, at least 1.
    """

    def __init__(self, storage: str, job_id: str, keep: int) -> None:
        self._storage = storage
        self._folder = Folder.of_job(storage, job_id) / "checkpoints"
        self._keep = keep

    def of_job(self, job_id: str) -> Checkpoints:
        """The checkpoints of another job in the same storage."""
        return Checkpoints(self._storage, job_id, self._keep)

    def save(self, state: State) -> None:
        """Write a checkpoint. Every worker calls it; it returns when the checkpoint is complete."""
        folder = self._folder / f"step-{state.step:08d}"
        name = f"worker-{rank()}.pt"
        written = {name: _write(folder, name, state.own)}
        if rank() == 0:
            written[SHARED] = _write(folder, SHARED, state.shared)
        files = {name: entry for share in gather_objects(written) for name, entry in share.items()}
        if rank() == 0:
            manifest = {"step": state.step, "workers": world_size(), "files": files}
            folder.write(MANIFEST, json.dumps(manifest, indent=1).encode())
            self._prune()
        barrier()

    def load(self) -> State | None:
        """Load the newest intact checkpoint, or return None if there is none.

        Every worker calls it, and all load the same checkpoint.
        """
        newest = gather_objects(self._newest_intact() if rank() == 0 else None)[0]
        if newest is None:
            return None
        folder = self._folder / newest.folder
        # With more workers than before, a worker without a file of its own loads the first's.
        own = f"worker-{rank() if rank() < newest.workers else 0}.pt"
        return State(newest.step, _read(folder, SHARED), _read(folder, own), newest.workers)

    def last_files(self) -> tuple[str, dict[str, bytes]] | None:
        """The name of the newest intact checkpoint and the content of its files."""
        newest = self._newest_intact()
        if newest is None:
            return None
        folder = self._folder / newest.folder
        return newest.folder, {name: folder.read(name) for name in folder.names()}

    def names(self) -> list[str]:
        """The folders that hold a manifest, oldest first."""
        return [
            name
            for name in self._folder.names()
            if _STEP.match(name) and (self._folder / name).holds(MANIFEST)
        ]

    def _newest_intact(self) -> _Complete | None:
        for name in reversed(self.names()):
            folder = self._folder / name
            try:
                manifest = json.loads(folder.read(MANIFEST))
                damaged = [
                    file
                    for file, entry in manifest["files"].items()
                    if not _is_intact(folder, file, entry)
                ]
            except (ValueError, KeyError):
                damaged = [MANIFEST]
            if not damaged:
                return _Complete(name, manifest["step"], manifest["workers"])
            logger.warning("checkpoint %s is damaged (%s): trying an older one", folder, damaged)
        return None

    def _prune(self) -> None:
        for name in self.names()[: -self._keep]:
            folder = self._folder / name
            # The manifest goes first: a folder removed only in part is then not a checkpoint.
            folder.remove_file(MANIFEST)
            folder.remove()


def _is_intact(folder: Folder, name: str, entry: dict[str, int]) -> bool:
    if not folder.holds(name):
        return False
    content = folder.read(name)
    return len(content) == entry["bytes"] and zlib.crc32(content) == entry["crc32"]


def _write(folder: Folder, name: str, content: dict[str, Any]) -> dict[str, int]:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    folder.write(name, data)
    return {"bytes": len(data), "crc32": zlib.crc32(data)}


def _read(folder: Folder, name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(
        io.BytesIO(folder.read(name)), map_location="cpu", weights_only=True
    )
    return content
