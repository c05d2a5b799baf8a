"""How an encoder is evaluated."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from vicreg_platform.specs.base import CrossFieldError, SpecModel


class _Protocol(SpecModel):
    needs_labels: ClassVar[bool] = True
    """Whether each image must have a label."""


class KnnProtocol(_Protocol):
    """Weighted nearest neighbours on cosine similarity (Wu et al. 2018, section 3.4)."""

    name: Literal["knn"]
    k: int = Field(default=200, ge=1, le=10_000)
    """How many neighbours vote."""
    temperature: float = Field(default=0.07, gt=0.0, le=10.0)
    """A neighbour at cosine similarity s votes with weight exp(s / temperature)."""


class LinearProtocol(_Protocol):
    """A linear classifier on the frozen representation, trained with SGD and a cosine rate.

    The authors' protocol is ``augment: true``, ``standardize: false``, ``learning_rates: [0.02]``
    and ``weight_decay: 1.0e-6`` with ``data.interpolation: bilinear`` (Appendix C.2;
    ``evaluate.py``). One thing differs: their classifier's weights start at random (standard
    deviation 0.01), these at zero.

    On images with several labels (``data.train.labels``) each class has a logistic classifier,
    and the metric is mean average precision.
    """

    name: Literal["linear"]
    epochs: int = Field(default=100, ge=1, le=10_000)
    """Epochs of the classifier's training."""
    batch_size: int = Field(default=256, ge=1, le=65_536)
    """Images per step."""
    learning_rates: tuple[Annotated[float, Field(gt=0.0, le=1000.0)], ...] = Field(
        default=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0), min_length=1, max_length=64
    )
    """All are trained at once; the one that does best on the held-out images is tested."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0)
    holdout: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the training set held out to choose the learning rate; none if there is only one."""
    augment: bool = False
    """``false``: every training image passes the encoder once, and its representation is cached;
    ``true``: new random crops and flips in every epoch, as in the authors' ``evaluate.py``."""
    standardize: bool = True
    """``true``: the features are shifted to a mean of 0 and scaled, all by one number, to a mean
    square of 1, so that the same learning rates suit every encoder; ``false``: they are taken as
    they are, as in ``evaluate.py``."""
    seed: int = Field(default=0, ge=0, lt=2**32)


class FinetuneProtocol(_Protocol):
    """Trains encoder and classifier together on labelled images, as the authors' evaluate.py does.

    The defaults are the authors' for 1 % of the labels (``data.train.share`` 0.01); for 10 % they
    use ``backbone_lr`` 0.01 and ``head_lr`` 0.1 (README of facebookresearch/vicreg).
    """

    name: Literal["finetune"]
    epochs: int = Field(default=20, ge=1, le=10_000)
    """Epochs of the fine-tuning."""
    batch_size: int = Field(default=256, ge=2, le=65_536)
    """Images per step."""
    backbone_lr: float = Field(default=0.03, ge=0.0, le=1000.0)
    """Peak learning rate of the encoder."""
    head_lr: float = Field(default=0.08, gt=0.0, le=1000.0)
    """Peak learning rate of the classifier."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = Field(default=0, ge=0, lt=2**32)


class SvmProtocol(_Protocol):
    """One linear SVM per class on the frozen representation, as the paper's VOC07 results.

    Representations are l2-normalised. It is the protocol of Goyal et al. 2019
    (facebookresearch/fair_self_supervision_benchmark, ``tools/svm``): squared hinge loss, positive
    images weighted by 2. ``svm/map`` is the mean over
    the classes of the area under the precision-recall curve, whose precision is the highest at the
    same or a higher recall, as there. With one label an image, ``svm/top1`` and ``svm/top5`` are
    of the highest decisions.
    """

    name: Literal["svm"]
    costs: tuple[Annotated[float, Field(gt=0.0, le=1e6)], ...] = Field(
        default=(0.01, 0.1, *(0.5**n for n in range(4, 20))), min_length=1, max_length=64
    )
    """Each class chooses its own, by cross-validated average precision on the training images."""
    folds: int = Field(default=3, ge=2, le=20)
    """Number of parts of the cross-validation."""
    seed: int = Field(default=0, ge=0, lt=2**32)


class FewShotProtocol(_Protocol):
    """Linear SVMs on the representations of a few training images of each class.

    For each number of images, as many of each class are drawn ``draws`` times, at random, and the
    test images are classified: ``few_shot/<images>/top1`` is the mean over the draws, and
    ``few_shot/<images>/top1_std`` the standard deviation. The SVMs are those of protocol ``svm``,
    with one cost (Goyal et al. 2019, section 5.2, with 5 draws).
    """

    name: Literal["few_shot"]
    shots: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        default=(1, 2, 4, 8, 16), min_length=1, max_length=16
    )
    """How many images of each class. A larger number has those of a smaller one, and others."""
    draws: int = Field(default=5, ge=1, le=100)
    """How often they are drawn."""
    cost: float = Field(default=1.0, gt=0.0, le=1e6)
    """C of the SVMs: there are too few images to choose it by cross-validation."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seeds of the draws and of the SVMs."""


