"""Checkpoints on a path or an fsspec URL that every worker reaches.

Layout: ``<storage>/<job>/checkpoints/step-00000044/{shared.pt,worker-0.pt,…,manifest.json}``.
The manifest is written last, after every worker's file is in place: a folder without one is no
checkpoint. It carries the size and CRC of every file, so that a torn file is seen and the
checkpoint before it is used.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import zlib
from typing import Any

import fsspec
import torch

from vicreg_workers.selfsup.context import State
from vicreg_workers.selfsup.distributed import barrier, gather_objects, rank, world_size

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SHARED = "shared.pt"
_FOLDER = re.compile(r"step-(\d+)$")


def remove_checkpoints(storage: str, job_id: str) -> None:
    """Remove all that a job has there."""
    fs, root = fsspec.core.url_to_fs(storage)
    folder = f"{root.rstrip('/')}/{job_id}"
    if fs.exists(folder):
        fs.rm(folder, recursive=True)


class Checkpoints:
    """The checkpoints of one job. Every method but ``last_files`` is called by every worker.

    Args:
        storage: a path or an fsspec URL.
        job_id: whose checkpoints.
        keep: how many to keep.
    """

    def __init__(self, storage: str, job_id: str, keep: int) -> None:
        self._storage = storage
        self._fs, root = fsspec.core.url_to_fs(storage)
        self._folder = f"{root.rstrip('/')}/{job_id}/checkpoints"
        self._keep = keep

    def of_job(self, job_id: str) -> Checkpoints:
        """Those of another job in the same storage."""
        return Checkpoints(self._storage, job_id, self._keep)

    def save(self, state: State) -> None:
        """Write a checkpoint; returns when it is whole on every worker."""
        folder = f"{self._folder}/step-{state.step:08d}"
        self._fs.makedirs(folder, exist_ok=True)
        written = {f"worker-{rank()}.pt": self._write(f"{folder}/worker-{rank()}.pt", state.own)}
        if rank() == 0:
            written[SHARED] = self._write(f"{folder}/{SHARED}", state.shared)
        files = {name: entry for share in gather_objects(written) for name, entry in share.items()}
        if rank() == 0:
            manifest = {"step": state.step, "workers": world_size(), "files": files}
            self._write_bytes(f"{folder}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
            self._prune()
        barrier()

    def load(self) -> State | None:
        """The newest whole checkpoint; the same one on every worker. None where there is none."""
        chosen = gather_objects(self._newest_whole() if rank() == 0 else None)[0]
        if chosen is None:
            return None
        folder, step, workers = chosen
        # With another number of workers, a worker without a file of its own takes the first's.
        own = f"worker-{rank() if rank() < workers else 0}.pt"
        return State(step, self._read(f"{folder}/{SHARED}"), self._read(f"{folder}/{own}"), workers)

    def last_files(self) -> tuple[str, dict[str, bytes]] | None:
        """The name of the newest whole checkpoint and the content of its files."""
        newest = self._newest_whole()
        if newest is None:
            return None
        folder = newest[0]
        names = [path.rsplit("/", 1)[-1] for path in self._fs.ls(folder, detail=False)]
        return folder.rsplit("/", 1)[-1], {
            name: self._fs.cat_file(f"{folder}/{name}") for name in names
        }

    def _newest_whole(self) -> tuple[str, int, int] | None:
        for folder in reversed(self._complete()):
            try:
                manifest = json.loads(self._fs.cat_file(f"{folder}/{MANIFEST}"))
                torn = [
                    name
                    for name, entry in manifest["files"].items()
                    if not self._is_whole(f"{folder}/{name}", entry)
                ]
            except (ValueError, KeyError):
                torn = [MANIFEST]
            if not torn:
                return folder, manifest["step"], manifest["workers"]
            logger.warning("checkpoint %s is damaged (%s): the one before it is used", folder, torn)
        return None

    def _is_whole(self, path: str, entry: dict[str, int]) -> bool:
        if not self._fs.exists(path):
            return False
        content = self._fs.cat_file(path)
        return len(content) == entry["bytes"] and zlib.crc32(content) == entry["crc32"]

    def _complete(self) -> list[str]:
        """Folders that hold a manifest, oldest first."""
        if not self._fs.exists(self._folder):
            return []
        self._fs.invalidate_cache()
        folders = sorted(
            path.rstrip("/")
            for path in self._fs.ls(self._folder, detail=False)
            if _FOLDER.search(path.rstrip("/"))
        )
        return [folder for folder in folders if self._fs.exists(f"{folder}/{MANIFEST}")]

    def _prune(self) -> None:
        for folder in self._complete()[: -self._keep]:
            # The manifest first: what is left of a folder half removed is no checkpoint.
            self._fs.rm_file(f"{folder}/{MANIFEST}")
            self._fs.rm(folder, recursive=True)

    def _write(self, path: str, content: dict[str, Any]) -> dict[str, int]:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getvalue()
        self._write_bytes(path, data)
        return {"bytes": len(data), "crc32": zlib.crc32(data)}

    def _write_bytes(self, path: str, data: bytes) -> None:
        """All or nothing: under another name first, and on the disk before it has its own."""
        with self._fs.open(f"{path}.part", "wb") as file:
            file.write(data)
            file.flush()
            if self._fs.protocol[0] == "file":
                os.fsync(file.fileno())
        self._fs.mv(f"{path}.part", path)

    def _read(self, path: str) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(
            io.BytesIO(self._fs.cat_file(path)), map_location="cpu", weights_only=True
        )
        return content
