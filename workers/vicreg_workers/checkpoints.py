"""The checkpoints of a job: ``checkpoints/step-00000044/`` in its folder.

Each holds ``shared.pt``, ``worker-0.pt`` and so on, and ``manifest.json``. The manifest is written
last, when every worker's file is in place; a folder without one is not a checkpoint. The manifest
holds the size and CRC of every file, so that a damaged checkpoint is detected and the one before
it is loaded.

A thread of each worker writes while the training continues. Collectives in it would mix with the
training's, so the other workers leave word in the folder of what they have written, for the first
one: ``worker-1.<save>.json`` and so on. Each save has a name of its own, so that what a killed
attempt has left at the same step does not count.
"""

from __future__ import annotations

import io
import json
import logging
import threading
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import torch

from vicreg_platform.contract.checkpoint import (
    CHECKPOINT_NAME,
    CHECKPOINTS,
    MANIFEST,
    MOST_TOLD,
    CheckpointReport,
    StoredCheckpoint,
    name_of_checkpoint,
)
from vicreg_workers.failures import InfrastructureFailure
from vicreg_workers.selfsup.context import State
from vicreg_workers.selfsup.distributed import gather_objects, rank, world_size
from vicreg_workers.snapshot import Snapshot
from vicreg_workers.storage import Folder

logger = logging.getLogger(__name__)

SHARED = "shared.pt"
LOOK_SECONDS = 0.2
"""Time between two looks of the first worker for what the others have written."""
PATIENCE_SECONDS = 600.0
"""How long the first worker waits for the files of the others, when its own are written."""


class _Entry(NamedTuple):
    """What the manifest says of a file."""

    bytes: int
    crc32: int


class _Manifest(NamedTuple):
    step: int
    workers: int
    saved_at: datetime | None
    """Null before 0.3.0."""
    files: dict[str, _Entry]
    content: bytes
    """As it is in the file."""

    def told(self) -> StoredCheckpoint:
        """What the platform is told of the checkpoint."""
        size = sum(entry.bytes for entry in self.files.values())
        return StoredCheckpoint(
            step=self.step, saved_at=self.saved_at, size=size, workers=self.workers
        )


@dataclass
class _Save:
    """A checkpoint that a thread of this worker writes."""

    name: str
    """The same on all workers, and no other save's."""
    folder: Folder
    state: State
    """A copy. Only the first worker writes what is shared; the others' copy is without."""
    taken_at: datetime
    rank: int
    written: threading.Event = field(default_factory=threading.Event)
    """This worker's files are in place, or cannot be written."""
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Some worker's files cannot be written: nobody is to wait for them."""
    ended: threading.Event = field(default_factory=threading.Event)
    """The thread does nothing more."""
    error: Exception | None = None

    def problem(self) -> str | None:
        """What went wrong here, in words for the user."""
        if self.error is None:
            return None
        reason = f"{type(self.error).__name__}: {self.error}"
        return f"worker {self.rank} cannot write the checkpoint {self.folder}: {reason}"


