"""Files in an object store, read through a bounded cache on this machine's disk."""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, cast
from weakref import WeakSet

import fsspec
import fsspec.asyn

from vicreg_platform.specs.data import expand_braces
from vicreg_workers.selfsup.data.layouts.shard_index import Shard
from vicreg_workers.selfsup.errors import InvalidInput, Unreachable

logger = logging.getLogger(__name__)

BLOCK = 8 * 2**20
"""In bytes: what is read at once. Some 80 photographs of ImageNet."""
PATIENCE = 600.0
"""Seconds for which a store that does not answer is asked again."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds between two tries; doubled after each."""
ANSWER = 60
"""Seconds that the store may take to connect, and between two parts of an answer."""
DOWNLOADS = 8
"""Blocks that are fetched at a time ahead of need."""
FREE_SHARE = 0.5
"""Of the disk's free space: the bound of the cache unless ``VICREG_CACHE_BYTES`` says another."""
FULL_SECONDS = 60.0
"""How long nothing is written after the disk was full."""
LEFT_SECONDS = 3600.0
"""Age of a half-written block whose writer must have ended."""
COUNTED_AGAIN = 16
"""The blocks are counted again when a process has written this part of the room that was left."""
NO_SUCH = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
"""Answers that asking again does not change."""
REFUSED = (400, 401, 403, 404, 405, 410, 416)
"""The same of web servers."""


WEB = ("https", "http")


