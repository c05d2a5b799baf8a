"""Faster R-CNN and Mask R-CNN around a residual network, on torchvision's detection code."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import ResNet
from torchvision.ops import MultiScaleRoIAlign

from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.imagenet import IMAGENET_MEAN, IMAGENET_STD

PYRAMID_WIDTH = 256
"""Of the feature pyramid's maps (Lin et al. 2017, section 3)."""
ASPECT_RATIOS = (0.5, 1.0, 2.0)
PYRAMID_ANCHOR = 8
"""Side of a pyramid level's anchors, in its strides: 32 to 512 pixels (Lin et al. 2017, section
4.1)."""
C4_ANCHORS = (2, 4, 8, 16, 32)
"""The same for ``c4``: 32 to 512 pixels at a stride of 16 (Detectron2, ``Base-RCNN-C4.yaml``)."""
C4_REGION = 14
"""Side of a region's map before the fourth stage, which halves it (the same)."""
PROPOSALS = {"fpn": (2000, 1000, 2000, 1000), "c4": (12_000, 6000, 2000, 1000)}
"""Before non-maximum suppression in training and in the test, and after it (the same, and
``Base-RCNN-FPN.yaml``)."""
REGIONS = 512
"""Of each image, on which the heads are trained (``ROI_HEADS.BATCH_SIZE_PER_IMAGE``)."""
STAGES = ("layer1", "layer2", "layer3", "layer4")


def build_detector(
    backbone: nn.Module, classes: int, head: Literal["fpn", "c4"], masks: bool = False
) -> GeneralizedRCNN:
    """Build a detector on a backbone, whose weights it shares.

    Called with images ``[3, h, w]`` in [0, 1], it normalises them as the backbone expects, and pads
    them to one size; it does not resize them. Class 0 is the background. Anchors are in proportion
    to the strides of the backbone, which are half or a quarter with another stem.

    As in MoCo (He et al. 2020, section 4.2), what is new has BatchNorm too, which gives features of
    any pretraining one scale: the pyramid with ``fpn``, and the end of the box head with ``c4``.

    Args:
        backbone: a residual network of torchvision's class.
        classes: how many there are, without the background.
        head: see ``DetectionProtocol``.
        masks: whether objects are segmented too, with ``fpn``.

    Raises:
        InvalidInput: the backbone is another one.
    """
    if not isinstance(backbone, ResNet):
        raise InvalidInput(
            f"protocol detection needs a residual network of the platform or torchvision, and the "
            f"encoder is a {type(backbone).__name__}: evaluate it by another protocol"
        )
    build = _with_pyramid if head == "fpn" else _on_third_stage
    network = build(backbone, classes, masks)
    network.transform = _Normalised(0, 0, list(IMAGENET_MEAN), list(IMAGENET_STD))
    return network


class _Normalised(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """Normalises and pads images; they have their size already."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Leave it as it is."""
        return image, target


def _with_pyramid(backbone: ResNet, classes: int, masks: bool) -> GeneralizedRCNN:
    maps = BackboneWithFPN(
        backbone,
        {stage: str(level) for level, stage in enumerate(STAGES)},
        [_width(getattr(backbone, stage)) for stage in STAGES],
        PYRAMID_WIDTH,
        norm_layer=nn.BatchNorm2d,
    )
    # Above the four stages there is a level that only proposals come from.
    strides = [_first_stride(backbone) * 2**level for level in range(len(STAGES) + 1)]
    anchors = AnchorGenerator(
        tuple((PYRAMID_ANCHOR * stride,) for stride in strides), (ASPECT_RATIOS,) * len(strides)
    )
    kind = MaskRCNN if masks else FasterRCNN
    return kind(maps, classes + 1, rpn_anchor_generator=anchors, **_sampling("fpn"))


def _on_third_stage(backbone: ResNet, classes: int, masks: bool) -> GeneralizedRCNN:
    assert not masks
    names = ("conv1", "bn1", "relu", "maxpool", *STAGES[:3])
    maps = nn.Sequential(OrderedDict((name, getattr(backbone, name)) for name in names))
    maps.out_channels = _width(backbone.layer3)  # type: ignore[assignment]  # torchvision asks for it
    stride = _first_stride(backbone) * 4
    anchors = AnchorGenerator((tuple(each * stride for each in C4_ANCHORS),), (ASPECT_RATIOS,))
    width = _width(backbone.layer4)
    box_head = nn.Sequential(
        OrderedDict(
            layer4=backbone.layer4,
            norm=nn.BatchNorm2d(width),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
        )
    )
    return FasterRCNN(
        maps,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["0"], C4_REGION, sampling_ratio=2),
        box_head=box_head,
        box_predictor=FastRCNNPredictor(width, classes + 1),
        **_sampling("c4"),
    )


def _sampling(head: str) -> dict[str, int]:
    before_train, before_test, after_train, after_test = PROPOSALS[head]
    return {
        "rpn_pre_nms_top_n_train": before_train,
        "rpn_pre_nms_top_n_test": before_test,
        "rpn_post_nms_top_n_train": after_train,
        "rpn_post_nms_top_n_test": after_test,
        "box_batch_size_per_image": REGIONS,
    }


def _first_stride(backbone: ResNet) -> int:
    """Pixels of the image for one of the first stage's map, along each axis."""
    stem = int(backbone.conv1.stride[0])
    return stem if isinstance(backbone.maxpool, nn.Identity) else 2 * stem


def _width(stage: nn.Sequential) -> int:
    """The width of a stage's map."""
    *_, last = (each for each in stage[-1].children() if isinstance(each, nn.BatchNorm2d))
    return last.num_features