class Checkpoints:
    """The checkpoints of one job.

    As a context, it waits at its end for what this worker is still writing.

    Args:
        storage: a path or an fsspec URL.
        job_id: the job or trial.
        keep: number of checkpoints to keep, at least 1.
        tell: called by the first worker with the checkpoints that there are, when that has changed
            and when they are loaded; also in the thread that writes.
    """

    def __init__(
        self,
        storage: str,
        job_id: str,
        keep: int,
        tell: Callable[[CheckpointReport], None] | None = None,
    ) -> None:
        self._storage = storage
        self._folder = Folder.of_job(storage, job_id) / CHECKPOINTS
        self._keep = keep
        self._address = f"{storage.rstrip('/')}/{job_id}/{CHECKPOINTS}"
        self._report_to = tell
        self._known: dict[str, StoredCheckpoint | None] = {}
        self._shared, self._own = Snapshot(), Snapshot()
        self._saving: _Save | None = None
        self.saved_at: datetime | None = None
        """When the newest complete checkpoint that was saved here was taken; on rank 0 only."""

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wait()

    def of_job(self, job_id: str) -> Checkpoints:
        """The checkpoints of another job in the same storage."""
        return Checkpoints(self._storage, job_id, self._keep)

    def make_room(self, state: State) -> None:
        """Begin to get the memory for the copies of states like ``state``. Returns at once."""
        if rank() == 0:
            self._shared.make_room(state.shared)

    def save(self, state: State) -> None:
        """Begin a checkpoint of ``state`` as it is now. Every worker calls it.

        It returns when the state is copied: the training may then change it. The checkpoint before
        it is finished first.

        Raises:
            InfrastructureFailure: see ``finish``.
        """
        self.finish()
        shared = self._shared.take(state.shared) if rank() == 0 else {}
        saving = _Save(
            name=gather_objects(uuid.uuid4().hex)[0],
            folder=self._folder / name_of_checkpoint(state.step),
            state=State(state.step, shared, self._own.take(state.own), world_size()),
            taken_at=datetime.now(UTC),
            rank=rank(),
        )
        self._saving = saving
        threading.Thread(target=self._write, args=(saving,), name="checkpoint", daemon=True).start()

    def finish(self) -> None:
        """Wait until the checkpoint that was begun last is complete. Every worker calls it.

        Raises:
            InfrastructureFailure: on every worker, if any could not write its part. There is then
                no such checkpoint.
        """
        saving = self._saving
        if saving is None:
            return
        # First for all files, then for the manifest, which does not wait for a file in vain.
        for part in (saving.written, saving.ended):
            part.wait()
            problems = [each for each in gather_objects(saving.problem()) if each is not None]
            if problems:
                saving.abandoned.set()
                self._wait()
                self._saving = None
                raise InfrastructureFailure("; ".join(problems)) from saving.error
        self._saving = None

    def load(self) -> State | None:
        """Load the newest intact checkpoint, or return None if there is none.

        Every worker calls it, and all load the same checkpoint. Each file is read once by each
        worker that needs it.

        Raises:
            InfrastructureFailure: see ``finish``.
        """
        self.finish()
        first = rank() == 0
        names = self.names() if first else []
        if first:
            self._tell(names)
        for name in gather_objects(names[::-1])[0]:
            folder = self._folder / name
            manifest = gather_objects(_read_manifest(folder) if first else None)[0]
            if manifest is None:
                continue
            # With more workers than before, a worker without a file of its own loads the first's.
            own = _file_of(rank() if rank() < manifest.workers else 0)
            # With fewer, the files that nobody loads are shared out to be checked.
            others = range(rank() + world_size(), manifest.workers, world_size())
            contents = {file: _read(folder, file, manifest) for file in (SHARED, own)}
            damaged = [file for file, content in contents.items() if content is None]
            damaged += [
                file for file in map(_file_of, others) if _read(folder, file, manifest) is None
            ]
            everywhere = sorted({file for share in gather_objects(damaged) for file in share})
            if not everywhere:
                shared, mine = (_unpacked(contents[file]) for file in (SHARED, own))
                return State(manifest.step, shared, mine, manifest.workers)
            if first:
                _warn_of(folder, everywhere)
        return None

    def last_files(self) -> tuple[str, dict[str, bytes]] | None:
        """The name of the newest intact checkpoint and the content of its files."""
        self._wait()
        for name in self.names()[::-1]:
            folder = self._folder / name
            manifest = _read_manifest(folder)
            if manifest is None:
                continue
            files = {file: _read(folder, file, manifest) for file in manifest.files}
            intact = {file: content for file, content in files.items() if content is not None}
            if intact.keys() == files.keys():
                return name, intact | {MANIFEST: manifest.content}
            _warn_of(folder, sorted(files.keys() - intact.keys()))
        return None

    def names(self) -> list[str]:
        """The folders that hold a manifest, oldest first."""
        return [name for name in self._steps() if (self._folder / name).holds(MANIFEST)]

    def _steps(self) -> list[str]:
        return [name for name in self._folder.names() if CHECKPOINT_NAME.fullmatch(name)]

    def _wait(self) -> None:
        if self._saving is not None:
            self._saving.ended.wait()

    def _write(self, saving: _Save) -> None:
        """Write this worker's part of a checkpoint. Runs in a thread."""
        try:
            files = _write_files(saving)
            saving.written.set()
            if saving.rank == 0 and (others := _files_of_others(saving)) is not None:
                self._complete(saving, files | others)
        except Exception as error:  # whatever the storage's library raises
            saving.error = error
            # The training is told when it next saves, which may be long after.
            logger.warning("%s", saving.problem())
        finally:
            saving.written.set()
            saving.ended.set()

    def _complete(self, saving: _Save, files: dict[str, _Entry]) -> None:
        manifest = {
            "step": saving.state.step,
            "workers": saving.state.workers,
            "saved_at": saving.taken_at.isoformat(),
            "files": {name: entry._asdict() for name, entry in files.items()},
        }
        saving.folder.write(MANIFEST, json.dumps(manifest, indent=1).encode())
        self.saved_at = saving.taken_at
        logger.info("saved a checkpoint after step %d", saving.state.step)
        complete = self.names()
        kept = complete[-self._keep :]
        self._prune(complete, kept[0])
        written = _Manifest(saving.state.step, saving.state.workers, saving.taken_at, files, b"")
        # It may replace a damaged one of the same step.
        self._known[name_of_checkpoint(saving.state.step)] = written.told()
        self._tell(kept)

    def _prune(self, complete: list[str], oldest: str) -> None:
        """Remove what is older than the checkpoints to keep, and what is left of torn ones."""
        for name in self._steps():
            folder = self._folder / name
            if name >= oldest:
                return
            if name in complete:
                # The manifest goes first: what is removed only in part is not a checkpoint.
                folder.remove_file(MANIFEST)
            folder.remove()

    def _tell(self, names: list[str]) -> None:
        """Say which checkpoints there are. The manifest of each is read once.

        Nothing that goes wrong here is the training's.
        """
        if self._report_to is None:
            return
        newest = names[-MOST_TOLD:]
        try:
            self._known = {
                name: self._known[name] if name in self._known else self._told(name)
                for name in newest
            }
            told = tuple(each for each in self._known.values() if each is not None)
            report = CheckpointReport(folder=self._address, checkpoints=told, total=len(names))
            self._report_to(report)
        except Exception as error:  # whatever the storage's library raises
            logger.warning("the run is not told which checkpoints there are: %s", error)

    def _told(self, name: str) -> StoredCheckpoint | None:
        """What a checkpoint's manifest says; None if it cannot be read, or is not credible."""
        manifest = _read_manifest(self._folder / name)
        try:
            return manifest and manifest.told()
        except ValueError:
            return None


