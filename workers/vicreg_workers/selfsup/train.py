"""The training loop, on one process or as one of several DDP workers; the same for all methods."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vicreg_platform.specs import PretrainSpec
from vicreg_workers.selfsup.context import Context, State, TrainingProgress
from vicreg_workers.selfsup.data.sources import Images
from vicreg_workers.selfsup.data.training_batches import Batch, ViewBatches
from vicreg_workers.selfsup.distributed import (
    any_over_processes,
    gather_objects,
    mean_over_processes,
    rank,
    world_size,
)
from vicreg_workers.selfsup.errors import Diverged, Stopped
from vicreg_workers.selfsup.loss.methods import Losses, Objective
from vicreg_workers.selfsup.model.compile import Compiled
from vicreg_workers.selfsup.model.network import JointEmbedding, momentum_at
from vicreg_workers.selfsup.model.small_convolution import multiply_small_maps
from vicreg_workers.selfsup.model.sync_batchnorm import synchronise_batchnorm
from vicreg_workers.selfsup.monitor import plots
from vicreg_workers.selfsup.monitor.divergence import CollapseWatch, FiniteWatch, spread
from vicreg_workers.selfsup.monitor.representation import Diagnostics
from vicreg_workers.selfsup.optim.learning_rate import learning_rate, peak_learning_rate
from vicreg_workers.selfsup.optim.optimizers import build_optimizer

LOG_EVERY = 10
"""Steps between two points of a training curve; on a GPU nothing waits for it between them."""
PICTURED_PAIRS = 8


class Pretraining:
    """One worker's part of a pretraining run.

    Args:
        spec: what to train.
        images: all training images; each worker takes its share.
        context: where metrics and checkpoints go, and where the last one comes from.

    Raises:
        InvalidInput: the images do not fit the spec.
    """

    def __init__(self, spec: PretrainSpec, images: Images, context: Context) -> None:
        self._spec = spec
        self._images = images
        self._context = context
        device = context.device
        torch.manual_seed(spec.training.seed)
        self.network = JointEmbedding(spec).to(device)
        if device.type == "cuda":
            self.network = self.network.to(memory_format=torch.channels_last)
        else:
            # On CPUs the views' layout is enough, and plain weights' gradients need no copy.
            multiply_small_maps(self.network)
        model: nn.Module = self.network
        if world_size() > 1:
            synchronise_batchnorm(self.network, device)
            model = DistributedDataParallel(
                self.network, device_ids=[device] if device.type == "cuda" else None
            )
        self._call = Compiled(model, context.warn) if spec.training.compile else model
        # Whatever a layer draws, each worker draws its own.
        torch.manual_seed(spec.training.seed + rank())
        self._objective = Objective(spec.method, spec.expander.normalization)
        self._parameters = [p for p in self.network.parameters() if p.requires_grad]
        self._peak_lr = peak_learning_rate(spec.optimizer.base_lr, spec.training.batch_size)
        self._optimizer = build_optimizer(spec.optimizer, self._parameters, self._peak_lr)
        self._scaler = torch.amp.GradScaler(device.type, enabled=spec.training.precision == "fp16")
        self._batches = ViewBatches(
            images,
            spec.augmentation,
            views=2,
            image_size=spec.data.image_size,
            batch_size=spec.training.batch_size,
            seed=spec.training.seed,
            device=device,
            loaders=context.loaders,
        )
        self._diagnostics = Diagnostics(
            images,
            spec.data.image_size,
            device,
            context.loaders,
            self._autocast,
            spec.training.epochs,
        )
        self._finite = FiniteWatch(self._objective.terms, device)
        self._collapse = CollapseWatch(spec.watch.collapse_std, spec.watch.collapse_steps)
        self._steps_per_epoch = len(self._batches)
        self._steps = self._steps_per_epoch * spec.training.epochs
        self._step = 0
        self._epochs_ended = 0
        self._corrupt: set[int] = set()
        self._skipped: set[int] = set()

    def run(self) -> nn.Module:
        """Train from the last checkpoint, or from the beginning, to the last step.

        Returns:
            The backbone, in eval mode.

        Raises:
            Diverged: the loss is not finite, or the embeddings collapsed.
            Stopped: the context asked for it; the state is saved.
        """
        state = self._context.restore()
        if state is not None:
            self._load(state)
        else:
            self._picture_views()
        while self._epochs_ended < self._spec.training.epochs:
            epoch = self._epochs_ended
            self._train_epoch(epoch, self._step - epoch * self._steps_per_epoch)
            self._end_epoch(epoch + 1)
        backbone: nn.Module = self.network.backbone
        return backbone.eval()

    def _end_epoch(self, epoch: int) -> None:
        self._report_corrupt_images()
        self._diagnose(epoch)
        self._epochs_ended = epoch
        if self._due(epoch, self._spec.checkpoint.every_epochs):
            self._save()
        self._context.epoch_ended(epoch, self._spec.training.epochs)

    def _train_epoch(self, epoch: int, start: int) -> None:
        self.network.train()
        clock = _Throughput(self._spec.training.batch_size)
        for batch in self._batches.epoch(epoch, start):
            self._skipped.update(batch.skipped)
            losses, gradient_norm = self._train_step(batch)
            clock.tick()
            logs = self._step % LOG_EVERY == 0 or self._step % self._steps_per_epoch == 0
            if logs or self._context.device.type == "cpu":
                self._look(losses)
            if logs:
                self._log(losses, gradient_norm, clock.images_per_second())

    def _train_step(self, batch: Batch) -> tuple[Losses, Tensor]:
        """One optimiser step; nothing in it waits for the device."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(self._step)
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            embeddings = self._call(*batch.views)
        losses = self._objective(*embeddings)
        terms = torch.stack([term.detach() for term in losses.terms.values()])
        scaled: Tensor = self._scaler.scale(losses.terms["loss"])
        scaled.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._scaler.is_enabled():
            # Gradients that overflow are the scaler's: it skips the step and lowers the scale.
            self._finite.note(self._step + 1, terms, torch.zeros_like(norm))
            norm = norm / self._scaler.scale(torch.ones_like(norm))
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            self._optimizer.found_inf = self._finite.note(  # type: ignore[attr-defined]
                self._step + 1, terms, norm
            )
            self._optimizer.step()
        self._move_branch()
        self._step += 1
        return losses, norm

    @torch.no_grad()
    def _move_branch(self) -> None:
        moving, followed = self.network.momentum_pairs()
        if moving:
            momentum = momentum_at(self._step, self._steps, self._spec.branches.momentum)
            torch._foreach_lerp_(moving, followed, 1 - momentum)

    def _learning_rate(self, step: int) -> float:
        warmup = self._spec.training.warmup_epochs * self._steps_per_epoch
        return learning_rate(step, self._peak_lr, warmup, self._steps)

    def _autocast(self) -> Any:
        precision = self._spec.training.precision
        if precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if precision == "bf16" else torch.float16
        return torch.autocast(self._context.device.type, dtype)

    def _look(self, losses: Losses) -> None:
        """End the run where it makes no more sense, or where it is asked to. Waits."""
        problem = self._finite.problem() or self._collapse.note(
            self._step, float(losses.std.mean())
        )
        broken, stopping = any_over_processes([problem is not None, self._context.stopping()])
        if broken:
            raise Diverged(next(text for text in gather_objects(problem) if text is not None))
        if stopping:
            self._save()
            raise Stopped(f"asked to end: the state after step {self._step} is saved")

    def _log(self, losses: Losses, gradient_norm: Tensor, images_per_second: float) -> None:
        terms = torch.stack([term.detach() for term in losses.terms.values()])
        values = mean_over_processes(terms).tolist()
        metrics = dict(zip(losses.terms, values, strict=True)) | {
            "learning_rate": self._learning_rate(self._step - 1),
            "gradient_norm": float(gradient_norm),
            "images_per_second": images_per_second,
            "epoch": self._step / self._steps_per_epoch,
        }
        self._context.log(
            {f"train/{name}": value for name, value in metrics.items()} | spread(losses.std),
            self._step,
        )
        remaining = (self._steps - self._step) * self._spec.training.batch_size
        self._context.progress(
            TrainingProgress(
                epoch=self._step // self._steps_per_epoch,
                epochs=self._spec.training.epochs,
                step=self._step,
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
        self._context.log({"data/corrupt_images": float(len(self._corrupt))}, self._step)

    def _picture_views(self) -> None:
        if rank() == 0:
            first, second = next(self._batches.epoch(0)).views
            self._context.figure(
                "pictures/views.png",
                plots.view_pairs(
                    first[:PICTURED_PAIRS].cpu().contiguous(),
                    second[:PICTURED_PAIRS].cpu().contiguous(),
                ),
            )

    def _due(self, epoch: int, every: int) -> bool:
        """Whether what is done every so many epochs (0: never) is done after this one."""
        return every > 0 and (epoch % every == 0 or epoch == self._spec.training.epochs)

    def _diagnose(self, epoch: int) -> None:
        """Measure the network on rank 0; every worker hears of it where it is of no more use."""
        every = self._spec.watch.knn_every_epochs
        usual = self._diagnostics.every_epochs
        neighbours = self._due(epoch, usual if every is None else every)
        if not (neighbours or self._due(epoch, usual)):
            return
        problem = self._problem_found(epoch, neighbours) if rank() == 0 else None
        for found in gather_objects(problem):
            if found is not None:
                raise Diverged(found)

    def _problem_found(self, epoch: int, neighbours: bool) -> str | None:
        diagnosis = self._diagnostics.of(self.network, neighbours)
        if not diagnosis.finite:
            return (
                f"the network's outputs are not finite after epoch {epoch}: lower "
                "optimizer.base_lr, or lengthen training.warmup_epochs"
            )
        self._context.log(diagnosis.metrics(), self._step)
        self._context.figure(
            f"pictures/embedding_std_epoch_{epoch:05d}.png",
            plots.std_histogram(diagnosis.embedding_std, epoch),
        )
        return None

    def _save(self) -> None:
        """Save the state, unless that would replace a good one by one of no use."""
        values = [each for each in self.network.state_dict().values() if each.is_floating_point()]
        sizes = torch.stack(torch._foreach_norm(values, torch.inf))
        if any_over_processes([not bool(sizes.isfinite().all())])[0]:
            raise Diverged(
                f"a weight is not finite after step {self._step}, and the state before it is kept: "
                "lower optimizer.base_lr, or lengthen training.warmup_epochs"
            )
        self._context.save(self._state())

    def _state(self) -> State:
        device = self._context.device
        own: dict[str, Any] = {"torch": torch.get_rng_state(), "skipped": sorted(self._skipped)}
        if device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(device)
        return State(
            step=self._step,
            shared={
                "network": self.network.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
                "corrupt": sorted(self._corrupt),
                "low_since": self._collapse.low_since,
                # One less than trained, where a stop came before the last was measured.
                "epochs_ended": self._epochs_ended,
            },
            own=own,
            workers=world_size(),
        )

    def _load(self, state: State) -> None:
        self.network.load_state_dict(state.shared["network"])
        self._optimizer.load_state_dict(state.shared["optimizer"])
        self._scaler.load_state_dict(state.shared["scaler"])
        self._collapse.low_since = state.shared["low_since"]
        self._corrupt = set(state.shared["corrupt"])
        self._skipped = set(state.own["skipped"])
        self._step = state.step
        # States of 0.2.0 do not say.
        trained = self._step // self._steps_per_epoch
        self._epochs_ended = state.shared.get("epochs_ended", trained)
        torch.set_rng_state(state.own["torch"])
        if "cuda" in state.own:
            torch.cuda.set_rng_state(state.own["cuda"], self._context.device)
        if state.workers != world_size():
            self._context.warn(
                f"the checkpoint was made by {state.workers} workers, and the run goes on with "
                f"{world_size()}: images, views and batches stay the same; sums are rounded in "
                "another order, and layers that draw at random draw otherwise"
            )


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
