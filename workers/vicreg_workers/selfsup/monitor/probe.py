"""Nearest neighbours of labelled images other than those that are trained on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import nn

from vicreg_workers.selfsup.data.images import Images, classes_in_train
from vicreg_workers.selfsup.data.sources import Subset
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.features import BATCH_SIZE, Features, extract_features
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.metrics import top_k_accuracy

TRAIN, TEST = 3000, 1000
"""At most so many images are measured, as many as when the training images are themselves."""
NEIGHBOURS, TEMPERATURE = 20, 0.07


class Labelled(NamedTuple):
    """A labelled set for a probe."""

    train: Images
    train_size: int
    """Side of a view of its images, in pixels."""
    test: Images
    test_size: int


class Probe:
    """Classifies test images by their nearest training images, always the same ones.

    Args:
        labelled: the images.
        device: where the network is.
        loaders: processes that read images; with 0, this process reads them.
        autocast: makes the precision context that the network is trained in.

    Raises:
        InvalidInput: they have no labels, or several each, or the classes of the test images are
            not among those of the training images.
    """

    def __init__(
        self,
        labelled: Labelled,
        device: torch.device,
        loaders: int,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        for name, images in (("train", labelled.train), ("test", labelled.test)):
            if not images.classes or images.several is not None:
                raise InvalidInput(f"watch.probe.{name}: its images need one label each")
        self._labelled = labelled._replace(
            train=_some(labelled.train, TRAIN), test=_some(labelled.test, TEST)
        )
        self._classes = classes_in_train(labelled.train, labelled.test)
        self._device = device
        self._loaders = loaders
        self._autocast = autocast

    @property
    def queries(self) -> int:
        """How many images are classified, if all can be read."""
        return len(self._labelled.test)

    def top1(self, backbone: nn.Module) -> float:
        """The accuracy, in [0, 1]. The mode of the backbone is left as it was.

        Raises:
            InvalidInput: none of the images can be read.
        """
        was_training = backbone.training
        train = self._features(backbone, self._labelled.train, self._labelled.train_size)
        test = self._features(backbone, self._labelled.test, self._labelled.test_size)
        backbone.train(was_training)
        scores = knn_scores(
            train,
            test.representations,
            min(NEIGHBOURS, len(train.labels)),
            TEMPERATURE,
            len(self._labelled.train.classes),
        )
        return top_k_accuracy(scores, self._classes.to(self._device)[test.labels], 1)

    def _features(self, backbone: nn.Module, images: Images, size: int) -> Features:
        with self._autocast():
            return extract_features(backbone, images, size, self._device, self._loaders)


def _some(images: Images, count: int) -> Images:
    order = images.order(BATCH_SIZE, torch.Generator().manual_seed(0)).tolist()
    return Subset(images, order[:count])
