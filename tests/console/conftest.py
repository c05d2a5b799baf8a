from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser import CHROMIUM, Watched, chromium, new_page
from tests.e2e.conftest import Running, object_store, running

__all__ = ["object_store", "running"]

# A busy machine draws slowly; what is right then is right.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: on Debian, apt-get install chromium")
    with chromium() as started:
        yield started


@pytest.fixture
def console(browser: Browser, running: Running) -> Iterator[Watched]:
    """The console of a running platform, signed in as its administrator."""
    watched = new_page(browser, running.platform.api_url)
    key = running.platform.settings.api_key
    assert key is not None
    watched.sign_in(key)
    yield watched
    watched.page.context.close()
    watched.check()
