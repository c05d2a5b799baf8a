"""Small sets of images in every layout."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from vicreg_workers.data.source import open_source
from vicreg_workers.selfsup.data.images import EncodedImages, Images


def encoded(seed: int, size: tuple[int, int] = (24, 18), kind: str = "JPEG") -> bytes:
    """An encoded image of this width and height, of noise that ``seed`` draws."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def folder_of(root: Path, classes: dict[str, int]) -> Path:
    """A folder with so many images of each class; a name's lone surrogates are bytes."""
    seed = 0
    for name, count in classes.items():
        folder = os.path.join(root, name)
        os.makedirs(folder)
        for number in range(count):
            Path(folder, f"photo.{number}.jpg").write_bytes(encoded(seed))
            seed += 1
    return root


def shards_of(root: Path, contents: list[bytes], labels: list[int]) -> Path:
    """A folder with one tar shard."""
    root.mkdir()
    with tarfile.open(root / "train-0.tar", "w") as tar:
        for number, (content, label) in enumerate(zip(contents, labels, strict=True)):
            for name, data in ((f"{number}.jpg", content), (f"{number}.cls", b"%d" % label)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return root


def parquet_of(root: Path, contents: list[bytes], labels: list[int]) -> Path:
    """A folder with one Parquet file of small row groups."""
    root.mkdir()
    images = [{"bytes": content, "path": None} for content in contents]
    table = pa.table({"image": images, "label": labels})
    pa.parquet.write_table(table, root / "train.parquet", row_group_size=4)
    return root


def opened(source: Path | str) -> Images:
    """The images that a user names."""
    return open_source(str(source), Path(), workers=0)[1]


def contents_by_class(images: Images) -> list[tuple[str, bytes]]:
    """The class and the encoded bytes of every image, in no order of the source's."""
    assert isinstance(images, EncodedImages)
    classes = images.classes or [""]
    return sorted((classes[images.labels[i]], images.content(i)) for i in range(len(images)))
