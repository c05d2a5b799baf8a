"""A detector that a CPU trains in seconds."""

import pytest

from vicreg_workers.selfsup.model import detector


def shrink_detector(
    monkeypatch: pytest.MonkeyPatch, width: int, regions: int, proposals: tuple[int, int]
) -> None:
    """Make the detectors of a test small.

    Args:
        monkeypatch: undoes it.
        width: of the pyramid's maps.
        regions: that are trained on, of an image.
        proposals: how many there are before and after overlapping ones are left out.
    """
    before, after = proposals
    few = (before, before, after, after)
    monkeypatch.setattr(detector, "PYRAMID_WIDTH", width)
    monkeypatch.setattr(detector, "REGIONS", regions)
    monkeypatch.setattr(detector, "C4_REGION", 4)
    monkeypatch.setattr(detector, "PROPOSALS", {"fpn": few, "c4": few})