class RemoteFiles:
    """Shards in an object store.

    Args:
        pattern: a URL, with ranges or of a folder.

    Raises:
        InvalidInput: there are none.
        Unreachable: the store does not answer.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._scheme = pattern.partition("://")[0]
        self._cache = BlockCache()
        self._filesystem: Any = None
        self._process = 0
        self._wanted: SimpleQueue[tuple[Shard, int]] | None = None
        self._queued: set[tuple[Shard, int]] = set()
        """Blocks in ``_wanted``, or being fetched from it."""
        self.shards = self._patiently(lambda: self._found(expand_braces(pattern)))

    def open(self, shard: Shard) -> BinaryIO:
        """Open a shard to read from its beginning, through the cache."""
        return cast("BinaryIO", io.BufferedReader(_Opened(self, shard)))

    def beside(self, name: str) -> bytes | None:
        """The content of a file beside the shards, if there is one."""
        url = f"{self.shards[0].name.rpartition('/')[0]}/{name}"
        try:
            content: bytes = self._patiently(lambda: self._store().cat_file(url))
        except InvalidInput:
            return None
        return content

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """Bytes of a shard, from the cache or from the store.

        Raises:
            OSError: the shard is gone or has been replaced.
            Unreachable: the store does not answer for ten minutes.
        """
        parts = []
        for number in range(offset // BLOCK, (offset + size - 1) // BLOCK + 1):
            start = number * BLOCK
            part = slice(max(0, offset - start), min(BLOCK, offset + size - start))
            held = self._cache.read(*_key(shard, number), part)
            if held is None and self._cache.writes():
                held = self._fetched(shard, number)[part]
            if held is None:
                # A whole block would be thrown away.
                held = self._asked(shard, start + part.start, start + part.stop)
            parts.append(held)
        return b"".join(parts)

    def will_read(self, places: Sequence[tuple[Shard, int, int]]) -> None:
        """Fetch the blocks of these places into the cache, by threads of their own."""
        if not self._cache.writes():
            return
        if self._wanted is None:
            self._wanted = SimpleQueue()
            for _ in range(DOWNLOADS):
                # Daemons: a process that ends does not wait for a store that hangs.
                threading.Thread(target=self._fetch, args=(self._wanted,), daemon=True).start()
        blocks = {
            (shard, number)
            for shard, offset, size in places
            for number in range(offset // BLOCK, (offset + size - 1) // BLOCK + 1)
        }
        for shard, number in blocks - self._queued:
            if not self._cache.holds(*_key(shard, number)):
                self._queued.add((shard, number))
                self._wanted.put((shard, number))

    def _fetch(self, wanted: SimpleQueue[tuple[Shard, int]]) -> None:
        while True:
            shard, number = wanted.get()
            # Whoever needs the block meets the same error, and says so.
            with suppress(OSError, Unreachable):
                if not self._cache.holds(*_key(shard, number)):
                    self._fetched(shard, number)
            self._queued.discard((shard, number))

    def _fetched(self, shard: Shard, number: int) -> bytes:
        """A block, fetched unless another thread or process has done so meanwhile."""
        folder, name = _key(shard, number)
        start = number * BLOCK
        stop = min(start + BLOCK, shard.size)
        # From here: who waits for another's fetch does not begin to count when it has failed.
        until = time.monotonic() + PATIENCE
        with self._cache.locked(folder, name):
            held = self._cache.read(folder, name, slice(0, stop - start))
            if held is not None:
                return held
            content = self._asked(shard, start, stop, until)
            self._cache.write(folder, name, content)
        return content

    def _asked(self, shard: Shard, start: int, stop: int, until: float | None = None) -> bytes:
        """These bytes of a shard, from the store."""
        try:
            content: bytes = self._patiently(
                lambda: self._unchanged(shard).cat_file(shard.name, start=start, end=stop), until
            )
        except InvalidInput as error:
            raise OSError(str(error)) from None
        if len(content) != stop - start:
            raise OSError(f"{shard.name} has been cut off since the training began")
        return content

    def _unchanged(self, shard: Shard) -> Any:
        """The store, if it still holds the shard as it was listed: asked before each block."""
        store = self._store()
        store.invalidate_cache()
        if _shard(store.info(shard.name), shard.name) != shard:
            raise InvalidInput(f"{shard.name} has been replaced since the training began")
        return store

    def _found(self, urls: list[str]) -> list[Shard]:
        store = self._store()
        details: dict[str, dict[str, Any]] = {}
        if len(urls) == 1 and not urls[0].endswith(".tar"):
            listed = store.ls(urls[0], detail=True)
            details = {store.unstrip_protocol(each["name"]): each for each in listed}
            urls = sorted(url for url in details if url.endswith(".tar"))
            if not urls:
                raise InvalidInput(f"data.shards: there are no .tar files in {self._pattern}")
        if self._scheme in WEB:
            # The page of a folder has names alone.
            details = {}
            self._refuse_whole_files(urls[0])
        unknown = [url for url in urls if url not in details]
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            details |= zip(unknown, pool.map(store.info, unknown), strict=True)
        return [_shard(details[url], url) for url in urls]

    def _refuse_whole_files(self, url: str) -> None:
        """Check that a web server sends a part of a file if it is asked for that.

        What it sends is not read: it may be the whole shard.

        Raises:
            InvalidInput: it does not.
        """
        store = self._store()

        async def status() -> int:
            session = await store.set_session()
            async with session.get(store.encode_url(url), headers={"Range": "bytes=0-0"}) as answer:
                answer.raise_for_status()
                return int(answer.status)

        if fsspec.asyn.sync(store.loop, status) != HTTPStatus.PARTIAL_CONTENT:
            raise InvalidInput(
                f"data.shards: the server of {url} sends whole files when it is asked for a part "
                "(HTTP ranges): use one that sends parts, such as nginx, or copy the shards"
            )

    def _store(self) -> Any:
        """The file system of this process: what fsspec has opened does not outlive a fork."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._filesystem = fsspec.filesystem(self._scheme, **_options(self._scheme))
        return self._filesystem

    def _patiently(self, ask: Callable[[], Any], until: float | None = None) -> Any:
        """What ``ask`` returns, asked again while the store does not answer.

        Raises:
            InvalidInput: the store says that there is no such thing, or that it may not be read.
            Unreachable: it has not answered for ten minutes.
        """
        wait = FIRST_WAIT
        until = time.monotonic() + PATIENCE if until is None else until
        while True:
            try:
                return ask()
            except InvalidInput:
                raise
            except Exception as error:  # each store has errors of its own
                cause: BaseException = error
                if self._scheme in WEB and isinstance(error, FileNotFoundError):
                    # fsspec says so whatever the server has answered, and if it has not.
                    cause = error.__cause__ or error
                if _refuses(cause):
                    raise InvalidInput(
                        f"data.shards: it cannot be read from the store: {cause}"
                    ) from None
                if time.monotonic() + wait > until:
                    raise Unreachable(
                        f"data.shards: the store does not answer ({type(cause).__name__}: {cause})"
                    ) from None
                logger.warning("the store does not answer, asked again in %.0f s: %s", wait, cause)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


