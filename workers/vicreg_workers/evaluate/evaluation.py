"""What every protocol uses: the encoder, the images, their features, and progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.tags import ENCODER_TAG
from vicreg_platform.data_root import resolve_inside
from vicreg_platform.specs import (
    EvaluateSpec,
    ModelEncoder,
    SegmentationProtocol,
    UntrainedEncoder,
)
from vicreg_platform.specs.evaluate import Encoder
from vicreg_workers.encoder import load_encoder
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.data.images import Images, classes_in_train, unreadable
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.distributed import (
    first_before_others,
    from_first,
    gather_objects,
    take_from_first,
)
from vicreg_workers.selfsup.evaluation.features import (
    Features,
    calibrate_batchnorm,
    extract_together,
)
from vicreg_workers.selfsup.evaluation.metrics import top_k_accuracy
from vicreg_workers.selfsup.model.feature_map import FeatureMap
from vicreg_workers.selfsup.model.precision import autocast
from vicreg_workers.storage import INDEXES, Folder
from vicreg_workers.tracking.outbox import Outbox
from vicreg_workers.weights import version_of

logger = logging.getLogger(__name__)


class Evaluation:
    """The encoder, the training and test images, and where results go.

    Args:
        assignment: the attempt.
        spec: its spec.
        outbox: the run's, on the first worker; else None.
        device: where the encoder runs.

    Raises:
        UserFailure: the encoder or the classes do not fit.
        InvalidInput: the images are missing or malformed.
    """

    def __init__(
        self,
        assignment: Assignment,
        spec: EvaluateSpec,
        outbox: Outbox | None,
        device: torch.device,
    ) -> None:
        root = Path(assignment.data_root)
        locate = partial(resolve_inside, root)
        self._outbox = outbox
        self.device = device
        self.pinned = device.type == "cuda"
        """Whether batches are made in pinned memory."""
        self.autocast = partial(autocast, spec.precision, device)
        """Makes the context in which the network computes."""
        # With one CPU, this process reads the images itself.
        self.loaders = spec.resources.cpus - 1
        keep = Folder.of_job(assignment.storage, INDEXES)
        own = Folder.of_job(assignment.storage, assignment.job_id)
        # The first worker lists them, and the others find its index.
        self.train_images, self.test_images = first_before_others(
            lambda: tuple(
                open_images(each, locate, keep, self.loaders, own)
                for each in (spec.data.train, spec.data.test)
            )
        )
        if spec.protocol.needs_labels:
            require_labels(train=self.train_images, test=self.test_images)
        self._reached("data_open")
        self.interpolation = spec.data.interpolation
        self.hold = spec.data.train.hold
        self.image_size = spec.data.train.image_size
        self.corrupt = 0
        """Images left out so far because they cannot be read."""
        self.test_size = spec.data.test.image_size
        self._train_classes = classes_in_train(self.train_images, self.test_images)
        encoder, self.encoder_step = load_encoder(
            self._resolved(spec.encoder, assignment.tracking_uri),
            self.image_size,
            assignment.encoder_run_id,
            assignment.tracking_uri,
            root,
            assignment.storage,
        )
        self.encoder = encoder.to(device)
        if isinstance(spec.protocol, SegmentationProtocol):
            self.encoder = FeatureMap(self.encoder, self.image_size, spec.protocol.dilated)
        if isinstance(spec.encoder, UntrainedEncoder):
            calibrate_batchnorm(
                self.encoder,
                self.train_images,
                self.image_size,
                device,
                self.loaders,
                self.interpolation,
            )
            take_from_first(self.encoder.buffers())
        self._features: tuple[Features, Features] | None = None
        self._reached("network_built")

    def _resolved(self, encoder: Encoder, tracking_uri: str) -> Encoder:
        """The encoder with its version in the model registry, the same on all workers."""
        if not isinstance(encoder, ModelEncoder):
            return encoder
        # An alias may move between the workers' questions.
        resolved = from_first(partial(version_of, encoder.model, tracking_uri))
        version: str = gather_objects(resolved)[0]
        if self._outbox is not None:
            self._outbox.tags({ENCODER_TAG: version})
        return ModelEncoder(model=version)

    def _reached(self, moment: str) -> None:
        if self._outbox is not None:
            self._outbox.reached(moment)

    def file(self, path: str, content: bytes | Path) -> None:
        """Store an artifact of the run: see ``Outbox.file``."""
        if self._outbox is not None:
            self._outbox.file(path, content)

    def progress(self, total: int) -> ImagesDone:
        """Reports progress out of ``total`` images."""
        return ImagesDone(self._outbox, total)

    def extract(self) -> tuple[Features, Features]:
        """Compute the representations of the training and the test images with all workers.

        Every worker calls it once.

        Returns:
            Those of all images on the first worker; of its part on each other.
        """
        count = len(self.train_images)
        progress = self.progress(count + len(self.test_images))
        train = self._extract(
            self.encoder, self.train_images, self.image_size, progress, already_done=0
        )
        return train, self._extract(
            self.encoder, self.test_images, self.test_size, progress, already_done=count
        )

    def features(self) -> tuple[Features, Features]:
        """The encoder's representations of the training and the test images.

        They are computed once: a protocol that uses them does not train the encoder.
        """
        if self._features is None:
            self._features = self.extract()
        train, test = self._features
        self.leave_out(self.train_images, train.corrupt)
        self.leave_out(self.test_images, test.corrupt)
        return train, test

    def outputs_on_test(
        self, network: nn.Module, progress: ImagesDone, already_done: int
    ) -> Features:
        """A network's outputs for the test images."""
        test = self._extract(network, self.test_images, self.test_size, progress, already_done)
        self.leave_out(self.test_images, test.corrupt)
        return test

    def test_labels(self, test: Features) -> Tensor:
        """The labels of the test images, as classes of the training images; -1 for none."""
        if not self.test_images.classes:
            return torch.full_like(test.labels, -1)
        return self._train_classes.to(self.device)[test.labels]

    def several_of_test(self, test: Features) -> Tensor:
        """The labels of test images that have several each, as classes of the training images.

        Returns:
            ``[M, C]`` of 1, 0, or -1 for unknown.

        Raises:
            UserFailure: they have other classes.
        """
        images = self.test_images
        if images.several is None or images.classes != list(self.train_images.classes):
            raise UserFailure("data.test.labels must have the classes of data.train.labels")
        return images.several[test.indices]

    def accuracy(self, name: str, scores: Tensor, test: Features) -> dict[str, float]:
        """The metrics ``<name>/top1`` and ``<name>/top5`` of scores ``[M, C]``."""
        labels = self.test_labels(test)
        return {f"{name}/top{k}": top_k_accuracy(scores, labels, k) for k in (1, 5)}

    def require_one_label(self, protocol: str) -> None:
        """Check that every image has one label.

        Raises:
            UserFailure: ``data.labels`` gives images several.
        """
        if self.train_images.several is not None or self.test_images.several is not None:
            raise UserFailure(
                f"protocol {protocol} needs one label per image: use protocol linear with "
                "data.labels"
            )

    def leave_out(self, images: Images, corrupt: Sequence[int]) -> None:
        """Warn of the images at some indices, which cannot be read, and count them."""
        for warning in unreadable(images, corrupt):
            logger.warning(warning)
        self.corrupt += len(corrupt)

    def _extract(
        self,
        network: nn.Module,
        images: Images,
        image_size: int,
        progress: ImagesDone,
        already_done: int,
    ) -> Features:
        features = extract_together(
            network,
            images,
            image_size,
            self.device,
            self.loaders,
            lambda done: progress.report(already_done + done),
            self.interpolation,
            self.autocast,
        )
        problem = features.problem()
        if problem is not None:
            raise UserFailure(problem)
        return features


class ImagesDone:
    """Reports how many images have been processed, and how fast."""

    def __init__(self, outbox: Outbox | None, total: int) -> None:
        self._outbox = outbox
        self._total = total
        self._started = time.perf_counter()

    def report(self, done: int) -> None:
        """Report that ``done`` images have been processed."""
        if self._outbox is None:
            return
        rate = done / max(time.perf_counter() - self._started, 1e-9)
        self._outbox.progress(
            Progress(
                epoch=0,
                epochs=1,
                step=done,
                steps=self._total,
                images_per_second=rate,
                eta_seconds=(self._total - done) / max(rate, 1e-9),
            )
        )


def require_labels(**sets: Images) -> None:
    """Check that the images of each set have labels.

    Raises:
        UserFailure: those of one have none.
    """
    for name, images in sets.items():
        if not images.classes:
            raise UserFailure(
                f"data.{name}: its images have no labels, which this protocol needs: name other "
                "images, or store the representations by protocol features"
            )
