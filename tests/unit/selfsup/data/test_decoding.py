"""Images of every kind are decoded as Pillow does, and broken ones are refused in words."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from vicreg_platform.specs.data import Orientation
from vicreg_workers.selfsup.data.decoding import Picture


def photograph(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """Smooth shapes and a little noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = generator.integers(-8, 9, (height, width, 3))
    return Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PALETTE = photograph().quantize(16)
KINDS = {
    "jpeg": encoded(photograph(), quality=90),
    "jpeg without subsampling, progressive": encoded(photograph(), subsampling=0, progressive=True),
    "jpeg, gray": encoded(photograph().convert("L")),
    "jpeg, CMYK": encoded(photograph().convert("CMYK")),
    "png": encoded(photograph(), "PNG"),
    "png, palette with transparency": encoded(PALETTE, "PNG", transparency=3),
    "png, gray with alpha": encoded(photograph().convert("LA"), "PNG"),
    "webp": encoded(photograph(), "WEBP"),
    "gif, animated": encoded(
        PALETTE, "GIF", save_all=True, append_images=[photograph(seed=1).quantize(16)]
    ),
    "one pixel": encoded(photograph().resize((1, 1))),
    "tiff": encoded(photograph(), "TIFF"),
}


@pytest.mark.parametrize("name", KINDS)
def test_pixels_are_pillows(name: str) -> None:
    reference = np.asarray(Image.open(io.BytesIO(KINDS[name])).convert("RGB"))
    picture = Picture(KINDS[name])
    assert (picture.height, picture.width) == reference.shape[:2]
    pixels = Picture(KINDS[name]).pixels().permute(1, 2, 0).numpy()
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, reference)
    assert np.array_equal(np.asarray(picture.rgb()), reference)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_a_camera_is_believed_only_if_asked(orientation: int, exif: Orientation) -> None:
    noted = Image.Exif()
    noted[0x0112] = orientation
    content = encoded(photograph(), exif=noted)
    stored = Image.open(io.BytesIO(content))
    upright = np.asarray(ImageOps.exif_transpose(stored))
    wanted = upright if exif == "apply" else np.asarray(stored)
    picture = Picture(content, exif)
    assert picture.orientation == orientation
    assert (picture.height, picture.width) == wanted.shape[:2]
    assert np.array_equal(picture.pixels().permute(1, 2, 0).numpy(), wanted)
    assert np.array_equal(np.asarray(Picture(content, exif).rgb()), wanted)


@pytest.mark.parametrize("shrink", [2.0, 3.9, 4.0, 9.0])
def test_a_large_jpeg_may_be_decoded_smaller(shrink: float) -> None:
    content = encoded(photograph(800, 600), quality=95)
    pixels = Picture(content).pixels(shrink)
    factor = max(each for each in (1, 2, 4, 8) if each <= shrink)
    assert pixels.shape == (3, 600 // factor, 800 // factor)
    box = Image.open(io.BytesIO(content)).reduce(factor)
    difference = np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(box).astype(int))
    assert difference.mean() < 2


@pytest.mark.parametrize(("name", "lost"), [("jpeg", 3), ("jpeg", 100), ("png", 30), ("webp", 9)])
def test_a_truncated_image_is_refused_by_both(name: str, lost: int) -> None:
    content = KINDS[name][:-lost]
    for decode in ("pixels", "rgb"):
        with pytest.raises(OSError, match=r"truncated|incomplete|broken|could not"):
            getattr(Picture(content), decode)()


@pytest.mark.parametrize("lost", [1, 2])
def test_a_missing_end_is_forgiven_by_both(lost: int) -> None:
    content = KINDS["jpeg"][:-lost]
    pixels = Picture(content).pixels().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, np.asarray(Picture(content).rgb()))


def png_of(width: int, height: int) -> bytes:
    """The header of a PNG file, and hardly more."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def test_an_image_too_large_for_memory_is_refused_by_its_header() -> None:
    with pytest.raises(OSError, match="900000000 pixels"):
        Picture(png_of(30_000, 30_000))


@pytest.mark.parametrize(("content", "text"), [(b"", "empty"), (b"\xff\xd8 no image", "not an")])
def test_what_is_no_image_is_refused_in_words(content: bytes, text: str) -> None:
    with pytest.raises(OSError, match=text):
        Picture(content)


def test_an_orientation_in_xmp_alone_is_one_for_every_way_to_decode() -> None:
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    content = encoded(photograph(), xmp=xmp.encode())
    picture = Picture(content, "apply")
    assert (picture.height, picture.width) == (60, 40)
    assert picture.pixels().shape == (3, 60, 40)
    assert Picture(content, "apply").pixels(2.0).shape == (3, 30, 20)


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_the_pixels_of_a_png_wait_until_they_are_asked_for(exif: Orientation) -> None:
    """A whole step is opened before any of it is decoded."""
    picture = Picture(KINDS["png"], exif)
    assert picture._image._im is None
    picture.rgb()
    assert picture._image._im is not None
