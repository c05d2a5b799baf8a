"""Where images come from: digits, files, shards, libraries, files with masks or boxes."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from vicreg_platform.specs.base import CrossFieldError, SpecModel

Interpolation = Literal["bicubic", "bilinear"]
Orientation = Literal["apply", "ignore"]
ImageSize = Annotated[int, Field(ge=8, le=1024)]


def _inside_root(path: str) -> str:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        raise ValueError("must be relative to the data root and cannot leave it")
    return path


RelativePath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00\n\r]+$"),
    AfterValidator(_inside_root),
]


URL_SCHEMES = ("s3", "gs", "https", "http")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def _shard_pattern(pattern: str) -> str:
    scheme, separator, _ = pattern.partition("://")
    if separator:
        if scheme not in URL_SCHEMES:
            allowed = ", ".join(f"{each}://" for each in URL_SCHEMES)
            raise ValueError(f"a URL must start with one of {allowed}")
    elif _URL.match(pattern):
        raise ValueError("must be relative to the data root, or a whole URL")
    else:
        _inside_root(pattern)
    expand_braces(pattern)
    return pattern


_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_SHARDS = 100_000


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern with ranges such as ``{000..127}`` stands for.

    Raises:
        ValueError: a range runs backwards, or the names are too many.
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    if int(last) < int(first):
        raise ValueError(f"the range {found.group()} runs backwards")
    if int(last) - int(first) >= MAX_SHARDS:
        raise ValueError(f"at most {MAX_SHARDS} shards may be named")
    before, rest = pattern[: found.start()], expand_braces(pattern[found.end() :])
    numbers = range(int(first), int(last) + 1)
    if len(numbers) * len(rest) > MAX_SHARDS:
        raise ValueError(f"at most {MAX_SHARDS} shards may be named")
    return [f"{before}{number:0{len(first)}d}{end}" for number in numbers for end in rest]


ShardPattern = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00\n\r]+$"),
    AfterValidator(_shard_pattern),
]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=255)]


Hold = Literal["auto", "never"] | Annotated[int, Field(ge=0, le=2**50)]


class _Share(SpecModel):
    share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the images of each class that is used, at least one of each class."""
    share_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the random choice of images."""


class _Images(_Share):
    hold: Hold = "auto"
    """Images of one size are decoded once and held in memory, by each worker, if they take no more
    bytes than this, and no more than half of the container's memory for all its workers.
    ``auto``: a quarter of a GPU's memory; on CPUs, 2 GiB. ``never``: they are read when needed."""


class DigitsData(_Images):
    """scikit-learn's handwritten digits: 1,797 real 8×8 images, shipped with the library."""

    source: Literal["digits"]
    split: Literal["train", "test"] = "train"
    """A fixed stratified split: four fifths for training, one fifth for testing."""
    image_size: ImageSize = 32
    """Side of the square image the network sees, in pixels."""

    def test_set(self) -> DigitsData:
        """The images held out from training."""
        return self.model_copy(update={"split": "test", "share": 1.0})


class _Encoded(_Images):
    exif: Orientation = "ignore"
    """Whether an image is turned upright as its camera noted in its EXIF block. ``ignore``, as
    torchvision does, leaves it as it is stored."""
    image_size: ImageSize = 224
    """Side of the square image the network sees, in pixels."""


