"""The training loop of VICReg, on one process or as one of several DDP workers."""

from __future__ import annotations

import random
import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vicreg_platform.progress import Progress
from vicreg_platform.specs import PretrainSpec
from vicreg_workers.context import Context, State
from vicreg_workers.failures import Diverged
from vicreg_workers.selfsup import pictures
from vicreg_workers.selfsup.batchnorm import synchronise_batchnorm
from vicreg_workers.selfsup.diagnostics import diagnose
from vicreg_workers.selfsup.distributed import (
    gather_objects,
    mean_over_processes,
    rank,
    world_size,
)
from vicreg_workers.selfsup.images import Images
from vicreg_workers.selfsup.lars import LARS
from vicreg_workers.selfsup.loading import PairBatches
from vicreg_workers.selfsup.losses import VICRegLoss
from vicreg_workers.selfsup.schedules import learning_rate, peak_learning_rate
from vicreg_workers.selfsup.vicreg import VICRegNetwork
from vicreg_workers.selfsup.views import TwoViews

LOG_EVERY = 10
"""Steps between two points of a training curve; between them nothing waits for the device."""
PICTURED_PAIRS = 8


class Pretraining:
    """One worker's part of a pretraining run.

    Args:
        spec: what to train.
        images: all training images; each worker takes its share.
        context: where metrics and checkpoints go, and where the last one comes from.

    Raises:
        UserFailure: the images do not fit the spec.
    """

    def __init__(self, spec: PretrainSpec, images: Images, context: Context) -> None:
        self._spec = spec
        self._images = images
        self._context = context
        device = context.device
        _seed(spec.training.seed)
        self.network = VICRegNetwork(spec.backbone, spec.expander).to(device)
        self._model: nn.Module = self.network
        if world_size() > 1:
            synchronise_batchnorm(self.network, device)
            self._model = DistributedDataParallel(
                self.network, device_ids=[device] if device.type == "cuda" else None
            )
        # Each worker draws its own views.
        _seed(spec.training.seed + rank())
        self._loss = VICRegLoss(
            spec.method.invariance, spec.method.variance, spec.method.covariance
        )
        optimizer = spec.optimizer
        self._peak_lr = peak_learning_rate(optimizer.base_lr, spec.training.batch_size)
        self._optimizer = LARS(
            self.network.parameters(),
            lr=self._peak_lr,
            weight_decay=optimizer.weight_decay,
            momentum=optimizer.momentum,
            eta=optimizer.eta,
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=spec.training.precision == "fp16")
        self._batches = PairBatches(
            images,
            TwoViews(spec.augmentation, spec.data.image_size),
            batch_size=spec.training.batch_size,
            loaders=context.loaders,
            seed=spec.training.seed,
            pin_memory=device.type == "cuda",
        )
        self._steps_per_epoch = len(self._batches)
        self._steps = self._steps_per_epoch * spec.training.epochs
        self._epoch = 0
        self._corrupt: set[int] = set()
        self._skipped: set[int] = set()

    def run(self) -> nn.Module:
        """Train from the last checkpoint, or from the beginning, to the last epoch.

        Returns:
            The backbone, in eval mode.

        Raises:
            Diverged: the loss is not finite, or the embeddings collapsed.
        """
        state = self._context.restore()
        if state is not None:
            self._load(state)
        else:
            self._picture_views()
        while self._epoch < self._spec.training.epochs:
            self._train_epoch()
            self._epoch += 1
            self._report_corrupt_images()
            last = self._epoch == self._spec.training.epochs
            if last or self._epoch % self._spec.checkpoint.every_epochs == 0:
                self._diagnose()
                self._context.save(self._state())
        return self.network.backbone.eval()

    def _train_epoch(self) -> None:
        self._model.train()
        clock = _Throughput(self._spec.training.batch_size)
        for index, (first, second, skipped) in enumerate(self._batches.epoch(self._epoch)):
            self._skipped.update(skipped)
            step = self._epoch * self._steps_per_epoch + index
            terms = self._step(first, second, step)
            clock.tick()
            done = index + 1
            if done % LOG_EVERY == 0 or done == self._steps_per_epoch:
                values = mean_over_processes(terms).tolist()  # waits for the device
                self._log(values, step + 1, clock.images_per_second())

    def _step(self, first: Tensor, second: Tensor, step: int) -> Tensor:
        """One optimiser step; returns the detached terms ``[total, inv, var, cov]``."""
        device = self._context.device
        first = first.to(device, non_blocking=True)
        second = second.to(device, non_blocking=True)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            embeddings = self._model(first, second)
        terms = self._loss(*embeddings)
        self._scaler.scale(terms.total).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return torch.stack([term.detach() for term in terms])

    def _learning_rate(self, step: int) -> float:
        warmup = self._spec.training.warmup_epochs * self._steps_per_epoch
        return learning_rate(step, self._peak_lr, warmup, self._steps)

    def _autocast(self) -> Any:
        precision = self._spec.training.precision
        if precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if precision == "bf16" else torch.float16
        return torch.autocast(self._context.device.type, dtype)

    def _log(self, terms: list[float], step: int, images_per_second: float) -> None:
        total, invariance, variance, covariance = terms
        if not np.isfinite(total):
            raise Diverged(
                f"the loss is {total} at step {step} (invariance {invariance:.4g}, variance "
                f"{variance:.4g}, covariance {covariance:.4g}): lower optimizer.base_lr, or "
                "lengthen training.warmup_epochs"
            )
        self._context.log(
            {
                "train/loss": total,
                "train/invariance": invariance,
                "train/variance": variance,
                "train/covariance": covariance,
                "train/learning_rate": self._learning_rate(step - 1),
                "train/images_per_second": images_per_second,
                "train/epoch": step / self._steps_per_epoch,
            },
            step,
        )
        remaining = (self._steps - step) * self._spec.training.batch_size
        self._context.progress(
            Progress(
                epoch=step // self._steps_per_epoch,
                epochs=self._spec.training.epochs,
                step=step,
                steps=self._steps,
                images_per_second=images_per_second,
                eta_seconds=remaining / images_per_second,
            )
        )

    def _report_corrupt_images(self) -> None:
        """Warn once of each image that any worker had to skip, and count them in the run."""
        everywhere = {index for skipped in gather_objects(self._skipped) for index in skipped}
        if rank() == 0:
            for index in sorted(everywhere - self._corrupt):
                name = self._images.name(index)
                self._context.warn(f"skipped an image that cannot be read: {name}")
        self._corrupt |= everywhere
        self._skipped.clear()
        self._context.log(
            {"data/corrupt_images": float(len(self._corrupt))}, self._epoch * self._steps_per_epoch
        )

    def _picture_views(self) -> None:
        if rank() == 0:
            first, second, _ = next(self._batches.epoch(0))
            self._context.picture(
                "pictures/views.png",
                pictures.view_pairs(first[:PICTURED_PAIRS], second[:PICTURED_PAIRS]),
            )

    def _diagnose(self) -> None:
        """Measure the network on rank 0; every worker hears of it where it is of no more use."""
        problem = self._problem_found() if rank() == 0 else None
        for found in gather_objects(problem):
            if found is not None:
                raise Diverged(found)

    def _problem_found(self) -> str | None:
        size = self._spec.data.image_size
        diagnosis = diagnose(self.network, self._images, size, self._context.device)
        if not diagnosis.finite:
            return (
                f"the network's outputs are not finite after epoch {self._epoch}: lower "
                "optimizer.base_lr, or lengthen training.warmup_epochs"
            )
        self._context.log(diagnosis.metrics(), self._epoch * self._steps_per_epoch)
        self._context.picture(
            f"pictures/embedding_std_epoch_{self._epoch:05d}.png",
            pictures.std_histogram(diagnosis.embedding_std, self._epoch),
        )
        # Without a variance term, collapse is what was asked for.
        if diagnosis.collapsed and self._spec.method.variance > 0:
            return (
                f"the embeddings collapsed to a point by epoch {self._epoch}: lower "
                "optimizer.base_lr, or raise method.variance"
            )
        return None

    def _state(self) -> State:
        return State(
            epoch=self._epoch,
            shared={
                "network": self.network.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
                "corrupt": sorted(self._corrupt),
            },
            own=_random_state(self._context.device),
        )

    def _load(self, state: State) -> None:
        self.network.load_state_dict(state.shared["network"])
        self._optimizer.load_state_dict(state.shared["optimizer"])
        self._scaler.load_state_dict(state.shared["scaler"])
        self._corrupt = set(state.shared["corrupt"])
        self._epoch = state.epoch
        _restore_random_state(state.own)


class _Throughput:
    """Images a second since the last reading."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._since = time.perf_counter()
        self._steps = 0

    def tick(self) -> None:
        self._steps += 1

    def images_per_second(self) -> float:
        now = time.perf_counter()
        rate = self._steps * self._batch_size / max(now - self._since, 1e-9)
        self._since, self._steps = now, 0
        return rate


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _random_state(device: torch.device) -> dict[str, Any]:
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _restore_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy(), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
