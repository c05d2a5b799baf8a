"""Images in Parquet or Arrow files, as Hugging Face's ``datasets`` stores them."""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from vicreg_platform.specs import HuggingFaceData
from vicreg_workers.selfsup.data.images import EncodedImages
from vicreg_workers.selfsup.data.layouts.shard_index import MAX_CLASSES
from vicreg_workers.selfsup.data.order import Groups
from vicreg_workers.selfsup.distributed import rank
from vicreg_workers.selfsup.errors import InvalidInput

logger = logging.getLogger(__name__)

DEFAULT_LABEL = "label"
LANES = 8
"""Row groups of Parquet files that are read side by side: a process holds them decoded."""
HELD = 2 * LANES
"""Row groups that a process holds."""
HELD_BYTES = 2**30
"""And their images' bytes, decoded: a worker has about one loader for each CPU, and machines for
training some 4 GiB of memory or more for each."""
STATE = "state.json"
"""What ``save_to_disk`` writes beside the files of a data set; it lists them."""
CACHED = "cache-"
"""How the names of files begin that ``datasets`` writes beside them: results of its ``map``."""
SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}(-[0-9a-f]{16})?")
"""How the Hub names a file of a split, before its suffix; once with a checksum at the end."""


class HuggingFace(EncodedImages):
    """Images in Parquet or Arrow files.

    Arrow files are mapped into memory, and read in any order. Of a Parquet file, a whole row group
    must be decoded for any of its images, so a few are read at a time: see ``order``.

    Args:
        spec: the columns.
        path: a file, or the folder of the files.

    Raises:
        InvalidInput: there are none, or those of several splits; one is damaged, or lacks a column.
    """

    def __init__(self, spec: HuggingFaceData, path: Path) -> None:
        super().__init__(spec.exif)
        self._column = spec.image_column
        try:
            files = _files(path)
            schemas, groups = zip(
                *(_opened(file, spec.image_column) for file in files), strict=True
            )
            label = spec.label_column
            if label is None and DEFAULT_LABEL in schemas[0].names:
                label = DEFAULT_LABEL
            for file, schema in zip(files, schemas, strict=True):
                _check(schema, file, spec.image_column, label)
            self._groups: list[_RowGroup | _Mapped] = [each for of in groups for each in of]
            self._ends = np.cumsum([group.rows for group in self._groups], dtype=np.int64)
            columns = [group.column(label) for group in self._groups] if label else []
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"data.path: {path} cannot be read: {error}") from None
        if not self._groups or not len(self):
            raise InvalidInput(f"data.path: there are no images in {path}")
        self._set_labels(label, columns, schemas[0])
        self._held: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        if files[0].suffix == ".parquet":
            sizes = [group.rows for group in self._groups]
            self.groups = Groups(sizes, LANES, max(sizes))
            self._warn_of_large_groups(path)

    def _set_labels(
        self, name: str | None, columns: list[pa.ChunkedArray], schema: pa.Schema
    ) -> None:
        labels = np.concatenate([_numbers(each) for each in columns]) if columns else None
        if labels is not None and labels.max() >= MAX_CLASSES:
            raise InvalidInput(
                f"data.label_column: {name} holds {labels.max()}, which is not the number of a "
                "class"
            )
        # The library writes -1 where a test set hides its labels.
        if labels is None or labels.min() < 0:
            self.classes: Sequence[str] = []
            self.labels: Sequence[int] = array("i", bytes(4 * len(self)))
            return
        self.labels = array("i", labels.astype(np.int32).tobytes())
        names = _class_names(schema, name)
        numbers = [str(number) for number in range(labels.max() + 1)]
        self.classes = names if len(names) >= len(numbers) else numbers

    def __len__(self) -> int:
        return int(self._ends[-1])

    def content(self, index: int) -> bytes:
        """See ``EncodedImages.content``."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        group = self._groups[number]
        try:
            value = self._images(number)[index - int(self._ends[number] - group.rows)].as_py()
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"{group.file} cannot be read: {error}") from None
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise OSError("it has no bytes: only its path is stored")
        return bytes(content)

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        group = self._groups[number]
        return f"{group.file}: row {index - int(self._ends[number]) + group.rows + group.first}"

    def _images(self, number: int) -> pa.ChunkedArray:
        if number not in self._held:
            group = self._groups[number]
            room = HELD_BYTES - group.decoded_bytes
            while self._held and (len(self._held) >= HELD or self._held_bytes() > room):
                self._held.popitem(last=False)
            self._held[number] = group.column(self._column)
        self._held.move_to_end(number)
        return self._held[number]

    def _held_bytes(self) -> int:
        return sum(self._groups[number].decoded_bytes for number in self._held)

    def _warn_of_large_groups(self, path: Path) -> None:
        largest = sorted(group.decoded_bytes for group in self._groups)[-LANES:]
        if sum(largest) > HELD_BYTES and rank() == 0:
            logger.warning(
                "data: %d row groups of %s are read side by side and take up to %.0f MB, of which "
                "a process holds %.0f MB: they will be decoded again and again; write the files "
                "with smaller row groups (row_group_size of pyarrow's write_table), or save them "
                "as Arrow files",
                len(largest),
                path,
                sum(largest) / 1e6,
                HELD_BYTES / 1e6,
            )


class _RowGroup:
    """Rows of a Parquet file that are stored together."""

    def __init__(self, file: Path, number: int, rows: int, first: int, decoded_bytes: int) -> None:
        self.file = file
        self._number = number
        self.rows = rows
        self.first = first
        """The number in the file of its first row."""
        self.decoded_bytes = decoded_bytes
        """Of its images."""

    def column(self, name: str) -> pa.ChunkedArray:
        with pa.parquet.ParquetFile(self.file) as file:
            return file.read_row_group(self._number, columns=[name]).column(0)


class _Mapped:
    """The rows of an Arrow file, mapped into memory."""

    first = 0
    decoded_bytes = 0  # the system takes back mapped memory when it needs it

    def __init__(self, file: Path, table: pa.Table) -> None:
        self.file = file
        self._table = table
        self.rows = len(table)

    def column(self, name: str) -> pa.ChunkedArray:
        return self._table.column(name)


def _files(path: Path) -> list[Path]:
    """The files of the one data set, or split of it, that lies in ``path``.

    Raises:
        InvalidInput: there are none, or those of several splits.
    """
    if path.is_file():
        return [path]
    saved = _saved(path)
    if saved:
        return saved
    for suffix in (".arrow", ".parquet"):
        found = sorted(
            file
            for file in path.iterdir()
            if file.suffix == suffix and not file.name.startswith(CACHED)
        )
        splits = sorted({match[1] for file in found if (match := SPLIT.fullmatch(file.stem))})
        if len(splits) > 1:
            raise InvalidInput(
                f"data.path: {path} holds the files of {len(splits)} splits ({', '.join(splits)}): "
                "move or link those of one into a folder of its own, and name that"
            )
        if found:
            return found
    raise InvalidInput(
        f"data.path: there are no .parquet or .arrow files in {path}: name the folder of one split"
    )


def _saved(path: Path) -> list[Path]:
    """The files that ``save_to_disk`` has listed; none if it has not written this folder.

    Another tool's file of this name may hold anything.
    """
    try:
        listed: Any = json.loads((path / STATE).read_bytes())["_data_files"]
        return [path / Path(each["filename"]).name for each in listed]
    except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
        return []


def _opened(file: Path, column: str) -> tuple[pa.Schema, list[_RowGroup] | list[_Mapped]]:
    """What columns a file has, and its rows; ``column`` is that of the images."""
    if file.suffix != ".parquet":
        source = pa.memory_map(str(file))
        try:
            table = pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            table = pa.ipc.open_file(source).read_all()
        return table.schema, [_Mapped(file, table)]
    with pa.parquet.ParquetFile(file) as opened:
        schema, metadata = opened.schema_arrow, opened.metadata
    groups, first = [], 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        size = _decoded_bytes(group, column)
        groups.append(_RowGroup(file, number, group.num_rows, first, size))
        first += group.num_rows
    return schema, groups


def _decoded_bytes(group: pa.parquet.RowGroupMetaData, column: str) -> int:
    """Of a column in a row group; a struct is stored as a column for each of its fields."""
    parts = (group.column(number) for number in range(group.num_columns))
    return sum(
        part.total_uncompressed_size
        for part in parts
        if part.path_in_schema == column or part.path_in_schema.startswith(f"{column}.")
    )


def _check(schema: pa.Schema, file: Path, image: str, label: str | None) -> None:
    """Check that a file has the columns of the images and of the labels.

    Raises:
        InvalidInput: one is missing, or holds something else.
    """
    for field, name in (("image_column", image), ("label_column", label)):
        if name is not None and name not in schema.names:
            raise InvalidInput(
                f"data.{field}: {file} has no column {name}: it has {', '.join(schema.names)}"
            )
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise InvalidInput(
            f"data.image_column: in {file}, {image} holds {kind}, not encoded images"
        )
    if label is not None and not pa.types.is_integer(schema.field(label).type):
        raise InvalidInput(
            f"data.label_column: in {file}, {label} holds {schema.field(label).type}, not the "
            "numbers of classes"
        )


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    numbers: np.ndarray = column.cast(pa.int64()).fill_null(-1).to_numpy()
    return numbers


def _class_names(schema: pa.Schema, column: str | None) -> list[str]:
    """The names of the classes, as far as the library has noted them in the schema."""
    try:
        noted: Any = json.loads((schema.metadata or {})[b"huggingface"])
        names = noted["info"]["features"][column]["names"]
        return [str(name) for name in names] if isinstance(names, list) else []
    except (KeyError, TypeError, ValueError):
        return []
