"""A sweep's plots are drawn for any space, and for several seeds."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.workers.sweep.test_search import SPACE, open_ledger, sweep
from vicreg_workers.sweep import plots
from vicreg_workers.sweep.ledger import Entry


@pytest.mark.parametrize("seeds", [1, 2])
def test_every_distribution_has_its_axis(tmp_path: Path, seeds: int) -> None:
    spec = sweep(
        space=SPACE | {"training.precision": {"choice": ["fp32", "bf16"]}},
        search={"seeds": seeds},
    )
    ledger = open_ledger(spec, tmp_path)
    for number in range(4):
        parameters = {
            "optimizer.base_lr": 0.1 * (number + 1),
            "method.invariance": 5.0,  # the same in all
            "method.variance": 5 * number,
            "training.batch_size": 16,
            "expander.layers": [[16, 16], [32]][number % 2],
            "training.precision": "fp32",
        }
        ledger.add(Entry(number=number, parameters=parameters, epochs=4), seeds)
        for entry in ledger.entries(number):
            for epoch in range(1, number + 1 - entry.seed):
                ledger.report(entry, epoch, 0.1 * epoch + 0.05 * entry.seed, "run")
    for plot in (plots.parallel_coordinates(spec, list(ledger)), plots.objective(spec, ledger)):
        assert len(Image.open(io.BytesIO(plot)).convert("L").getcolors(256) or []) > 50  # not blank
