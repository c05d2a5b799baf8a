"""The images that someone names on the command line, whatever they lie in."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vicreg_platform.data_root import holds_image, resolve_inside
from vicreg_platform.documents import load_yaml
from vicreg_platform.errors import PlatformError
from vicreg_platform.specs import Data, ImageFolderData
from vicreg_platform.specs.base import SpecModel, field_faults
from vicreg_platform.specs.image_files import any_image
from vicreg_workers.selfsup.data.images import Images, Locate
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.errors import InvalidInput

SPECS = (".yaml", ".yml", ".json")
TABLES = (".parquet", ".arrow")
TORCHVISION = "torchvision:"
SOURCE_HELP = (
    "a folder of images; a folder or pattern of .tar shards; a folder or file of .parquet or "
    ".arrow; an s3://, gs://, https:// or http:// pattern of shards; torchvision:CLASS:FOLDER; or "
    "a spec with a section `data`"
)


class _Spec(SpecModel):
    data: Data


def open_source(source: str, data_root: Path, workers: int) -> tuple[Data, Images]:
    """Guess what ``source`` is, and open its images.

    Links may lead anywhere, but for those of specs: whoever names a path here may read what it
    leads to.

    Args:
        source: see ``SOURCE_HELP``.
        data_root: where the paths of a spec start from.
        workers: processes that may list images.

    Raises:
        InvalidInput: nothing there can be taken for images.
        Unreachable: they lie in a store that does not answer.
    """
    data, locate = _guessed(source, data_root)
    return data, open_images(data, locate, loaders=workers)


def _guessed(source: str, data_root: Path) -> tuple[Data, Locate]:
    if "://" in source:
        return _checked({"source": "webdataset", "shards": source}), _locate(Path("/"))
    if source.startswith(TORCHVISION):
        name, _, folder = source.removeprefix(TORCHVISION).partition(":")
        data = _checked({"source": "torchvision", "dataset": name, "path": "."})
        return data, _locate(Path(folder))
    if source.endswith(SPECS):
        return _in_spec(Path(source)), partial(resolve_inside, data_root)
    path = Path(source).absolute()
    if path.is_dir():
        # Named from inside: the text of a spec is Unicode, and the names of folders need not be.
        return _checked(_in_folder(path)), _locate(path)
    if path.suffix == ".tar":
        return _checked({"source": "webdataset", "shards": path.name}), _locate(path.parent)
    if not path.exists():
        raise InvalidInput(f"{shown(source)} does not exist")
    if path.suffix in TABLES:
        return _checked({"source": "huggingface", "path": path.name}), _locate(path.parent)
    raise InvalidInput(f"{shown(source)} is not {SOURCE_HELP}")


def _in_folder(path: Path) -> dict[str, str]:
    suffixes = {os.path.splitext(name)[1] for name in os.listdir(path)}
    # An archive may lie beside the folders that were unpacked from it.
    if not holds_image(path, in_classes=True):
        if ".tar" in suffixes:
            return {"source": "webdataset", "shards": "."}
        if not suffixes.isdisjoint(TABLES):
            return {"source": "huggingface", "path": "."}
    if not any_image([str(path)]):
        raise InvalidInput(
            f"there are no images, .tar, .parquet or .arrow files in {shown(str(path))}: name the "
            "folder of one split, or torchvision:CLASS:FOLDER, such as torchvision:CIFAR10:data"
        )
    return {"source": "image_folder", "path": "."}


def _in_spec(file: Path) -> Data:
    """The section ``data`` of a spec. All its images are meant, not a share of them."""
    try:
        spec = load_yaml(file.read_bytes())
    except (OSError, PlatformError) as error:
        raise InvalidInput(f"{shown(str(file))} cannot be read: {error}") from None
    if not isinstance(spec, dict) or "data" not in spec:
        raise InvalidInput(f"{shown(str(file))} has no section `data`")
    data = _checked(spec["data"])
    whole = {"share": 1.0} | ({"names": None} if isinstance(data, ImageFolderData) else {})
    return data.model_copy(update=whole)


def _checked(section: Any) -> Data:
    fields = {"data": section}
    try:
        return _Spec.model_validate(fields).data
    except ValidationError as error:
        fault = field_faults(_Spec, fields, error)[0]
        raise InvalidInput(f"{fault.field}: {fault.message}") from None


def _locate(root: Path) -> Locate:
    def locate(relative: str) -> Path:
        # A link that leads nowhere is an image that cannot be read, not the end of the command.
        return Path(os.path.realpath(root / relative))

    return locate


def shown(name: str) -> str:
    """A file's name as text that can be printed and stored: it need not be Unicode."""
    return os.fsencode(name).decode(errors="backslashreplace")