class ImageFolderData(_Encoded):
    """A folder of images, in sub-folders or not."""

    source: Literal["image_folder"]
    path: RelativePath
    """Relative to the data root; it cannot leave it, symbolic links included."""
    classes: Literal["auto", "folders", "none"] = "auto"
    """``folders``: each sub-folder is a class, and images beside the sub-folders are left out;
    ``none``: every image below the folder is used, and none has a label; ``auto``: ``folders`` if
    a sub-folder holds an image, else ``none``."""
    names: RelativePath | None = None
    """A text file, relative to the data root, that lists the images to use, one name per line (or
    the end of its path, if several images share the name), such as the ``1percent.txt`` of
    google-research/simclr."""
    labels: RelativePath | None = None
    """A CSV file, relative to the data root, for images with several labels each: a header
    ``image,<class>,<class>,…``, then one line per image with its path under ``path`` and, for
    each class, 1, 0, or nothing if unknown. The folder then needs no sub-folders."""

    def test_set(self) -> ImageFolderData | None:
        """The folder ``test`` beside a folder ``train``; None if it cannot be guessed."""
        path = PurePosixPath(self.path)
        if path.name != "train" or self.labels is not None or self.classes == "none":
            return None
        test = str(path.with_name("test"))
        return self.model_copy(update={"path": test, "share": 1.0, "names": None, "labels": None})


class WebDatasetData(_Encoded):
    """Tar shards as of the ``webdataset`` library.

    The members of an image share the part of their names before the first dot: ``<key>.jpg``
    (``jpeg``, ``png``, ``webp``), and its class as a number in ``<key>.cls`` or in the field
    ``cls`` or ``label`` of ``<key>.json``.
    """

    source: Literal["webdataset"]
    shards: ShardPattern
    """A folder of ``.tar`` files, or their names with ranges such as ``train-{0000..1281}.tar``:
    relative to the data root, or a URL that starts with ``s3://``, ``gs://``, ``https://`` or
    ``http://``."""

    @property
    def remote(self) -> bool:
        """Whether the shards lie in an object store or on a web server."""
        return "://" in self.shards

    def test_set(self) -> None:
        """It cannot be guessed."""
        return


class HuggingFaceData(_Encoded):
    """A data set of Hugging Face on disk: Parquet files, or what ``save_to_disk`` wrote."""

    source: Literal["huggingface"]
    path: RelativePath
    """The folder of the files of one split, or one file; relative to the data root."""
    image_column: ColumnName = "image"
    """It holds encoded images, or structs with the field ``bytes``."""
    label_column: ColumnName | None = None
    """It holds the class as a number. Default: ``label``, if there is such a column."""

    def test_set(self) -> None:
        """It cannot be guessed."""
        return


class TorchvisionData(_Images):
    """A classification data set of torchvision that is on disk already; nothing is downloaded."""

    source: Literal["torchvision"]
    dataset: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9]{0,63}$")]
    """The class in ``torchvision.datasets``, such as ``CIFAR10``."""
    path: RelativePath
    """The folder passed to the class as ``root``, relative to the data root."""
    split: Literal["train", "test"] = "train"
    """The part of the data set."""
    image_size: ImageSize = 32
    """Side of the square image the network sees, in pixels."""

    def test_set(self) -> TorchvisionData:
        """The images held out from training."""
        return self.model_copy(update={"split": "test", "share": 1.0})


SplitName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
Layout = Literal["voc", "ade20k", "folders"]
LAYOUT_CLASSES = {"voc": 21, "ade20k": 150}
"""How many classes a layout has, if it says so itself."""


