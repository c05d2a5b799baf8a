"""The loss of places is VICRegL's: held to an independent writing of it, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.unit.selfsup.loss.test_methods import spec_for
from tests.unit.selfsup.processes import Gloo
from vicreg_platform.specs import VICRegL
from vicreg_workers.selfsup.loss.methods import MethodLoss
from vicreg_workers.selfsup.loss.places import grid_of, place_terms

Array = np.ndarray[Any, np.dtype[np.float64]]
N, D, E = 6, 9, 5


def made(sides: tuple[int, ...], seed: int = 0) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Embeddings of views, of their places, and boxes."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    boxes = torch.randint(5, 60, (N, len(sides), 5), generator=generator)
    boxes[:, :, 4] %= 2
    return [drawn(N, D) for _ in sides], [drawn(N, side**2, E) for side in sides], boxes


def vicreg(x: Array, y: Array) -> list[float]:
    """Of matched places [N, M, E], as the authors' ``_vicreg_loss`` without its coefficients."""
    variance = covariance = 0.0
    for z in (x, y):
        deviation = np.sqrt(z.var(axis=0, ddof=1) + 1e-4)
        variance += np.maximum(0, 1 - deviation).mean() / 2
        for place in range(z.shape[1]):
            matrix = np.cov(z[:, place].T)
            matrix = matrix - np.diag(np.diag(matrix))
            covariance += (matrix**2).sum() / z.shape[2] / z.shape[1] / 2
    return [float(((x - y) ** 2).mean()), float(variance), covariance]


def matched(x: Array, y: Array, where_x: Array, where_y: Array, count: int) -> list[float]:
    first, second = [], []
    for image in range(len(x)):
        distances = np.linalg.norm(where_x[image][:, None] - where_y[image][None], axis=-1)
        nearest = distances.min(axis=1)
        chosen = sorted(np.argsort(nearest, kind="stable")[:count])
        first.append(x[image][chosen])
        second.append(y[image][distances.argmin(axis=1)[chosen]])
    return vicreg(np.stack(first), np.stack(second))


def centres(box: Array, side: int) -> Array:
    """Of the cells of a map, drawn as the authors' grid, mirrored with the view."""
    top, left, height, width, mirrored = box
    grid = np.zeros((side, side, 2))
    for row in range(side):
        for column in range(side):
            across = side - 1 - column if mirrored else column
            grid[row, column] = (
                top + (row + 0.5) * height / side,
                left + (across + 0.5) * width / side,
            )
    return grid.reshape(-1, 2)


def written_out(views: list[Tensor], places: list[Tensor], boxes: Tensor, method: VICRegL) -> float:
    weights = np.array([method.invariance, method.variance, method.covariance])
    maps = [each.numpy() for each in places]
    where = [
        np.stack([centres(boxes[n, v].numpy(), int(maps[v].shape[1] ** 0.5)) for n in range(N)])
        for v in range(len(maps))
    ]
    local, pairs, near = np.zeros(3), 0, 0.0
    for i in (0, 1):
        for j in range(len(maps)):
            if i == j:
                continue
            x, y = maps[i], maps[j]
            for way in (
                (matched(x, y, x, y, 10**6), matched(y, x, y, x, 10**6)),
                (
                    matched(x, y, where[i], where[j], method.matches[0]),
                    matched(y, x, where[j], where[i], method.matches[1]),
                ),
            ):
                local += (np.array(way[0]) + np.array(way[1])) / 2
            near += float(((views[i] - views[j]) ** 2).mean())
            pairs += 1
    whole = weights[0] * near / pairs
    for z in (each.numpy() for each in views):
        deviation = np.sqrt(z.var(axis=0, ddof=1) + 1e-4)
        matrix = np.cov(z.T)
        matrix = matrix - np.diag(np.diag(matrix))
        whole += weights[1] * np.maximum(0, 1 - deviation).mean() / len(views)
        whole += weights[2] * (matrix**2).sum() / D / len(views)
    return float(method.alpha * whole + (1 - method.alpha) * (weights * local / pairs).sum())


