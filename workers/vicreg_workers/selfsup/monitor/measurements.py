"""Decides after which epochs to measure the network, and records the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from vicreg_platform.specs import PretrainSpec
from vicreg_workers.selfsup.context import Context
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.distributed import gather_objects, rank
from vicreg_workers.selfsup.errors import Diverged
from vicreg_workers.selfsup.evaluation.features import Features
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.selfsup.model.network import JointEmbedding
from vicreg_workers.selfsup.monitor import plots
from vicreg_workers.selfsup.monitor.final_pictures import embedding_map, neighbours_of
from vicreg_workers.selfsup.monitor.health import Health
from vicreg_workers.selfsup.monitor.probe import Labelled, Probe
from vicreg_workers.selfsup.monitor.representation import Diagnostics
from vicreg_workers.selfsup.monitor.spectrum import fitted_line
from vicreg_workers.selfsup.monitor.start import StartWatch
from vicreg_workers.selfsup.random_state import RandomState
from vicreg_workers.selfsup.step_counter import StepCounter


class Measurements:
    """Measures the representation on rank 0 every few epochs.

    Args:
        spec: what is trained.
        images: the training images.
        context: where metrics and figures go.
        autocast: makes the precision context that the network is trained in.
        labelled: whose nearest neighbours are measured instead of the training images'.
        health: judges what is measured.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        images: Images,
        context: Context,
        autocast: Callable[[], AbstractContextManager[object]],
        labelled: Labelled | None,
        health: Health,
    ) -> None:
        self._context = context
        self._health = health
        self._spec = spec
        self._random = RandomState(context.device)
        self._diagnostics = Diagnostics(
            images,
            spec.data.image_size,
            context.device,
            context.loaders,
            autocast,
            spec.training.epochs,
            spec.augmentation,
        )
        self._probe = (
            None if labelled is None else Probe(labelled, context.device, context.loaders, autocast)
        )
        self._start = StartWatch(spec.watch.patience, from_weights=spec.init is not None)
        asked = spec.watch.knn_every_epochs
        self._knn_every = self._diagnostics.every_epochs if asked is None else asked

    def at_start(self, network: JointEmbedding, progress: StepCounter) -> None:
        """Measure the weights that the network starts from. Every worker calls it.

        Raises:
            Diverged: on every worker, if the network's outputs are not finite.
        """
        self._begin(self._measured(network, progress, neighbours=True, views=False))

    def after_epoch(self, network: JointEmbedding, progress: StepCounter) -> None:
        """Measure the network if it is due after this epoch. Every worker calls it.

        Raises:
            Diverged: on every worker, if the network's outputs are not finite.
        """
        neighbours = progress.every_epochs(self._knn_every)
        if not (neighbours or progress.every_epochs(self._diagnostics.every_epochs)):
            return
        if neighbours and self._spec.init is None and not self._start.begun:
            # Not before the first step, which would wait for it.
            metrics = gather_objects(self._untrained() if rank() == 0 else None)[0]
            self._begin(metrics)
        views = progress.every_epochs(self._diagnostics.lidar_every_epochs)
        metrics = self._measured(network, progress, neighbours, views)
        self._health.note(progress.step, metrics)
        if "knn/top1" in metrics:
            text = self._start.note(progress.step, metrics["knn/top1"])
            self._context.finding(self._start.name, text)

    def _begin(self, metrics: Mapping[str, float]) -> None:
        if "knn/top1" in metrics:
            self._start.begin(metrics["knn/top1"], int(metrics["knn/queries"]))

    def state_dict(self) -> dict[str, Any]:
        """What was measured at the start, and since when it is worse."""
        return self._start.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._start.load_state_dict(state)

    def _measured(
        self, network: JointEmbedding, progress: StepCounter, neighbours: bool, views: bool
    ) -> dict[str, float]:
        """Measure the network on rank 0; return its metrics on every worker.

        Raises:
            Diverged: on every worker, if the network's outputs are not finite.
        """
        found = self._measure(network, progress, neighbours, views) if rank() == 0 else None
        metrics, problem = gather_objects(found)[0]
        if problem is not None:
            raise Diverged(problem)
        return metrics  # type: ignore[no-any-return]

    def _measure(
        self, network: JointEmbedding, progress: StepCounter, neighbours: bool, views: bool
    ) -> tuple[dict[str, float], str | None]:
        """Measure the network and record the results.

        Returns:
            The metrics, with ``knn/queries`` beside the accuracy, and the problem if the network
            has diverged.
        """
        epoch = progress.step // progress.steps_per_epoch
        diagnosis = self._diagnostics.of(network, neighbours and self._probe is None, views)
        if not diagnosis.finite:
            return {}, (
                f"the network's outputs are not finite after epoch {epoch}: lower "
                "optimizer.base_lr, or lengthen training.warmup_epochs"
            )
        metrics = diagnosis.metrics()
        queries = diagnosis.knn_queries
        if neighbours and self._probe is not None:
            metrics["knn/top1"], queries = self._probe.top1(network.backbone), self._probe.queries
        self._context.metrics(metrics, progress.step)
        self._context.figure(
            f"pictures/embedding_std_epoch_{epoch:05d}.png",
            plots.std_histogram(diagnosis.embedding_std, epoch),
        )
        line = fitted_line(diagnosis.eigenvalues, len(diagnosis.sample.labels))
        self._context.figure(
            f"pictures/spectrum_epoch_{epoch:05d}.png",
            plots.spectrum(diagnosis.eigenvalues, line, epoch),
        )
        if progress.step == progress.steps:
            self._draw_final(diagnosis.sample)
        return metrics | {"knn/queries": float(queries)}, None

    def _draw_final(self, sample: Features) -> None:
        """Draw nearest neighbours and a map of the representations."""
        images, z = self._diagnostics.images, sample.representations
        found = neighbours_of(z, sample.indices.tolist(), images, self._spec.data.image_size)
        self._context.figure("pictures/neighbours.png", plots.neighbours(found))
        classes = images.classes if images.several is None else ()
        placed = embedding_map(z)
        if placed.problem is not None:
            self._context.warn(f"the map of the representations is by PCA: {placed.problem}")
        self._context.figure(
            "pictures/embedding_map.png",
            plots.embedding_map(placed, sample.labels.tolist(), classes),
        )

    def _untrained(self) -> dict[str, float]:
        """Record the accuracy of nearest neighbours by the random weights that it began with.

        Empty if the images have no classes.
        """
        state = self._random.state_dict()
        torch.manual_seed(self._spec.training.seed)
        backbone = build_backbone(self._spec.backbone, self._spec.data.image_size).to(
            self._context.device
        )
        self._random.load_state_dict(state)
        if self._probe is not None:
            self._diagnostics.calibrate(backbone)
            found: float | None = self._probe.top1(backbone)
            queries = self._probe.queries
        else:
            found, queries = self._diagnostics.untrained(backbone)
        if found is None:
            return {}
        self._context.metrics({"knn/top1": found}, 0)
        return {"knn/top1": found, "knn/queries": float(queries)}
