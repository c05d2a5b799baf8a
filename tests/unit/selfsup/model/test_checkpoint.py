"""Recomputed activations change the memory of a step, and nothing else."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from vicreg_platform.specs import Backbone
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.selfsup.model.checkpoint import checkpoint_activations


def stepped(spec: Backbone, checkpointed: bool) -> tuple[dict[str, Tensor], int, Tensor]:
    """Gradients and statistics after a step, the floats kept for it, and what is drawn next."""
    torch.manual_seed(0)
    backbone = build_backbone(spec, 32).train()
    for module in backbone.modules():
        if isinstance(gamma := getattr(module, "gamma", None), nn.Parameter):
            nn.init.ones_(gamma)
    if checkpointed:
        checkpoint_activations(backbone)
    images = torch.randn(4, 3, 32, 32)
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = backbone(images).square().sum()
    whole = kept
    loss.backward()
    made = {f"gradient of {n}": p.grad for n, p in backbone.named_parameters()}
    state = {n: value for n, value in backbone.state_dict().items() if "running" in n or "num" in n}
    present = {name: value for name, value in made.items() if value is not None}
    return present | state, whole, torch.rand(3)


@pytest.mark.parametrize(
    "spec",
    [
        Backbone(name="resnet18"),
        Backbone(name="vit_s", patch_size=8),
        Backbone(name="timm/convnext_atto", drop_path=0.5),
        Backbone(name="timm/mobilenetv3_small_050"),
        Backbone(name="torchvision/regnet_y_400mf"),
    ],
    ids=lambda spec: spec.name,
)
def test_a_step_is_the_same_and_keeps_less(spec: Backbone) -> None:
    plain, kept, drawn = stepped(spec, checkpointed=False)
    again, fewer, drawn_again = stepped(spec, checkpointed=True)
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        assert torch.equal(value, again[name]), name
    assert torch.equal(drawn, drawn_again)
    assert fewer < 0.6 * kept


def test_without_gradient_nothing_is_kept_or_computed_again() -> None:
    backbone = build_backbone(Backbone(name="resnet10"), 32)
    images = torch.randn(2, 3, 32, 32)
    expected = backbone.eval()(images)
    checkpoint_activations(backbone)
    torch.testing.assert_close(backbone(images), expected)


def test_a_copy_works_by_itself() -> None:
    backbone = build_backbone(Backbone(name="resnet10"), 32).train()
    checkpoint_activations(backbone)
    copied = deepcopy(backbone)
    copied(torch.randn(4, 3, 32, 32)).sum().backward()
    assert copied.get_parameter("layer1.0.conv1.weight").grad is not None
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert int(backbone.get_buffer("layer1.0.bn1.num_batches_tracked")) == 0
