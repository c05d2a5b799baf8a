"""Images come from where the spec says, and broken ones do not stop a run."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vicreg_platform.specs import DigitsData, ImageFolderData, TorchvisionData
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.images import open_images
from vicreg_workers.selfsup.loading import PairBatches, ViewDataset, plain_batches
from vicreg_workers.selfsup.views import PlainView


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


def test_digits_are_split_once_and_for_all() -> None:
    train = open_images(DigitsData(source="digits"), Path())
    test = open_images(DigitsData(source="digits", split="test"), Path())
    assert (len(train), len(test)) == (1437, 360)
    assert {train.name(i) for i in range(1437)}.isdisjoint(test.name(i) for i in range(360))
    assert train.read(0).size == (8, 8)
    counts = np.bincount(test.labels)
    assert counts.min() >= 34
    assert train.read(3).getextrema()[0][1] == 255


def test_a_folder_gives_its_classes_in_order(tmp_path: Path) -> None:
    make_folder(tmp_path / "set")
    images = open_images(folder_spec("set"), tmp_path)
    assert list(images.labels) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert images.name(4).endswith("class-1/0.png")
    assert images.read(4).mode == "RGB"


@pytest.mark.parametrize(
    ("path", "message"), [("nowhere", "does not exist"), ("empty", "no images"), ("file", "folder")]
)
def test_a_folder_without_images_is_the_users_to_mend(
    tmp_path: Path, path: str, message: str
) -> None:
    (tmp_path / "empty" / "class").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserFailure, match=message):
        open_images(folder_spec(path), tmp_path)


def test_a_link_cannot_lead_out_of_the_data_root(tmp_path: Path) -> None:
    make_folder(tmp_path / "outside")
    root = tmp_path / "root"
    root.mkdir()
    os.symlink(tmp_path / "outside", root / "link")
    with pytest.raises(UserFailure, match="outside the data root"):
        open_images(folder_spec("link"), root)


def test_torchvision_sets_are_read_from_disk(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    spec = TorchvisionData(source="torchvision", dataset="CIFAR10", path="sets")
    with pytest.raises(UserFailure, match="CIFAR10 is not in"):
        open_images(spec, tmp_path)
    with pytest.raises(UserFailure, match=r"torchvision\.datasets has no Cifar"):
        open_images(spec.model_copy(update={"dataset": "Cifar"}), tmp_path)
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
    images = open_images(mnist, tmp_path)
    assert len(images) == 3
    assert images.read(0).size == (28, 28)


def test_a_corrupt_image_is_replaced_by_the_next_and_reported(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set")
    (root / "class-0" / "1.png").write_bytes(b"\x89PNG no image")
    (root / "class-0" / "2.png").write_bytes((root / "class-0" / "3.png").read_bytes()[:60])
    images = open_images(folder_spec("set"), tmp_path)
    sample = ViewDataset(images, PlainView(16))[1]
    assert sample.skipped == (1, 2)
    assert torch.equal(sample.view, PlainView(16)(images.read(3)))


def test_a_set_of_broken_images_only_is_given_up(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", classes=1, images=3)
    for file in (root / "class-0").iterdir():
        file.write_bytes(b"nothing")
    dataset = ViewDataset(open_images(folder_spec("set"), tmp_path), PlainView(16))
    with pytest.raises(UserFailure, match="cannot be read"):
        dataset[0]


def test_an_evaluation_leaves_corrupt_images_out(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set")
    (root / "class-1" / "0.png").write_bytes(b"nothing")
    images = open_images(folder_spec("set"), tmp_path)
    labels = torch.cat([y for _, y, _ in plain_batches(images, PlainView(16), 3, loaders=0)])
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    left_out = [i for _, _, some in plain_batches(images, PlainView(16), 3, 0) for i in some]
    assert left_out == [4]


def test_batches_are_reshuffled_each_epoch_and_repeat_for_a_seed() -> None:
    images = open_images(DigitsData(source="digits", image_size=16), Path())

    def first_views(seed: int, epoch: int) -> torch.Tensor:
        def both(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
            view = PlainView(16)(image)
            return view, view

        batches = PairBatches(images, both, 32, loaders=0, seed=seed, pin_memory=False)
        return next(batches.epoch(epoch))[0]

    assert torch.equal(first_views(0, 1), first_views(0, 1))
    assert not torch.equal(first_views(0, 1), first_views(0, 2))
    assert not torch.equal(first_views(0, 1), first_views(1, 1))


def test_fewer_images_than_a_batch_is_the_users_to_mend(tmp_path: Path) -> None:
    make_folder(tmp_path / "set")
    images = open_images(folder_spec("set"), tmp_path)
    with pytest.raises(UserFailure, match="8 images are fewer than"):
        PairBatches(images, lambda i: i, 9, 0, 0, False)  # type: ignore[arg-type,return-value]
