"""Decides after which epochs to measure the network, and records the results."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from vicreg_platform.specs import PretrainSpec
from vicreg_workers.selfsup.context import Context
from vicreg_workers.selfsup.data.sources import Images
from vicreg_workers.selfsup.distributed import gather_objects, rank
from vicreg_workers.selfsup.errors import Diverged
from vicreg_workers.selfsup.model.network import JointEmbedding
from vicreg_workers.selfsup.monitor import plots
from vicreg_workers.selfsup.monitor.representation import Diagnostics
from vicreg_workers.selfsup.step_counter import StepCounter


class Measurements:
    """Measures the representation on rank 0 every few epochs.

    Args:
        spec: what is trained.
        images: the training images.
        context: where metrics and figures go.
        autocast: makes the precision context that the network is trained in.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        images: Images,
        context: Context,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._context = context
        self._diagnostics = Diagnostics(
            images,
            spec.data.image_size,
            context.device,
            context.loaders,
            autocast,
            spec.training.epochs,
        )
        asked = spec.watch.knn_every_epochs
        self._knn_every = self._diagnostics.every_epochs if asked is None else asked

    def after_epoch(self, network: JointEmbedding, progress: StepCounter) -> None:
        """Measure the network if it is due after this epoch. Every worker calls it.

        Raises:
            Diverged: on every worker, if the network's outputs are not finite.
        """
        neighbours = progress.every_epochs(self._knn_every)
        if not (neighbours or progress.every_epochs(self._diagnostics.every_epochs)):
            return
        problem = self._measure(network, progress, neighbours) if rank() == 0 else None
        for found in gather_objects(problem):
            if found is not None:
                raise Diverged(found)

    def _measure(
        self, network: JointEmbedding, progress: StepCounter, neighbours: bool
    ) -> str | None:
        """Measure the network and record the results; return the problem if it has diverged."""
        epoch = progress.step // progress.steps_per_epoch
        diagnosis = self._diagnostics.of(network, neighbours)
        if not diagnosis.finite:
            return (
                f"the network's outputs are not finite after epoch {epoch}: lower "
                "optimizer.base_lr, or lengthen training.warmup_epochs"
            )
        self._context.metrics(diagnosis.metrics(), progress.step)
        self._context.figure(
            f"pictures/embedding_std_epoch_{epoch:05d}.png",
            plots.std_histogram(diagnosis.embedding_std, epoch),
        )
        return None
