"""Images as PNG files."""

from __future__ import annotations

import io

from torch import Tensor
from torchvision.transforms.functional import to_pil_image


def png(image: Tensor) -> bytes:
    """The file of an image ``[3, H, W]``: uint8, or floats in [0, 1]."""
    buffer = io.BytesIO()
    to_pil_image(image).save(buffer, format="PNG")
    return buffer.getvalue()
