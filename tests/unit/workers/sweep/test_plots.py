"""A sweep's plots are drawn for any space."""

import io

from PIL import Image

from tests.unit.workers.sweep.test_search import SPACE, sweep
from vicreg_workers.sweep import plots
from vicreg_workers.sweep.ledger import Entry


def test_every_distribution_has_its_axis() -> None:
    spec = sweep(space=SPACE | {"training.precision": {"choice": ["fp32", "bf16"]}})
    entries = [
        Entry(
            number=number,
            parameters={
                "optimizer.base_lr": 0.1 * (number + 1),
                "method.invariance": 5.0,  # the same in all
                "method.variance": 5 * number,
                "training.batch_size": 16,
                "expander.layers": [[16, 16], [32]][number % 2],
                "training.precision": "fp32",
            },
            epochs=4,
            epoch=number,
            curve={epoch: 0.1 * epoch for epoch in range(1, number + 1)},
            objective=0.1 * number if number else None,
        )
        for number in range(4)
    ]
    for draw in (plots.parallel_coordinates, plots.objective):
        plot = Image.open(io.BytesIO(draw(spec, entries)))
        assert len(plot.convert("L").getcolors(256) or []) > 50  # not blank