class _Opened(io.RawIOBase):
    """A shard as a file, which is read through the cache."""

    def __init__(self, files: RemoteFiles, shard: Shard) -> None:
        self._files = files
        self._shard = shard
        self._place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See ``io.IOBase``."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._shard.size}[whence]
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        """See ``io.IOBase``."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """See ``io.RawIOBase``."""
        size = max(0, min(len(buffer), self._shard.size - self._place))
        if size:
            buffer[:size] = self._files.read(self._shard, self._place, size)
        self._place += size
        return size


class BlockCache:
    """Blocks of files on this machine's disk, shared by all processes that read there.

    ``VICREG_CACHE`` names its folder, and ``VICREG_CACHE_BYTES`` its size; the blocks that were
    not used for longest are removed.

    Raises:
        InvalidInput: ``VICREG_CACHE_BYTES`` is not a number of bytes.
    """

    def __init__(self) -> None:
        default = Path(tempfile.gettempdir()) / f"vicreg-cache-{os.getuid()}"
        self._folder = Path(os.environ.get("VICREG_CACHE") or default)
        limit = os.environ.get("VICREG_CACHE_BYTES", "")
        if limit and not limit.isdecimal():
            raise InvalidInput(f"VICREG_CACHE_BYTES is '{limit}': it must be a number of bytes")
        self._limit = int(limit) if limit else None
        self._ours = self._is_ours()
        self._full_until = 0.0
        self._warned = False
        self._lock = threading.Lock()
        self._room = 0
        """Bytes that may be written before the blocks are counted again."""
        _CACHES.add(self)

    def renew_lock(self) -> None:
        """In a fork: a thread of its parent may have had the lock, and will never free it here."""
        self._lock = threading.Lock()

    def _is_ours(self) -> bool:
        """Whether nobody else can write into the folder: they could put other images into it."""
        self._warned = False
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = self._folder.stat()
        except OSError as error:
            self._warn(error)
            return False
        ours = status.st_uid == os.getuid() and not status.st_mode & 0o022
        if not ours:
            self._warn("others may write into it")
        return ours

    def _warn(self, reason: object) -> None:
        if not self._warned:
            logger.warning(
                "the cache %s is not used (%s): images are read from the store each time; give it "
                "room, or name another folder in VICREG_CACHE",
                self._folder,
                reason,
            )
        self._warned = True

    def writes(self) -> bool:
        """Whether blocks are kept: the folder is ours, and its disk was not full just now."""
        return self._ours and time.monotonic() >= self._full_until

    def holds(self, folder: str, name: str) -> bool:
        """Whether a block is there."""
        return self._ours and (self._folder / folder / name).exists()

    def read(self, folder: str, name: str, part: slice) -> bytes | None:
        """A part of a block, if the block is there. One that was cut off by a crash is not."""
        if not self._ours:
            return None
        try:
            with open(self._folder / folder / name, "rb") as file:
                content = os.pread(file.fileno(), part.stop - part.start, part.start)
                os.utime(file.fileno())
        except OSError:
            return None
        return content if len(content) == part.stop - part.start else None

    def write(self, folder: str, name: str, content: bytes) -> None:
        """Keep a block, if the disk has room."""
        if not self.writes():
            return
        path = self._folder / folder / name
        part = path.with_name(f"{name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            self._make_room(len(content))
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            self._full_until = time.monotonic() + FULL_SECONDS
            self._warn(error)

    @contextmanager
    def locked(self, folder: str, name: str) -> Iterator[None]:
        """While in it, no other process or thread fetches the block."""
        if not self.writes():
            yield
            return
        lock = self._folder / "locks" / hashlib.sha256(f"{folder}/{name}".encode()).hexdigest()[:3]
        try:
            lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            # Without a lock, two may fetch the same block.
            yield
            return
        _LOCKS.add(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # Closing alone would not give it up while a fork of this process has it too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            _LOCKS.discard(descriptor)
            os.close(descriptor)

    def _make_room(self, size: int) -> None:
        """Remove what was not used for longest until ``size`` bytes more are within the bound."""
        with self._lock:
            self._room -= size
            if self._room >= 0:
                return
            blocks = []
            for block in self._folder.glob("*/*.block*"):
                with suppress(OSError):  # another process has removed it
                    status = block.stat()
                    if block.suffix == ".block":
                        blocks.append((status.st_mtime, status.st_size, block))
                    elif time.time() - status.st_mtime > LEFT_SECONDS:
                        block.unlink()  # of a process that was killed
            used = sum(each[1] for each in blocks)
            limit = self._limit
            if limit is None:
                limit = int((shutil.disk_usage(self._folder).free + used) * FREE_SHARE)
            for _, taken, block in sorted(blocks):
                if used + size <= limit:
                    break
                with suppress(OSError):
                    block.unlink()
                used -= taken
            # Other processes write too: this one counts again long before they could fill it.
            self._room = (limit - used - size) // COUNTED_AGAIN


_LOCKS: set[int] = set()
"""Descriptors of locks that this process has."""
_CACHES: WeakSet[BlockCache] = WeakSet()
"""All that there are in this process."""


def _free_locks() -> None:
    """In a fork: give up its share of the locks that threads of its parent have."""
    for descriptor in _LOCKS:
        os.close(descriptor)
    _LOCKS.clear()
    for cache in _CACHES:
        cache.renew_lock()


os.register_at_fork(after_in_child=_free_locks)


def _refuses(error: BaseException) -> bool:
    """Whether asking again would not change an answer."""
    if getattr(error, "certificate_error", None) is not None:
        return True
    return isinstance(error, NO_SUCH) or getattr(error, "status", None) in REFUSED


def _key(shard: Shard, number: int) -> tuple[str, str]:
    """Where a block lies in the cache. A shard that is replaced has other blocks."""
    identity = f"{shard.name}\n{shard.size}\n{shard.changed}"
    return hashlib.sha256(identity.encode()).hexdigest()[:32], f"{number:06d}.block"


def _shard(details: dict[str, Any], url: str) -> Shard:
    changed = next(
        (
            str(details[key])
            for key in ("ETag", "etag", "LastModified", "Last-Modified", "mtime")
            if details.get(key)
        ),
        "",
    )
    size = details.get("size")
    if size is None:
        raise InvalidInput(f"data.shards: {url} has no known size: the server must tell it")
    return Shard(url, int(size), changed)


def _options(scheme: str) -> dict[str, Any]:
    """What bounds the waiting, in each file system's own words."""
    if scheme == "s3":
        return {"config_kwargs": {"connect_timeout": ANSWER, "read_timeout": ANSWER}}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=ANSWER, sock_read=ANSWER)
    if scheme == "gs":
        # Left out, it is None, which aiohttp takes for no bound at all.
        return {"requests_timeout": timeout}
    return {"client_kwargs": {"timeout": timeout}}
