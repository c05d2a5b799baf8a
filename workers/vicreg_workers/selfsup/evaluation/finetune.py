"""Trains encoder and classifier together on labelled images (the authors' ``evaluate.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional

from vicreg_platform.specs import Augmentation, FinetuneProtocol
from vicreg_platform.specs.data import Hold, Interpolation
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.training_batches import ViewBatches
from vicreg_workers.selfsup.evaluation.features import Autocast

MOMENTUM = 0.9
HEAD_STD = 0.01
"""Standard deviation of the classifier's initial weights (``evaluate.py``:
``head.weight.data.normal_(std=0.01)``)."""


def crops_only() -> Augmentation:
    """Random crops and flips only: ``evaluate.py``'s training transform."""
    off = {"color_jitter": 0.0, "grayscale": 0.0, "blur": (0.0, 0.0), "solarize": (0.0, 0.0)}
    return Augmentation.model_validate({"preset": "vicreg"} | off)


def finetune(
    backbone: nn.Module,
    images: Images,
    protocol: FinetuneProtocol,
    *,
    image_size: int,
    device: torch.device,
    loaders: int,
    interpolation: Interpolation = "bicubic",
    hold: Hold = "auto",
    progress: Callable[[int], None] = lambda done: None,
    autocast: Autocast = nullcontext,
) -> nn.Module:
    """Train the backbone with a classifier on top, by SGD with a cosine to zero, epoch by epoch.

    Args:
        backbone: images to representations; its weights change.
        images: labelled images to learn from.
        protocol: epochs, rates, seed.
        image_size: side of a view, in pixels.
        device: where the backbone is.
        loaders: processes that read images; with 0, this process reads them.
        interpolation: how crops are resized.
        hold: how many bytes decoded images may take.
        progress: called with the number of images done.
        autocast: makes the context in which the network computes.

    Returns:
        Images ``[N, 3, S, S]`` to logits ``[N, C]``, in eval mode.
    """
    torch.manual_seed(protocol.seed)
    probe = torch.zeros(1, 3, image_size, image_size, device=device)
    with torch.no_grad():
        inputs = backbone.eval()(probe).shape[1]
    head = nn.Linear(inputs, len(images.classes)).to(device)
    nn.init.normal_(head.weight, std=HEAD_STD)
    nn.init.zeros_(head.bias)
    rates = (protocol.backbone_lr, protocol.head_lr)
    optimizer = torch.optim.SGD(
        [
            {"params": part.parameters(), "lr": rate}
            for part, rate in zip((backbone, head), rates, strict=True)
        ],
        momentum=MOMENTUM,
        weight_decay=protocol.weight_decay,
        fused=True,
    )
    batches = ViewBatches(
        images,
        crops_only(),
        views=1,
        image_size=image_size,
        batch_size=min(protocol.batch_size, len(images)),
        seed=protocol.seed,
        epochs=protocol.epochs,
        device=device,
        loaders=loaders,
        drop_last=False,
        interpolation=interpolation,
        hold=hold,
    )
    labels = torch.tensor(images.labels, dtype=torch.long).to(device)
    network = nn.Sequential(backbone, head).train()
    done = 0
    for epoch in range(protocol.epochs):
        cosine = 0.5 * (1 + math.cos(math.pi * epoch / protocol.epochs))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * cosine
        for batch in batches.epoch(epoch):
            rows = torch.tensor(batch.indices).to(device, non_blocking=True)
            with autocast():
                logits = network(batch.views[0])
            loss = functional.cross_entropy(logits.float(), labels.index_select(0, rows))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += len(batch.indices)
            progress(done)
    return network.eval()