def loss_of(
    views: list[Tensor], places: list[Tensor], boxes: Tensor, method: VICRegL
) -> dict[str, Tensor]:
    last = [each.transpose(0, 1) for each in places]
    local = torch.stack(views[2:]) if len(views) > 2 else None
    few = (torch.stack(last[2:]),) if len(views) > 2 else ()
    loss = MethodLoss(method, local=local is not None)
    return loss(
        views[0], views[1], ((views[0], views[1]),), local, (last[0], last[1], *few), boxes=boxes
    ).terms


@pytest.mark.parametrize("sides", [(3, 3), (4, 4, 2, 2)])
@pytest.mark.parametrize("matches", [(5, 2), (20, 4)])
def test_the_loss_is_its_papers(sides: tuple[int, ...], matches: tuple[int, int]) -> None:
    method = VICRegL(name="vicregl", alpha=0.6, covariance=3.0, matches=matches)
    views, places, boxes = made(sides)
    terms = loss_of(views, places, boxes, method)
    assert float(terms["loss"]) == pytest.approx(written_out(views, places, boxes, method), 1e-9)
    assert list(terms) == list(MethodLoss(method, local=len(sides) > 2).terms)


def test_a_place_is_matched_with_the_one_that_shows_the_same() -> None:
    """The second view is the first one, mirrored: matched by where they lie, both are one."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 9, E, generator=generator, dtype=torch.float64)
    mirrored = x.view(N, 3, 3, E).flip(2).flatten(1, 2)
    boxes = torch.tensor([[10, 20, 30, 60, 0], [10, 20, 30, 60, 1]]).expand(N, 2, 5)
    assert float(place_terms([x, mirrored], boxes, (9, 9)).invariance) == 0.0
    # Taken for one that is not mirrored, places lie elsewhere; by what they show they still match.
    boxes = torch.tensor([[10, 20, 30, 60, 0]] * 2).expand(N, 2, 5)
    moved = place_terms([x, mirrored], boxes, (9, 9)).invariance
    assert float(moved) == pytest.approx(float((x - mirrored).square().mean()))


def test_a_grid_is_where_its_cells_are() -> None:
    boxes = torch.tensor([[10, 20, 30, 60, 0], [10, 20, 30, 60, 1]])
    plain, mirrored = grid_of(boxes, 2, torch.float64)
    assert plain.tolist() == [[17.5, 35.0], [17.5, 65.0], [32.5, 35.0], [32.5, 65.0]]
    assert mirrored.tolist() == [[17.5, 65.0], [17.5, 35.0], [32.5, 65.0], [32.5, 35.0]]


def shares(views: list[Tensor], places: list[Tensor], boxes: Tensor) -> tuple[Tensor, list[Tensor]]:
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = [
        [each.chunk(size)[rank].clone().requires_grad_() for each in some]
        for some in (views, places)
    ]
    share = boxes.chunk(size)[rank]
    loss = loss_of(mine[0], mine[1], share, VICRegL(name="vicregl"))["loss"]
    value = loss.detach().clone()
    dist.all_reduce(value)
    gradients = torch.autograd.grad(loss, [*mine[0], *mine[1]])
    return value / size, [each / size for each in gradients]


def test_two_processes_are_one_on_the_concatenated_batch(two_processes: Gloo) -> None:
    views, places, boxes = made((3, 3, 2))
    (value, first), (_, second) = two_processes.run(shares, views, places, boxes)
    tensors = [each.requires_grad_() for each in (*views, *places)]
    loss = loss_of(views, places, boxes, VICRegL(name="vicregl"))["loss"]
    torch.testing.assert_close(value, loss.detach(), rtol=1e-9, atol=0)
    for a, b, whole in zip(first, second, torch.autograd.grad(loss, tensors), strict=True):
        torch.testing.assert_close(torch.cat([a, b]), whole, rtol=1e-7, atol=1e-12)


def test_its_expander_is_its_authors() -> None:
    spec = spec_for("vicregl", expander={})
    assert spec.expander.layers == (8192, 8192, 8192)
    assert spec.method == VICRegL(name="vicregl", alpha=0.75, matches=(20, 4))