class RetrievalProtocol(_Protocol):
    """Ranks the training images for each test image, by the cosine of their representations.

    ``retrieval/map`` is the mean over the test images of the average precision with which those of
    their class come first; ``retrieval/recall_at_1``, ``_5`` and ``_10`` are the shares of test
    images with one of their class among so many first ones.
    """

    name: Literal["retrieval"]


class SegmentationProtocol(_Protocol):
    """Classifies each pixel, by a linear head on the encoder's last feature map.

    It is the linear segmentation of VICRegL (Bardes et al. 2022, arXiv 2210.01571;
    facebookresearch/VICRegL, ``segmentation/``): BatchNorm and a 1×1 convolution, whose logits are
    upsampled bilinearly; cross-entropy by SGD with momentum 0.9 and a learning rate that falls to
    0 as (1 - progress)^0.9. The defaults are its configuration for a ResNet-50 on Pascal VOC, whose
    40,000 steps of 16 of the 10,582 images are 60 epochs (open-mmlab/mmsegmentation,
    ``schedule_40k.py``).

    Images are trained on in random crops (of a quarter of the image or more) and flips. For the
    test, an image is resized so that its longer side is ``image_size``, and padded to a square;
    its mask is resized with it, and padding is ignored. ``segmentation/miou`` is the
    intersection over union averaged over the classes that are in a test mask or predicted, and
    ``segmentation/pixel_accuracy`` the share of pixels that are classified correctly. The artifact
    ``pictures/segmentation.png`` shows test images, their masks and the predictions.
    """

    needs_labels: ClassVar[bool] = False
    name: Literal["segmentation"]
    frozen: bool = True
    """``true``: the encoder stays as it is, and only the head is trained; ``false``: both are."""
    dilated: bool = True
    """Residual networks of the platform and of torchvision: the strides that would make the map
    smaller than an eighth of the image's side are replaced by dilation, with the same weights, as
    in VICRegL and in fully convolutional networks (Yu et al. 2017; torchvision's
    ``replace_stride_with_dilation``). Other networks are left as they are."""
    epochs: int = Field(default=60, ge=1, le=10_000)
    """Epochs of the head's training, and of the encoder's if it is not ``frozen``."""
    batch_size: int = Field(default=16, ge=1, le=65_536)
    """Images per step."""
    learning_rate: float = Field(default=0.01, gt=0.0, le=1000.0)
    """Learning rate of the head in the first step."""
    backbone_lr: float = Field(default=0.01, ge=0.0, le=1000.0)
    """Learning rate of the encoder in the first step, if it is not ``frozen``."""
    weight_decay: float = Field(default=5e-4, ge=0.0, le=1.0)
    seed: int = Field(default=0, ge=0, lt=2**32)


