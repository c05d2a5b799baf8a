from collections.abc import Iterator
from multiprocessing import forkserver

import pytest
import torch

from tests.unit.selfsup.processes import PRELOADED, Gloo

# The server imports torch while the first tests run.
forkserver.set_forkserver_preload(PRELOADED)
forkserver.ensure_running()


@pytest.fixture(scope="session")
def two_processes() -> Iterator[Gloo]:
    pool = Gloo(2)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def four_processes() -> Iterator[Gloo]:
    pool = Gloo(4)
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
