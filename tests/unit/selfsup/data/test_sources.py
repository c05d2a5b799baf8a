"""Images are opened as the spec says, and unreadable ones do not stop a run."""

import os
import shutil
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from tests.unit.selfsup.data.test_shared_memory import Usage
from tests.unit.selfsup.processes import Gloo
from vicreg_platform.data_root import resolve_inside
from vicreg_platform.specs import Augmentation, DigitsData, ImageFolderData, TorchvisionData
from vicreg_platform.specs.data import Hold
from vicreg_workers.selfsup.data import crops, memory
from vicreg_workers.selfsup.data.crops import _hold, open_crops
from vicreg_workers.selfsup.data.decoding import Picture
from vicreg_workers.selfsup.data.evaluation_batches import plain_batches
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.data.training_batches import ViewBatches
from vicreg_workers.selfsup.data.transforms import PlainView, normalised
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.imagenet import IMAGENET_MEAN, IMAGENET_STD


def under(root: Path) -> Callable[[str], Path]:
    """Finds paths as a worker does, with ``root`` as the data root."""
    return partial(resolve_inside, root)


def make_folder(root: Path, classes: int = 2, images: int = 4, size: int = 12) -> Path:
    generator = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class-{label}"
        folder.mkdir(parents=True)
        for index in range(images):
            pixels = generator.integers(0, 255, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def folder_spec(path: str) -> ImageFolderData:
    return ImageFolderData(source="image_folder", path=path, image_size=16)


def test_the_split_of_digits_is_fixed() -> None:
    train = open_images(DigitsData(source="digits"), under(Path()))
    test = open_images(DigitsData(source="digits", split="test"), under(Path()))
    assert (len(train), len(test)) == (1437, 360)
    assert {train.name(i) for i in range(1437)}.isdisjoint(test.name(i) for i in range(360))
    assert train.read(0).size == (8, 8)
    counts = np.bincount(test.labels)
    assert counts.min() >= 34
    assert np.asarray(train.read(3)).max() == 255


def test_a_folder_gives_its_classes_in_order(tmp_path: Path) -> None:
    make_folder(tmp_path / "set")
    images = open_images(folder_spec("set"), under(tmp_path))
    assert list(images.labels) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert images.name(4).endswith("class-1/0.png")
    assert images.read(4).mode == "RGB"


@pytest.mark.parametrize(
    ("path", "message"), [("nowhere", "does not exist"), ("empty", "no images"), ("file", "folder")]
)
def test_a_folder_without_images_is_refused(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty" / "class").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=message):
        open_images(folder_spec(path), under(tmp_path))


def test_a_link_cannot_lead_out_of_the_data_root(tmp_path: Path) -> None:
    make_folder(tmp_path / "outside")
    root = tmp_path / "root"
    root.mkdir()
    os.symlink(tmp_path / "outside", root / "link")
    with pytest.raises(InvalidInput, match="outside the data root"):
        open_images(folder_spec("link"), under(root))


@pytest.mark.parametrize("image", ["../other.png", "link.png"])
def test_a_labelled_image_cannot_lie_outside_its_folder(tmp_path: Path, image: str) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    os.symlink(tmp_path / "other.png", tmp_path / "images" / "link.png")
    (tmp_path / "labels.csv").write_text(f"image,red\n{image},1\n")
    spec = folder_spec("images").model_copy(update={"labels": "labels.csv"})
    with pytest.raises(InvalidInput, match="outside the folder"):
        open_images(spec, under(tmp_path))


def test_a_labelled_image_may_be_named_by_its_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    (tmp_path / "labels.csv").write_text(f"image,red\na.png,1\n{tmp_path}/images/b.png,0\n")
    spec = folder_spec("images").model_copy(update={"labels": "labels.csv"})
    assert len(open_images(spec, under(tmp_path))) == 2


def test_torchvision_sets_are_read_from_disk(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    spec = TorchvisionData(source="torchvision", dataset="CIFAR10", path="sets")
    with pytest.raises(InvalidInput, match="CIFAR10 is not in"):
        open_images(spec, under(tmp_path))
    with pytest.raises(InvalidInput, match=r"torchvision\.datasets has no Cifar"):
        open_images(spec.model_copy(update={"dataset": "Cifar"}), under(tmp_path))
    # CIFAR's files are checked by their hash; MNIST's are not, so a small one can be made.
    raw = tmp_path / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, shape in (
        ("train-images-idx3-ubyte", (3, 28, 28)),
        ("train-labels-idx1-ubyte", (3,)),
    ):
        header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        (raw / name).write_bytes(header + bytes(int(np.prod(shape))))
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (raw / name).write_bytes(b"")
    mnist = TorchvisionData(source="torchvision", dataset="MNIST", path="mnist")
    images = open_images(mnist, under(tmp_path))
    assert len(images) == 3
    assert images.read(0).size == (28, 28)


SPEC = Augmentation.model_validate({"preset": "cifar"})


def batches_of(
    images: Images, size: int = 4, seed: int = 0, loaders: int = 0, drop_last: bool = True
) -> ViewBatches:
    return ViewBatches(
        images,
        SPEC,
        views=2,
        image_size=16,
        batch_size=size,
        seed=seed,
        epochs=1000,
        device=torch.device("cpu"),
        loaders=loaders,
        drop_last=drop_last,
    )


@pytest.fixture(params=["of one size", "of two sizes"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Images of one size are held in memory; others are read when needed."""
    root = make_folder(tmp_path / "set")
    if request.param == "of two sizes":
        Image.new("RGB", (20, 14)).save(root / "class-1" / "3.png")
    return tmp_path


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_corrupt_image_is_replaced_by_the_next_and_reported(folder: Path, loaders: int) -> None:
    (folder / "set/class-0/1.png").write_bytes(b"\x89PNG no image")
    (folder / "set/class-0/2.png").write_bytes((folder / "set/class-0/3.png").read_bytes()[:60])
    images = open_images(folder_spec("set"), under(folder))
    (batch,) = batches_of(images, 8, loaders=loaders).epoch(0)
    assert sorted(set(batch.skipped)) == [1, 2]
    assert sorted(batch.indices) == [0, 3, 3, 3, 4, 5, 6, 7]
    assert [view.shape for view in batch.views] == [(8, 3, 16, 16)] * 2


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_set_of_unreadable_images_is_refused(tmp_path: Path, loaders: int) -> None:
    root = make_folder(tmp_path / "set", classes=1, images=3)
    for file in (root / "class-0").iterdir():
        file.write_bytes(b"nothing")
    images = open_images(folder_spec("set"), under(tmp_path))
    with pytest.raises(InvalidInput, match=r"^data: 3 images in a row cannot be read"):
        next(batches_of(images, 2, loaders=loaders).epoch(0))


def test_an_evaluation_leaves_corrupt_images_out(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set")
    (root / "class-1" / "0.png").write_bytes(b"nothing")
    images = open_images(folder_spec("set"), under(tmp_path))
    passed = torch.cat([some for _, some, _ in plain_batches(images, PlainView(16), 3, loaders=0)])
    assert passed.tolist() == [0, 1, 2, 3, 5, 6, 7]
    left_out = [i for _, _, some in plain_batches(images, PlainView(16), 3, 0) for i in some]
    assert left_out == [4]


def test_images_go_to_the_encoder_as_bytes(tmp_path: Path) -> None:
    """A quarter of what float32 takes in shared memory."""
    make_folder(tmp_path / "set")
    images = open_images(folder_spec("set"), under(tmp_path))
    ((views, _, _),) = plain_batches(images, PlainView(16), 8, loaders=1)
    assert (views.dtype, views.shape) == (torch.uint8, (8, 3, 16, 16))
    plain = transforms.Compose(
        [
            transforms.Resize((16, 16), InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    wanted = torch.stack([plain(images.read(index)) for index in range(8)])
    torch.testing.assert_close(normalised(views, torch.device("cpu")), wanted)


def test_loaders_live_from_epoch_to_epoch(tmp_path: Path) -> None:
    make_folder(tmp_path / "set")
    Image.new("RGB", (20, 14)).save(tmp_path / "set" / "class-1" / "3.png")
    batches = batches_of(open_images(folder_spec("set"), under(tmp_path)), 2, loaders=2)
    alone = batches_of(open_images(folder_spec("set"), under(tmp_path)), 2)

    def children() -> set[psutil.Process]:
        return set(psutil.Process().children())

    before = children()
    next(batches.epoch(0))  # an epoch that is given up leaves nothing to the next
    loaders = children() - before
    assert len(loaders) == 2
    for epoch in (1, 2):
        for made, wanted in zip(batches.epoch(epoch), alone.epoch(epoch), strict=True):
            assert made.indices == wanted.indices
            assert torch.equal(made.views[0], wanted.views[0])
        assert children() - before == loaders
    del batches, made
    assert psutil.wait_procs(loaders, timeout=20)[1] == []


def test_batches_are_reshuffled_each_epoch_and_repeat_for_a_seed(folder: Path) -> None:
    images = open_images(folder_spec("set"), under(folder))

    def first_views(seed: int, epoch: int) -> torch.Tensor:
        return next(batches_of(images, seed=seed).epoch(epoch)).views[0]

    assert torch.equal(first_views(0, 1), first_views(0, 1))
    assert not torch.equal(first_views(0, 1), first_views(0, 2))
    assert not torch.equal(first_views(0, 1), first_views(1, 1))


def test_an_epoch_resumes_at_any_step_with_the_same_views(folder: Path) -> None:
    batches = batches_of(open_images(folder_spec("set"), under(folder)), 2)
    whole, rest = list(batches.epoch(3)), list(batches.epoch(3, start=2))
    assert sorted(index for batch in whole for index in batch.indices) == list(range(8))
    for expected, batch in zip(whole[2:], rest, strict=True):
        assert batch.indices == expected.indices
        assert all(torch.equal(a, b) for a, b in zip(batch.views, expected.views, strict=True))


def test_the_two_views_of_an_image_differ(folder: Path) -> None:
    batch = next(batches_of(open_images(folder_spec("set"), under(folder))).epoch(0))
    assert not torch.equal(*batch.views)


def views_of_rank(root: Path) -> list[torch.Tensor]:
    batch = next(batches_of(open_images(folder_spec("set"), under(root)), 8).epoch(1))
    return list(batch.views)


def test_the_views_do_not_depend_on_the_number_of_processes(
    folder: Path, two_processes: Gloo
) -> None:
    alone = views_of_rank(folder)
    first, second = two_processes.run(views_of_rank, folder)
    for view in range(2):
        assert torch.equal(torch.cat([first[view], second[view]]), alone[view])


def test_fewer_images_than_a_batch_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "set")
    images = open_images(folder_spec("set"), under(tmp_path))
    with pytest.raises(InvalidInput, match="8 images are fewer than"):
        batches_of(images, 9)


def test_16_bits_a_pixel_are_scaled_to_8(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 30000, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "16.png")
    pixels = np.asarray(Picture((tmp_path / "16.png").read_bytes()).rgb())
    assert pixels[0, :, 0].tolist() == [0, 3, 117, 255]


@pytest.mark.parametrize(("kind", "text"), [("int32", "32 bits"), ("float32", "floating-point")])
def test_pixels_of_an_unknown_range_are_refused(tmp_path: Path, kind: str, text: str) -> None:
    Image.fromarray(np.full((4, 4), 200, dtype=kind)).save(tmp_path / "image.tiff")
    with pytest.raises(OSError, match=text):
        Picture((tmp_path / "image.tiff").read_bytes()).rgb()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_and_tables_of_windows_are_read(tmp_path: Path, encoding: str) -> None:
    make_folder(tmp_path / "set")
    names, table = "class-0/1.png\r\nclass-1/3.png\r\n", "image,red\r\nclass-0/1.png,1\r\n"
    (tmp_path / "names.txt").write_bytes(names.encode(encoding))
    (tmp_path / "table.csv").write_bytes(table.encode(encoding))
    spec = folder_spec("set").model_copy(update={"names": "names.txt"})
    assert len(open_images(spec, under(tmp_path))) == 2
    labelled = folder_spec("set").model_copy(update={"labels": "table.csv"})
    assert open_images(labelled, under(tmp_path)).classes == ["red"]


def test_a_text_that_is_none_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "set")
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x00")
    spec = folder_spec("set").model_copy(update={"names": "names.txt"})
    with pytest.raises(InvalidInput, match=r"data\.names"):
        open_images(spec, under(tmp_path))


def test_a_very_long_image_is_seen_through_its_middle() -> None:
    view = PlainView(224)
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5000, 3), dtype=np.uint8)
    tracemalloc.start()
    whole = view(Image.fromarray(pixels))
    turned = pixels.transpose(1, 0, 2).copy()
    tall = view(Image.fromarray(turned))
    # 6×96 pixels of the middle decide: what lies beyond them cannot be seen.
    middle = view(Image.fromarray(pixels[:, 2452:2548]))
    assert torch.equal(whole, middle)
    assert torch.equal(tall, view(Image.fromarray(turned[2452:2548])))
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


def test_an_epoch_of_an_evaluation_leaves_no_image_out(folder: Path) -> None:
    images = open_images(folder_spec("set"), under(folder))
    whole = batches_of(images, 3, drop_last=False)
    assert [len(batch.indices) for batch in whole.epoch(0)] == [3, 3, 2]
    assert len(whole) == 3
    assert len(batches_of(images, 3)) == 2
    # BatchNorm cannot normalise a single image.
    assert [len(batch.indices) for batch in batches_of(images, 7, drop_last=False).epoch(0)] == [7]


def test_an_image_that_can_be_read_later_is_still_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "set")
    images = open_images(folder_spec("set"), under(tmp_path))
    read, failing = images.read, {2}

    def flaky(index: int) -> Image.Image:
        if index in failing:
            failing.remove(index)
            raise OSError("the network share is unreachable")
        return read(index)

    monkeypatch.setattr(images, "read", flaky)
    first = read(0)
    held = _hold(images, (first.height, first.width), loaders=0)
    assert held is not None
    _, sources, broken = held
    assert (sources, broken) == ([0, 1, 3, 3, 4, 5, 6, 7], frozenset({2}))


@pytest.mark.parametrize(("free", "loaded"), [(2**30, True), (2 * 8 * 432 - 1, False)])
def test_loaders_of_images_to_be_held_fit_into_the_shared_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
    loaded: bool,
) -> None:
    """The system kills a loader that finds none left. Half of what is free may be used."""
    make_folder(tmp_path / "set")
    images = open_images(folder_spec("set"), under(tmp_path))
    read, here = images.read, []

    def noted(index: int) -> Image.Image:
        here.append(index)  # a loader has a list of its own
        return read(index)

    monkeypatch.setattr(images, "read", noted)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, free))
    held = _hold(images, (12, 12), loaders=1)
    assert held is not None
    assert held[0][7].permute(1, 0, 2).tolist() == np.array(read(7)).transpose(2, 0, 1).tolist()
    assert here == ([] if loaded else list(range(8)))
    assert ("or set data.hold to never" in caplog.text) == (not loaded)


@pytest.mark.parametrize(("hold", "held"), [("auto", True), ("never", False), (8 * 432, False)])
def test_images_are_held_within_a_bound(tmp_path: Path, hold: Hold, held: bool) -> None:
    make_folder(tmp_path / "set")
    images = open_images(folder_spec("set"), under(tmp_path))
    place = (torch.device("cpu"), 0, 4 * 2 * 3 * 16**2)
    # Eight images of 12 by 12 pixels.
    assert open_crops(images, SPEC, *place, "bicubic", hold).held_bytes == (8 * 432 if held else 0)
    assert open_crops(images, SPEC, *place, "bicubic", 8 * 432 + 1).held_bytes == 8 * 432


@pytest.mark.parametrize("hold", ["auto", 2**40])
def test_images_are_never_held_beyond_half_of_the_memory_of_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: Hold
) -> None:
    make_folder(tmp_path / "set")
    images = open_images(folder_spec("set"), under(tmp_path))
    place = (torch.device("cpu"), 0, 4 * 2 * 3 * 16**2)
    monkeypatch.setattr(crops, "memory_limit", lambda: 2 * 2 * (8 * 432 + 1))
    for workers, held in (("2", 8 * 432), ("3", 0)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", workers)
        assert open_crops(images, SPEC, *place, "bicubic", hold).held_bytes == held


@pytest.mark.parametrize(
    ("content", "limit"), [("1048576\n", 2**20), ("max\n", None), ("9" * 30, None), (None, None)]
)
def test_memory_is_the_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, limit: int | None
) -> None:
    files = tmp_path / "memory.max", tmp_path / "limit_in_bytes"
    if content is not None:
        files[0].write_text(content)
    monkeypatch.setattr(memory, "LIMITS", files)
    assert memory.memory_limit() == (limit or psutil.virtual_memory().total)
