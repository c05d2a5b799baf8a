"""Which images a training is made of, so that a resumed one notices if they are others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.errors import InvalidInput


class Fingerprint:
    """The number of images, and a digest of their names and labels in order.

    Args:
        images: of the training.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._digest: str | None = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        if self._digest is None:
            self._digest = _digest(self._images)
        return {"images": {"count": len(self._images), "digest": self._digest}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare with what a checkpoint kept; those before version 0.3.0 kept nothing.

        Raises:
            InvalidInput: the images are others.
        """
        before, now = state.get("images"), self.state_dict()["images"]
        if before is not None and before != now:
            what = f"{before['count']} images then, {now['count']} now"
            if before["count"] == now["count"]:
                what = f"{now['count']} images as then, with other names or labels"
            raise InvalidInput(
                f"data: the training images have changed since the checkpoint ({what}): put them "
                "back, or submit a new job"
            )


def _digest(images: Images) -> str:
    digest = hashlib.sha256()
    for index, label in enumerate(images.labels):
        digest.update(f"{label}\t{os.path.basename(images.name(index))}\n".encode(errors="replace"))
    return digest.hexdigest()[:32]