class SegmentationData(_Share):
    """Images with masks, which give each pixel a class. For ``protocol: segmentation`` only.

    A mask is a grayscale or palette image of its image's size, whose pixels are class numbers.
    """

    hold: ClassVar[Hold] = "never"
    source: Literal["segmentation_folder"]
    layout: Layout
    """``voc``: Pascal VOC's, ``JPEGImages/<name>.jpg``, ``SegmentationClass/<name>.png`` and
    ``ImageSets/Segmentation/<split>.txt``; 21 classes with the background, and 255 is ignored.
    ``ade20k``: that of ADEChallengeData2016, ``images/<split>/<name>.jpg`` and
    ``annotations/<split>/<name>.png``; its labels 1 to 150 are the classes 0 to 149, and 0 is
    ignored. ``folders``: ``images/<name>.<any>`` and ``masks/<name>.png``."""
    path: RelativePath
    """The folder that holds these folders, relative to the data root; it cannot leave it, symbolic
    links included."""
    split: SplitName | None = None
    """The part of the data set, for ``voc`` (``train``, ``val`` or any list there is, such as
    ``trainaug``) and ``ade20k`` (``training`` or ``validation``), which need it."""
    num_classes: int | None = Field(default=None, ge=2, le=65_535)
    """For ``folders``: labels are below it. Default: the highest label of the training masks,
    and one."""
    ignore_index: int = Field(default=255, ge=0, le=65_535)
    """For ``folders``: the label of pixels that are ignored, both in training and in the
    metrics."""
    image_size: ImageSize = 512
    """Side of the square image the network sees, in pixels."""

    def test_set(self) -> None:
        """It cannot be guessed."""
        return

    @model_validator(mode="after")
    def _of_its_layout(self) -> SegmentationData:
        if self.layout == "folders":
            if self.split is not None:
                raise CrossFieldError(
                    [(("split", "layout"), "layout folders has no splits: name a path for each")]
                )
            return self
        faults: list[tuple[tuple[str, ...], str]] = []
        if self.split is None:
            faults.append((("split", "layout"), f"layout {self.layout} needs it"))
        elif self.layout == "ade20k" and self.split not in ("training", "validation"):
            faults.append((("split", "layout"), "must be training or validation for ade20k"))
        faults += [
            ((field, "layout"), f"layout {self.layout} has its own")
            for field in ("num_classes", "ignore_index")
            if getattr(self, field) != type(self).model_fields[field].default
        ]
        if faults:
            raise CrossFieldError(faults)
        return self


class DetectionData(_Share):
    """Images with objects, each with a box and a class. For ``protocol: detection`` only."""

    hold: ClassVar[Hold] = "never"
    source: Literal["detection_folder"]
    layout: Literal["voc", "coco"]
    """``voc``: Pascal VOC's, ``JPEGImages/<name>.jpg``, ``Annotations/<name>.xml`` and
    ``ImageSets/Main/<split>.txt``. ``coco``: a folder of images and a file of annotations."""
    path: RelativePath
    """``voc``: the folder that holds these folders; ``coco``: that of the images. Relative to the
    data root; it cannot leave it, symbolic links included."""
    more_paths: Annotated[tuple[RelativePath, ...], Field(max_length=16)] = ()
    """For ``voc``: other such folders, whose images are added, such as that of VOC2012 to that of
    VOC2007."""
    split: SplitName | None = None
    """For ``voc``, which needs it: ``train``, ``val``, ``trainval``, ``test`` or any list there
    is, in each of the folders."""
    annotations: RelativePath | None = None
    """For ``coco``, which needs it: the JSON file, such as
    ``coco/annotations/instances_train2017.json``, relative to the data root."""
    image_size: ImageSize = 800
    """An image is resized so that its shorter side has so many pixels, and its longer one no more
    than 5/3 of them."""

    def test_set(self) -> None:
        """It cannot be guessed."""
        return

    @model_validator(mode="after")
    def _of_its_layout(self) -> DetectionData:
        needed, others = {
            "voc": ("split", ("annotations",)),
            "coco": ("annotations", ("split", "more_paths")),
        }[self.layout]
        faults: list[tuple[tuple[str, ...], str]] = [
            ((field, "layout"), f"layout {self.layout} has none")
            for field in others
            if getattr(self, field)
        ]
        if getattr(self, needed) is None:
            faults.append(((needed, "layout"), f"layout {self.layout} needs it"))
        if faults:
            raise CrossFieldError(faults)
        return self


Data = Annotated[
    DigitsData
    | ImageFolderData
    | WebDatasetData
    | HuggingFaceData
    | TorchvisionData
    | SegmentationData
    | DetectionData,
    Field(discriminator="source"),
]


class EvaluationData(SpecModel):
    """The labelled images of an evaluation."""

    train: Data
    test: Data
    interpolation: Interpolation = "bicubic"
    """How images are resized: ``bicubic``, as for training, or ``bilinear``, as in the authors'
    ``evaluate.py``."""