def _file_of(worker: int) -> str:
    return f"worker-{worker}.pt"


def _word_of(worker: int, save: str) -> str:
    """The file in which a worker says what it has written."""
    return f"worker-{worker}.{save}.json"


def _write_files(saving: _Save) -> dict[str, _Entry]:
    folder, name = saving.folder, _file_of(saving.rank)
    files = {name: _write_file(folder, name, saving.state.own)}
    if saving.rank == 0:
        files[SHARED] = _write_file(folder, SHARED, saving.state.shared)
    else:
        folder.write(_word_of(saving.rank, saving.name), json.dumps(files).encode())
    return files


def _write_file(folder: Folder, name: str, content: dict[str, Any]) -> _Entry:
    with folder.writer(name) as file:
        counted = _Counted(file)
        torch.save(content, counted)  # type: ignore[arg-type]
        if counted.error is not None:
            raise counted.error
    return _Entry(counted.size, counted.crc32)


def _files_of_others(saving: _Save) -> dict[str, _Entry] | None:
    """The files of the other workers, when all are in place; None if one will never be.

    Raises:
        TimeoutError: a worker has not written its file in time.
    """
    files: dict[str, _Entry] = {}
    missing = {_word_of(worker, saving.name): worker for worker in range(1, saving.state.workers)}
    latest = time.monotonic() + PATIENCE_SECONDS
    while missing:
        for name in missing.keys() & set(saving.folder.names()):
            written = json.loads(saving.folder.read(name))
            files |= {file: _Entry(*entry) for file, entry in written.items()}
            del missing[name]
        if missing and time.monotonic() > latest:
            late = ", ".join(map(str, missing.values()))
            raise TimeoutError(f"no file of worker {late} within {PATIENCE_SECONDS:.0f} s")
        if missing and saving.abandoned.wait(LOOK_SECONDS):
            return None
    return files


class _Counted:
    """Counts what ``torch.save`` writes into a file.

    ``torch.save`` hides an error of the file behind one of its own, so the first is kept.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.crc32 = 0
        self.error: Exception | None = None

    def write(self, data: memoryview) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except Exception as error:  # whatever the storage's library raises
                self.error = error
        self.crc32 = zlib.crc32(data, self.crc32)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing: the folder flushes the file."""


def _read_manifest(folder: Folder) -> _Manifest | None:
    """The manifest, or None if it is damaged."""
    try:
        content = folder.read(MANIFEST)
        manifest = json.loads(content)
        entries = {
            name: _Entry(manifest["files"][name]["bytes"], manifest["files"][name]["crc32"])
            for name in (SHARED, *map(_file_of, range(manifest["workers"])))
        }
        at = manifest.get("saved_at")
        saved_at = None if at is None else datetime.fromisoformat(at)
        return _Manifest(manifest["step"], manifest["workers"], saved_at, entries, content)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        _warn_of(folder, [MANIFEST])
        return None


def _read(folder: Folder, name: str, manifest: _Manifest) -> bytes | None:
    """The content of a file, or None if it is damaged."""
    try:
        content = folder.read(name)
    except FileNotFoundError:
        return None
    intact = manifest.files[name] == (len(content), zlib.crc32(content))
    return content if intact else None


def _warn_of(folder: Folder, damaged: list[str]) -> None:
    logger.warning("checkpoint %s is damaged (%s): an older one is used", folder, damaged)


def _unpacked(content: bytes | None) -> dict[str, Any]:
    assert content is not None
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