class DetectionProtocol(_Protocol):
    """Finds objects, and their classes, by a Faster R-CNN whose backbone is the encoder.

    The encoder is fine-tuned with the detector, as in the paper (Table 2 and Appendix C.3), on
    torchvision's detection code. It must be a residual network of the platform or of torchvision.
    The defaults are Detectron2's for 12 epochs of COCO (``1x``); the paper's learning rates are
    0.1 for ``c4`` on VOC and 0.04 for ``fpn`` on COCO.

    SGD with momentum 0.9; the learning rate rises linearly at first, and is divided by 10 twice:
    after 2/3 and 8/9 of the steps with ``fpn``, after 3/4 and 11/12 with ``c4``. Images are
    resized so that their shorter side is ``image_size``, and mirrored at random for training.

    ``detection/ap`` is COCO's average precision, the mean over the classes and the thresholds 0.5,
    0.55, … 0.95 of the intersection over union; ``detection/ap50`` and ``detection/ap75`` are those
    at one threshold. With ``masks``, ``detection/mask_ap``, ``_ap50`` and ``_ap75`` are of the
    masks. The artifact ``pictures/detection.png`` shows test images, their objects and the
    predictions.
    """

    needs_labels: ClassVar[bool] = False
    name: Literal["detection"]
    head: Literal["fpn", "c4"] = "fpn"
    """``fpn``: a feature pyramid on all four stages (Lin et al. 2017); ``c4``: proposals and boxes
    on the third stage, and the fourth is the head of each box (Ren et al. 2015, as in MoCo)."""
    masks: bool = False
    """Whether objects are segmented too (Mask R-CNN, He et al. 2017). It needs ``fpn``, and data of
    layout ``coco``."""
    epochs: int = Field(default=12, ge=1, le=10_000)
    """Epochs of the training of encoder and heads."""
    batch_size: int = Field(default=16, ge=2, le=65_536)
    """Images per step. BatchNorm is trained too, with the statistics of a batch: a small one makes
    them noisy."""
    learning_rate: float = Field(default=0.02, gt=0.0, le=1000.0)
    """Learning rate of encoder and heads at its peak."""
    weight_decay: float = Field(default=1e-4, ge=0.0, le=1.0)
    """BatchNorm has none."""
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _masks_need_a_pyramid(self) -> DetectionProtocol:
        if self.masks and self.head != "fpn":
            raise CrossFieldError([(("masks", "head"), f"head {self.head} has no masks: use fpn")])
        return self


class FeaturesProtocol(_Protocol):
    """Measures nothing: stores the representations of both sets as the artifact ``features.npz``.

    It holds ``train`` and ``test`` ``[N, F]`` float32, ``train_labels`` and ``test_labels`` (-1 for
    images without labels), and ``classes``.
    """

    needs_labels: ClassVar[bool] = False
    name: Literal["features"]


Protocol = Annotated[
    KnnProtocol
    | LinearProtocol
    | FinetuneProtocol
    | SvmProtocol
    | FewShotProtocol
    | RetrievalProtocol
    | SegmentationProtocol
    | DetectionProtocol
    | FeaturesProtocol,
    Field(discriminator="name"),
]

PROTOCOLS: tuple[str, ...] = tuple(
    get_args(kind.model_fields["name"].annotation)[0] for kind in get_args(get_args(Protocol)[0])
)
"""Their names."""


def draws(protocol: Protocol) -> bool:
    """Whether a protocol draws something at random, by its ``seed``."""
    return hasattr(protocol, "seed")


def trains_network(protocol: Protocol) -> bool:
    """Whether images pass the encoder in every epoch of a training; else each passes once."""
    if isinstance(protocol, LinearProtocol):
        return protocol.augment
    return isinstance(protocol, FinetuneProtocol | SegmentationProtocol | DetectionProtocol)


def repeated(protocol: Protocol, seeds: int) -> list[Protocol]:
    """A protocol with its seed, and with those that follow: so many in all.

    Args:
        protocol: if it draws nothing, there is one.
        seeds: how many.
    """
    first = getattr(protocol, "seed", None)
    if first is None:
        return [protocol]
    return [protocol.model_copy(update={"seed": first + number}) for number in range(seeds)]
