"""What fits on a cluster, and how its nodes are written."""

from __future__ import annotations

import pytest

from vicreg_platform.cluster import Capacity, nodes_of
from vicreg_platform.cluster.ray_jobs import _in_use
from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.settings import Settings


def test_nodes_are_written_as_counts_of_cpus_and_gpus() -> None:
    assert nodes_of("2x4, 1x16x2") == (Bundle(4, 0), Bundle(4, 0), Bundle(16, 2))


@pytest.mark.parametrize("text", ["8", "x4", "2x", "2x4x", "2x4x1x1", "two x 4", "2x4,"])
def test_nodes_that_are_written_otherwise_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not COUNTxCPUS or COUNTxCPUSxGPUS"):
        nodes_of(text)


def test_a_cluster_that_does_not_scale_is_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VICREG_RAY_NODES", raising=False)
    assert Settings.from_environment().ray_nodes is None
    monkeypatch.setenv("VICREG_RAY_NODES", "")
    assert Settings.from_environment().ray_nodes is None


def test_bundles_lie_on_one_node_each() -> None:
    capacity = Capacity(nodes_of("2x4,1x8x1"), used=Bundle(0, 0))
    assert capacity.bundles(Bundle(3, 0)) == 4
    assert capacity.can_ever_hold(Needs(Bundle(4, 0), count=4))
    assert not capacity.can_ever_hold(Needs(Bundle(4, 1), count=2))


def test_what_is_reserved_counts_as_used() -> None:
    usage = (
        "1.0/1.0 accelerator_type:A100\n"
        "2.0/4.0 CPU (1.0 used of 2.0 reserved in placement groups)\n"
        "0.5/2.0 GPU\n"
        "0B/17.85GiB memory"
    )
    assert _in_use(usage, "CPU") == 3.0
    assert _in_use(usage, "GPU") == 0.5
    assert _in_use("0B/17.85GiB memory", "GPU") == 0.0
