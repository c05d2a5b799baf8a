"""Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, Dialog, Error, Page, Request, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# A browser of a test asks nobody but the page's own service.
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass
class Watched:
    """A page, and all that went wrong on it."""

    page: Page
    url: str
    foreign: list[str] = field(default_factory=list)
    """Requests to other origins."""
    errors: list[str] = field(default_factory=list)
    """Exceptions of its scripts, and what its policy refused."""
    dialogs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._requested)
        self.page.on("pageerror", self._failed)
        self.page.on("console", lambda message: self._said(message.text))
        self.page.on("dialog", self._asked)

    def _failed(self, error: Error) -> None:
        self.errors.append(str(error))

    def _asked(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _requested(self, request: Request) -> None:
        url = request.url
        if not url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(url)

    def _said(self, text: str) -> None:
        if "Content Security Policy" in text or "Content-Security-Policy" in text:
            self.errors.append(text)

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def sign_in(self, key: str) -> None:
        page = self.open("/")
        page.get_by_role("textbox", name="API key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("navigation", name="Screens").wait_for()

    def check(self) -> None:
        """Nothing went wrong."""
        assert (self.foreign, self.errors, self.dialogs) == ([], [], [])


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


def new_page(
    browser: Browser, url: str, *, width: int = 1280, height: int = 850, dark: bool = False
) -> Watched:
    """A page of a browser that nobody has used before."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        accept_downloads=True,
    )
    context.set_default_timeout(30_000)
    return Watched(context.new_page(), url)
