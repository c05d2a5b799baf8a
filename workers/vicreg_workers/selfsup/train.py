"""The training loop, in one process or as one of several DDP workers. All methods share it."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vicreg_platform.specs import PretrainSpec, VICRegL
from vicreg_workers.selfsup.accumulation import Accumulation
from vicreg_workers.selfsup.capture import Capture, environment
from vicreg_workers.selfsup.context import Context, State
from vicreg_workers.selfsup.data.corrupt_images import CorruptImages
from vicreg_workers.selfsup.data.fingerprint import Fingerprint
from vicreg_workers.selfsup.data.images import Images, unreadable
from vicreg_workers.selfsup.data.training_batches import Batch, ViewBatches
from vicreg_workers.selfsup.distributed import (
    agreed,
    any_over_processes,
    from_first,
    gather,
    gather_objects,
    mean_over_processes,
    rank,
    room_for,
    take_from_first,
    world_size,
)
from vicreg_workers.selfsup.errors import Diverged, Stopped
from vicreg_workers.selfsup.loss.methods import Losses, MethodLoss
from vicreg_workers.selfsup.model.blocks import learning_factors, undecayed
from vicreg_workers.selfsup.model.checkpoint import checkpoint_activations
from vicreg_workers.selfsup.model.compile import Forward, compiled_or_plain
from vicreg_workers.selfsup.model.network import JointEmbedding, build_network
from vicreg_workers.selfsup.model.precision import autocast
from vicreg_workers.selfsup.model.sync_batchnorm import has_batchnorm, synchronise_batchnorm
from vicreg_workers.selfsup.monitor import plots
from vicreg_workers.selfsup.monitor.divergence import CollapseWatch, NotFinite, spread
from vicreg_workers.selfsup.monitor.health import Health
from vicreg_workers.selfsup.monitor.measurements import Measurements
from vicreg_workers.selfsup.monitor.probe import Labelled
from vicreg_workers.selfsup.parameter_update import ParameterUpdate
from vicreg_workers.selfsup.random_state import RandomState
from vicreg_workers.selfsup.save_schedule import SaveSchedule
from vicreg_workers.selfsup.step_counter import StepCounter

RECORD_EVERY = 10
"""Steps between two points of a training curve. In between, nothing waits for a GPU."""
PLOTTED_PAIRS = 8


class Pretraining:
    """One worker's part of a pretraining.

    Args:
        spec: what to train.
        images: all training images; each worker takes its share.
        context: where metrics and checkpoints go, and where the last checkpoint comes from.
        labelled: the images of ``watch.probe``.
        initialise: loads the weights of ``init`` into a backbone. Called on the first worker.

    Raises:
        InvalidInput: the images do not fit the spec.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        images: Images,
        context: Context,
        labelled: Labelled | None = None,
        initialise: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self._spec = spec
        self._images = images
        self._context = context
        self._initialise = initialise
        self._autocast = partial(autocast, spec.training.precision, context.device)
        torch.manual_seed(spec.training.seed)
        self.network = _prepared_network(spec, context)
        # From here on, layers that draw at random draw differently on each worker.
        torch.manual_seed(spec.training.seed + rank())
        self.loss = MethodLoss(
            spec.method, spec.expander.normalization, local=spec.augmentation.views.local > 0
        )
        self.batches = ViewBatches(
            images,
            spec.augmentation,
            views=spec.augmentation.views.global_,
            image_size=spec.data.image_size,
            batch_size=spec.training.batch_size,
            seed=spec.training.seed,
            epochs=spec.training.epochs,
            device=context.device,
            loaders=context.loaders,
            hold=spec.data.hold,
            sizes=spec.training.sizes,
        )
        self.progress = StepCounter(
            len(self.batches), spec.training.epochs, spec.training.batch_size
        )
        self.update = ParameterUpdate(
            spec,
            self.network.parameters(),
            self.loss.terms,
            self.progress.steps_per_epoch,
            context.device,
            factors=learning_factors(self.network.backbone, spec.optimizer.layer_decay)
            if spec.optimizer.layer_decay < 1
            else None,
            undecayed=undecayed(self.network.backbone),
        )
        self._health = Health(spec, self.progress.steps, context.finding)
        self._measurements = Measurements(
            spec, images, context, self._autocast, labelled, self._health
        )
        self._collapse = CollapseWatch(spec.watch.collapse_std, spec.watch.collapse_steps)
        self._fingerprint = Fingerprint(images)
        self._corrupt = CorruptImages()
        self._random = RandomState(context.device)
        # Taken without waiting for the device: of a GPU's generator, the host holds the state.
        self._random_before: deque[dict[str, Any]] = deque(maxlen=RECORD_EVERY)
        self.forward: Forward
        self._accumulation: Accumulation | None = None
        self._prepare(frozen=spec.training.freeze_epochs > 0)
        self._schedule = SaveSchedule(spec.checkpoint)
        self._stepped = False
        context.reached("network_built")

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
        elif self._initialise is not None:
            self._start_from(self._initialise)
            self._measurements.at_start(self.network, self.progress)
        while self.progress.epochs_ended < self.progress.epochs:
            self._train_epoch()
            self._end_epoch()
        self._context.finish_saving()
        backbone: nn.Module = self.network.backbone
        return backbone.eval()

    def step(self, batch: Batch) -> tuple[Losses, Tensor]:
        """Train on one batch. Nothing in it waits for the device.

        Returns:
            The losses, and the norm of the gradient (a scalar).
        """
        if self._accumulation is None:
            with self._autocast():
                embeddings = self.forward(*batch.views)
            losses = self.loss(*embeddings, boxes=self._boxes(batch))
            gradient_norm = self.update.step(self.progress.step, losses.terms)
        else:
            embeddings = self._accumulation.embeddings(batch.views)
            losses = self.loss(*embeddings, boxes=self._boxes(batch))
            gradient_norm = self.update.step(
                self.progress.step, losses.terms, self._accumulation.backward
            )
        self.network.move_branch(self.progress.step, self.progress.steps, self.update.found_inf())
        self.progress.step_done()
        return losses, gradient_norm

    def _boxes(self, batch: Batch) -> Tensor | None:
        """What the views show, if the loss needs it; otherwise nothing is copied."""
        if not isinstance(self._spec.method, VICRegL):
            return None
        return batch.boxes.to(self._context.device, non_blocking=True)

    def check(self, losses: Losses) -> bool:
        """End the training if it has diverged. Waits for the device.

        Every worker calls it after the same step, with the losses of that step.

        Returns:
            Whether the context of any worker asks to stop.

        Raises:
            Diverged: on every worker, if any has found a problem.
        """
        step = self.progress.step
        problem = self.update.problem() or self._collapse.note(step, float(losses.std.mean()))
        diverged, stopping = any_over_processes([problem is not None, self._context.stopping()])
        if diverged:
            first = next(each for each in gather_objects(problem) if each is not None)
            kept = None
            if isinstance(first, NotFinite):
                kept = self._context.capture(partial(self._capture, first))
            raise Diverged(str(first) if kept is None else f"{first}; {kept}")
        return stopping

    def _capture(self, problem: NotFinite) -> Capture | None:
        """What repeats a step of the last ``RECORD_EVERY``. Every worker calls it.

        Returns:
            None on all workers but the first.

        Raises:
            Exception: on every worker, if any cannot make its part.
        """
        batch = self._remade(problem.step - 1)
        boxes = self._boxes(batch)
        parts = [*batch.views, *([] if boxes is None else [boxes])]
        whole = []
        for part in parts:
            # A worker that has no memory left must not leave the others waiting for its part.
            everywhere = gather(part, agreed(partial(room_for, part)))
            whole.append(agreed(partial(everywhere.to, "cpu" if rank() == 0 else None)))
        if rank() != 0:
            return None
        return Capture(
            spec=self._spec,
            step=problem.step,
            values=problem.values,
            workers=world_size(),
            device=self._context.device.type,
            environment=environment(self._context.device),
            frozen=self.network.frozen,
            network=self.network.state_dict(),
            views=tuple(whole[: len(batch.views)]),
            boxes=None if boxes is None else whole[-1],
            random=self._random_before[problem.step - 1 - self.progress.step],
        )

    def _remade(self, step: int) -> Batch:
        """The batch of a step, from 0, in this process: it depends on nothing that has changed."""
        place = divmod(step, self.progress.steps_per_epoch)
        return agreed(lambda: next(self.batches.epoch(*place)))

    def _start_from(self, initialise: Callable[[nn.Module], None]) -> None:
        """Give the backbones on every worker the weights of ``init``."""
        backbone = self.network.backbone
        from_first(lambda: initialise(backbone))
        take_from_first(backbone.state_dict().values())
        self.network.share_start()

    def _prepare(self, frozen: bool) -> None:
        """Freeze or thaw the backbones, and make the forward pass that trains the rest."""
        spec, device = self._spec, self._context.device
        self.network.freeze(frozen)
        model = _parallel(self.network, device)
        self.forward = model
        self.network.train()
        if spec.training.compile:
            self.forward = compiled_or_plain(
                model, self._rehearse, len(self.batches.sides), device, self._context.warn
            )
        if spec.training.accumulate > 1:
            self._accumulation = Accumulation(
                model, self.forward, self._autocast, self._random, spec.training.accumulate
            )

    def _rehearse(self, forward: Forward) -> None:
        """Pass blank views forward and backward through the network, which stays as it is.

        They have every size that the views of the training have.
        """
        training = self._spec.training
        count = training.batch_size // world_size() // training.accumulate
        before = {name: value.clone() for name, value in self.network.named_buffers()}
        random = self._random.state_dict()
        for sides in self.batches.sides:
            shapes = [(count, 3, side, side) for side in sides]
            blank = (torch.zeros(shape, device=self._context.device) for shape in shapes)
            views = (view.contiguous(memory_format=torch.channels_last) for view in blank)
            with self._autocast():
                embeddings = forward(*views)
            whole = torch.tensor([0, 0, 1, 1, 0], device=self._context.device)
            boxes = whole.expand(count, len(sides), -1)
            self.loss(*embeddings, boxes=boxes).terms["loss"].backward()  # type: ignore[no-untyped-call]
            self.network.zero_grad(set_to_none=True)
        self._random.load_state_dict(random)
        with torch.no_grad():
            for name, value in self.network.named_buffers():
                value.copy_(before[name])

    def _train_epoch(self) -> None:
        frozen = self.progress.epochs_ended < self._spec.training.freeze_epochs
        if frozen != self.network.frozen:
            # What was made before must be gone: it would act on the new gradients too.
            self._accumulation = None
            self.forward = self.network
            gc.collect()
            self._prepare(frozen)
        self.network.train()
        self.progress.restart_clock()
        batches = self.batches.epoch(self.progress.epochs_ended, self.progress.steps_into_epoch())
        for batch in batches:
            if self.progress.step == 0 and rank() == 0:
                self._plot(batch.views)
            self._corrupt.skipped(batch.skipped)
            self._random_before.append(self._random.state_dict())
            losses, gradient_norm = self.step(batch)
            if not self._stepped:
                self._stepped = True
                self._context.reached("first_step")
                # Not sooner: the optimiser has its momentum from the first step on.
                self._context.will_save(self._state())
            logs = self.progress.every_steps(RECORD_EVERY)
            stopping = False
            if logs or self._context.device.type == "cpu":
                stopping = self.check(losses)
            if logs:
                self._record(losses, gradient_norm)
            # After the step is recorded: the run resumes at the next one.
            if stopping:
                self._save()
                self._context.finish_saving()
                raise Stopped(f"asked to stop: the state after step {self.progress.step} is saved")

    def _end_epoch(self) -> None:
        if self.progress.step == self.progress.steps:
            self._context.reached("last_step")
        self._report_corrupt_images()
        self._measurements.after_epoch(self.network, self.progress)
        self.progress.epochs_ended += 1
        # Before the state is saved: a run that resumes from it does not come here again.
        if self.progress.epochs_ended in self._spec.kept_epochs:
            self._context.keep_encoder(
                self.network.backbone, self.progress.epochs_ended, self.progress.step
            )
        if self._schedule.is_due(self.progress):
            self._save()
        self._context.epoch_ended(self.progress.epochs_ended, self.progress.epochs)

    def _record(self, losses: Losses, gradient_norm: Tensor) -> None:
        terms = torch.stack([term.detach() for term in losses.terms.values()])
        values = mean_over_processes(terms).tolist()
        progress = self.progress.read()
        metrics = dict(zip(losses.terms, values, strict=True)) | {
            "learning_rate": self.update.learning_rate(progress.step - 1),
            "gradient_norm": float(gradient_norm),
            "images_per_second": progress.images_per_second,
            "epoch": progress.step / self.progress.steps_per_epoch,
        }
        named = {f"train/{name}": value for name, value in metrics.items()} | spread(losses.std)
        self._context.metrics(named, progress.step)
        self._health.note(progress.step, named)
        self._context.progress(progress)

    def _report_corrupt_images(self) -> None:
        """Warn once of each image that any worker had to skip, and record their number."""
        new = self._corrupt.gather()
        if rank() == 0:
            for warning in unreadable(self._images, new):
                self._context.warn(warning)
        self._context.metrics(
            {"data/corrupt_images": float(len(self._corrupt))}, self.progress.step
        )

    def _plot(self, views: tuple[Tensor, ...]) -> None:
        first, second = (view[:PLOTTED_PAIRS].cpu().contiguous() for view in views[:2])
        self._context.figure("pictures/views.png", plots.view_pairs(first, second))

    def _save(self) -> None:
        """Save the state, unless a weight is not finite: the checkpoint before it is then kept."""
        values = [each for each in self.network.state_dict().values() if each.is_floating_point()]
        sizes = torch.stack(torch._foreach_norm(values, torch.inf))
        if any_over_processes([not bool(sizes.isfinite().all())])[0]:
            raise Diverged(
                f"a weight is not finite after step {self.progress.step}, and the checkpoint "
                "before it is kept: lower optimizer.base_lr, or lengthen training.warmup_epochs"
            )
        self._context.save(self._state())
        self._schedule.saved()

    def _state(self) -> State:
        shared: dict[str, Any] = {"network": self.network.state_dict()}
        for part in (
            self._fingerprint,
            self.update,
            self._corrupt,
            self._collapse,
            self._measurements,
            self._health,
            self.progress,
        ):
            shared |= part.state_dict()
        own = self._random.state_dict() | self._corrupt.own_state_dict()
        return State(shared.pop("step"), shared, own, world_size())

    def _load(self, state: State) -> None:
        content = {"step": state.step} | state.shared | state.own
        self._fingerprint.load_state_dict(content)
        self.network.load_state_dict(content["network"])
        for part in (
            self.update,
            self._corrupt,
            self._collapse,
            self._measurements,
            self._health,
            self.progress,
            self._random,
        ):
            part.load_state_dict(content)
        if state.workers != world_size():
            self._context.warn(
                f"the checkpoint was saved by {state.workers} workers, and the run resumes with "
                f"{world_size()}: images, views and batches stay the same, but sums are rounded "
                "in another order, and layers that draw at random draw other values"
            )


def _prepared_network(spec: PretrainSpec, context: Context) -> JointEmbedding:
    network = build_network(spec, context.device)
    if spec.training.checkpoint_activations:
        for backbone in network.learning_backbones():
            checkpoint_activations(backbone)
    if world_size() > 1:
        if not has_batchnorm(network.backbone):
            context.warn(
                f"{spec.backbone.name} has no BatchNorm: only that of the expander, if it has "
                "one, is synchronised over the workers"
            )
        synchronise_batchnorm(network)
    return network


def _parallel(network: JointEmbedding, device: torch.device) -> nn.Module:
    """The module whose forward pass trains the network."""
    if world_size() == 1:
        return network
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        # Synchronised, the statistics are the same everywhere.
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )
