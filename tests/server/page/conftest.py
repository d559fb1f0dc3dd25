"""The page in a real browser."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright
from tests.server.conftest import RunningServer

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=20_000)


class Address(Protocol):
    """What can be visited."""

    url: str


Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Only for a module: while it runs, its event loop is in the way of others."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        path = found or playwright.chromium.executable_path
        if not Path(path).is_file():
            pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, server: RunningServer) -> Iterator[Visit]:
    """Opens the page in a browser of its own. In the end nothing has failed or asked another server."""
    requests: list[Request] = []
    faults: list[str] = []
    origins = set()

    def visited(at: Address = server, *, until_ready: bool = True, **options: Any) -> Page:  # noqa: ANN401
        origins.add(at.url)
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 860}} | options))
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if _is_fault(message.text) else None)
        page.goto(at.url + "/")
        if until_ready:
            expect(page.locator("#controls")).to_be_enabled()
        return page

    yield visited
    for context in browser.contexts:
        context.close()
    cancel_all(server)
    assert faults == []
    strangers = [r.url for r in requests if not r.url.startswith((*origins, "blob:"))]
    assert strangers == []


def cancel_all(server: RunningServer) -> None:
    """A test that fails leaves no job to the next."""
    for job in server.http.get("/sdcpp/v1/jobs").json()["jobs"]:
        if job["status"] in ("queued", "generating"):
            server.http.post(f"/sdcpp/v1/jobs/{job['id']}/cancel")


def _is_fault(text: str) -> bool:
    return any(word in text for word in ("Content Security Policy", "Uncaught", "TrustedHTML", "[DOM]"))


def open_settings(page: Page, *, steps: int = 2, **values: object) -> None:
    """Opens the settings and sets some, by their names."""
    if not page.locator("#all-settings").evaluate("it => it.open"):
        page.locator("#all-settings > summary").click()
    for name, value in {"steps": steps, **values}.items():
        page.locator(f"[name={name}]").fill(str(value))


def draw(page: Page, prompt: str, **values: object) -> None:
    """Draws, and waits for the picture."""
    open_settings(page, **values)
    count = page.locator("#thumbs img").count()
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#thumbs img")).not_to_have_count(count)
    expect(page.locator("#about")).to_be_visible()
    expect(page.locator("#about-prompt")).to_have_text(prompt)


def png(colour: str = "red", size: tuple[int, int] = (96, 64), text: str = "") -> bytes:
    from PIL.PngImagePlugin import PngInfo

    buffer, info = io.BytesIO(), PngInfo()
    if text:
        info.add_itxt("parameters", text)
    Image.new("RGB", size, colour).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def file(content: bytes, name: str = "picture.png", kind: str = "image/png") -> dict[str, Any]:
    """As playwright gives files to a page."""
    return {"name": name, "mimeType": kind, "buffer": content}


def let_fall(page: Page, selector: str, content: bytes, *, event: str = "drop") -> None:
    """Drops a picture onto an element, or pastes it (`paste`)."""
    script = """([selector, data, event]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
        const told = { bubbles: true, cancelable: true };
        const made = event === "paste"
            ? new ClipboardEvent(event, { ...told, clipboardData: transfer })
            : new DragEvent(event, { ...told, dataTransfer: transfer });
        document.querySelector(selector).dispatchEvent(made);
    }"""
    page.evaluate(script, [selector, base64.b64encode(content).decode(), event])
