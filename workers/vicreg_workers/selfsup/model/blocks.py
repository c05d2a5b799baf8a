"""The blocks of a backbone, from its input to its output, and how fast each learns."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_BLOCK = re.compile(
    r"^(layer\d+\.\d+|encoder\.layers\.encoder_layer_\d+|features\.\w+|blocks\.\d+"
    r"|trunk_output\.block\d+|stage\d+\.\d+)\."
)
"""Of torchvision's networks: residual blocks, layers of a transformer, stages of the others."""
_CHILD = re.compile(r"^(\w+)\.")
_INPUT = re.compile(r"(pos_embedding|class_token|conv_proj)")


def blocks_of(backbone: nn.Module) -> dict[str, int]:
    """The block of each parameter, from 0, by the parameter's name.

    What comes before the first block, such as the stem, tokens and positions, is block 0; a norm
    after the last block belongs to it. For timm's networks, timm says which they are
    (``group_matcher``).
    """
    names = [name for name, _ in backbone.named_parameters()]
    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is not None:
        from timm.models import group_parameters

        found: dict[str, int] = group_parameters(backbone, matcher(coarse=False), reverse=True)
        return _from_zero({name: found[name] for name in names})
    pattern = _BLOCK if any(_BLOCK.match(name) for name in names) else _CHILD
    blocks: dict[str, int] = {}
    result: dict[str, int] = {}
    current = 0
    for name in names:
        block = pattern.match(name)
        if block is not None:
            current = blocks.setdefault(block.group(1), len(blocks) + 1)
        result[name] = 0 if _INPUT.search(name) else current
    return _from_zero(result)


def _from_zero(blocks: dict[str, int]) -> dict[str, int]:
    numbers = {block: number for number, block in enumerate(sorted(set(blocks.values())))}
    return {name: numbers[block] for name, block in blocks.items()}


def learning_factors(backbone: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """What the learning rate of each parameter of a backbone is multiplied by.

    Args:
        backbone: the network.
        decay: the factor of a block, as a share of the next one's, in (0, 1]. The last one's is 1
            (Bao et al. 2022, BEiT, section 3.2 and its authors' ``optim_factory.py``).
    """
    blocks = blocks_of(backbone)
    last = max(blocks.values(), default=0)
    return {
        parameter: decay ** (last - blocks[name]) for name, parameter in backbone.named_parameters()
    }


def undecayed(backbone: nn.Module) -> frozenset[nn.Parameter]:
    """The parameters that timm's network itself exempts from weight decay, such as positions."""
    no_weight_decay: Any = getattr(backbone, "no_weight_decay", None)
    exempt = () if no_weight_decay is None else no_weight_decay()
    return frozenset(p for name, p in backbone.named_parameters() if name in exempt)
