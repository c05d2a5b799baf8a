"""Encoded images: their size from the header, and their pixels when asked for."""

from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from vicreg_platform.specs.data import Orientation

ORIENTATION = 0x0112
"""EXIF's tag."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its orientation (EXIF 2.3, section 4.6.4)."""
SWAPPED = range(5, 9)
"""The orientations that swap height and width."""
PLAIN_JPEG = ("RGB", "L")
"""Modes of JPEG files whose pixels torchvision and Pillow decode alike."""


class Picture:
    """An image of which only the header has been read.

    Args:
        content: the encoded bytes.
        exif: whether the orientation that a camera noted is applied.

    Raises:
        OSError: it is not an image, or has too many pixels (179 million: a file of a few
            kilobytes could fill the memory).
    """

    def __init__(self, content: bytes, exif: Orientation = "ignore") -> None:
        self._content = content
        self._image = _opened(content)
        self._turn = TURNS.get(self.orientation) if exif == "apply" else None
        wide, high = self._image.size
        swapped = self._turn is not None and self.orientation in SWAPPED
        self.height, self.width = (wide, high) if swapped else (high, wide)

    @property
    def orientation(self) -> int:
        """1 to 8, as the camera noted; 1 is upright."""
        try:
            if self._image.format == "PNG":
                # Asked itself, it would decode the image to look for a note behind the pixels.
                noted = Image.Exif()
                noted.load(self._image.info.get("exif", b""))
            else:
                noted = self._image.getexif()
            return int(noted.get(ORIENTATION, 1))
        except Exception:  # a broken EXIF block says nothing
            return 1

    @property
    def mode(self) -> str:
        """Pillow's name for the kind of its pixels, such as ``RGB`` or ``CMYK``."""
        return self._image.mode

    def rgb(self) -> Image.Image:
        """The whole image, decoded.

        Raises:
            OSError: it is truncated, broken, or its pixels have no known range.
        """
        try:
            whole = _rgb(self._image)
            return whole if self._turn is None else whole.transpose(self._turn)
        except Exception as error:
            # Pillow's decoders report broken files by almost any exception.
            raise OSError(str(error)) from error

    def pixels(self, shrink: float = 1.0) -> Tensor:
        """The pixels, uint8 ``[3, H, W]``, channels last.

        A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if ``shrink`` allows it: H and W are
        then smaller than ``height`` and ``width``.

        Args:
            shrink: how many times smaller the image may be, at least 1.

        Raises:
            OSError: as ``rgb``.
        """
        if self._image.format == "JPEG" and self._image.mode in PLAIN_JPEG:
            if shrink >= 2 or self._turn is not None:
                wide, high = self._image.size
                self._image.draft("RGB", (int(wide / shrink), int(high / shrink)))
            else:
                data = torch.frombuffer(bytearray(self._content), dtype=torch.uint8)
                # Pillow has the last word on what is broken: it forgives a missing end.
                with suppress(RuntimeError):
                    pixels: Tensor = decode_jpeg(data, mode=ImageReadMode.RGB)
                    return pixels
        return torch.from_numpy(np.array(self.rgb())).permute(2, 0, 1)


class DecodedPicture:
    """An image that its source has in memory.

    Args:
        image: in RGB.
    """

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.width, self.height = image.size
        self.orientation, self.mode = 1, image.mode

    def rgb(self) -> Image.Image:
        """See ``Picture.rgb``."""
        return self._image

    def pixels(self, shrink: float = 1.0) -> Tensor:
        """See ``Picture.pixels``; never shrunk."""
        return torch.from_numpy(np.array(self._image)).permute(2, 0, 1)


AnyPicture = Picture | DecodedPicture


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except Exception as error:
        reason = str(error)
        if "cannot identify" in reason:
            reason = "it is not an image" if content else "it is empty"
        raise OSError(reason) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("F", "I"):
        kind = "floating-point numbers" if image.mode == "F" else "integers of 32 bits"
        raise OSError(f"its pixels are {kind}, of an unknown range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16 bits per pixel: Pillow's own conversion would clip at 255.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")
