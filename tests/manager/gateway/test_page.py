"""The manager's page in a real browser, before a real manager, a real sd-server and a hub of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from tests.headers import read_header
from tests.manager.gateway.conftest import Served, serving
from tests.manager.library.files import write_header, write_safetensors
from tests.manager.store.hub_server import HubServer, Serve

from darkroom.weights.index import TensorIndex

pytestmark = pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="needs chromium")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 30_000
expect.set_options(timeout=PATIENCE)
CHROMA = "chroma:q8_0"
VIEWS = (
    "#/models",
    "#/add",
    *(f"#/models/darkroom/{tab}" for tab in ("components", "settings", "draw", "logs")),
    f"#/models/{quote(CHROMA, safe='')}/components",
    "#/pool",
    "#/downloads",
    "#/jobs",
    "#/keys",
)
CONTROLS = "button|link|textbox|searchbox|combobox|spinbutton|checkbox|progressbar"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Iterator[Served]:
    """A manager with a Chroma that lacks its autoencoder, which the hub has, and a file that is no model."""
    home = tmp_path_factory.mktemp("page")
    models = home / "data/models"
    write_header(models, "chroma_hd-gguf", "chroma-Q8_0.gguf")
    write_header(models, "companions/t5xxl-comfyui")
    (models / "login.safetensors").write_bytes(b"<!DOCTYPE html><html>log in first</html>" * 40)
    small = TensorIndex(
        [part for part in read_header("companions/flux_ae-bfl").values() if part.numel < 200_000]
    )
    vae = hub.add("files", "ae.safetensors", write_safetensors(home / "ae.safetensors", small).read_bytes())
    row = {
        "role": "vae",
        "kind": "flux_vae",
        "url": hub.plain("files", "ae.safetensors"),
        "size": len(vae.content),
        "sha256": vae.sha256,
        "licence": "apache-2.0",
        "verified": True,
    }
    (home / "config").mkdir()
    (home / "config/catalogue.yaml").write_text(yaml.safe_dump({"files": [row]}))
    with serving(home, fake=False, allow_private_downloads=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, served: Served) -> Iterator[Page]:
    """A page that asks nobody but the manager, and whose scripts complain of nothing."""
    asked: list[str] = []
    complaints: list[str] = []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    yield page
    assert asked
    assert not [url for url in asked if not url.startswith((served.url, f"blob:{served.url}"))]
    assert not [text for text in complaints if "401" not in text and "400" not in text]


def see(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.get_by_text(text).first).to_be_visible()


def tab_to(page: Page, name: str, key: str = "Tab") -> None:
    """Presses `key` until the control of that name has the focus."""
    for _ in range(80):
        page.keyboard.press(key)
        here = page.evaluate(
            "() => { const here = document.activeElement;"
            " return (here.ariaLabel ?? here.labels?.[0]?.textContent ?? here.textContent).trim(); }"
        )
        if here == name:
            return
    raise AssertionError(f"{key} never comes to {name}")


def test_missing_component_is_downloaded_by_one_click(page: Page, served: Served, hub: HubServer) -> None:
    held = Serve(hold_at=4_000_000)
    hub.files["files/ae.safetensors"].script.append(held)
    page.goto(f"{served.url}/#/models/{quote(CHROMA, safe='')}")
    part = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="VAE"))
    expect(part.get_by_text("missing", exact=True)).to_be_visible()
    see(page, "1 of 2 required parts is missing")
    page.get_by_role("button", name=re.compile(r"^Download what is missing \(8.4 MB\)$")).click()

    expect(part.get_by_text("on its way")).to_be_visible()
    expect(part.get_by_text(re.compile(r"Downloading · 4\.0 MB of 8\.4 MB"))).to_be_visible()
    part.get_by_role("button", name="Pause ae.safetensors").click()
    expect(part.get_by_text(re.compile(r"^Paused"))).to_be_visible()
    part.get_by_role("button", name="Resume ae.safetensors").click()

    see(page, "Everything is here: 2 required parts.")
    expect(part.get_by_text("present", exact=True)).to_be_visible()
    with served.client() as client:
        assert client.get(f"/v1/models/{CHROMA}").json()["ready"]
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Downloads").click()
    see(page, re.compile(r"^Done · 8\.4 MB"))


def test_draw_by_keyboard_alone(page: Page, served: Served) -> None:
    page.goto(served.url)
    see(page, "the built-in model")
    tab_to(page, "darkroom")
    page.keyboard.press("Enter")
    see(page, "This model needs no companion files")
    assert page.evaluate("document.activeElement.id") == "view"
    tab_to(page, "Load darkroom")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Unload darkroom")).to_be_focused()
    expect(page.locator("h1 + .pill")).to_have_text("loaded")

    tab_to(page, "Draw")
    page.keyboard.press("Enter")
    expect(page.get_by_role("form", name="What to draw")).to_be_visible()
    tab_to(page, "Prompt")
    page.keyboard.type("a green heart")
    tab_to(page, "Steps")
    page.keyboard.type("30")
    tab_to(page, "Seed")
    page.keyboard.type("7")
    page.keyboard.press("Control+Enter")
    see(page, re.compile(r"Drawing, step \d+ of 30"))
    expect(page.get_by_alt_text(re.compile(r"^The picture at step \d+: a green heart$"))).to_be_visible()
    picture = page.get_by_role("region", name="Picture").get_by_alt_text("a green heart", exact=True)
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
    expect(page.locator("#announcer")).to_have_text("The picture is ready")
    expect(page.locator("#stage dl")).to_contain_text("7")

    tab_to(page, "Use again")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "prompt"
    expect(page.get_by_label("Steps")).to_have_value("30")
    tab_to(page, "Unload darkroom", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("h1 + .pill")).to_have_text("not loaded")


def test_running_picture_is_cancelled_and_tried_again(page: Page, served: Served) -> None:
    page.goto(f"{served.url}/#/models/darkroom/draw")
    page.get_by_label("Prompt", exact=True).fill("a long one")
    page.get_by_label("Steps").fill("900")
    page.get_by_role("button", name="Draw").click()
    see(page, re.compile(r"Drawing, step \d+ of 900"))
    page.get_by_role("link", name=re.compile("^Jobs")).click()
    see(page, "running")
    page.get_by_role("button", name="Cancel a long one").click()
    see(page, "cancelled")
    expect(page.get_by_role("button", name="Try again: a long one")).to_be_visible()


def test_settings_are_saved(page: Page, served: Served) -> None:
    page.goto(f"{served.url}/#/models/darkroom/settings")
    page.get_by_label("GPU layers").fill("0")
    page.get_by_label("Steps").fill("6")
    page.get_by_label("Sampler").select_option("euler")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#announcer")).to_have_text("Saved")
    with served.client() as client:
        saved = client.get("/admin/settings/darkroom").json()["saved"]
    assert saved == {"gpu_layers": 0, "steps": 6, "sampler": "euler"}
    page.get_by_label("Keep alive").fill("a while")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("a while")
    page.reload()
    expect(page.get_by_label("Steps")).to_have_value("6")
    page.get_by_role("button", name="Back to the defaults").click()
    expect(page.get_by_label("Steps")).to_have_value("")


def test_library_shows_what_is_broken_and_is_searched(page: Page, served: Served) -> None:
    page.goto(served.url)
    broken = page.get_by_role("region", name="Files that cannot be used")
    expect(broken.get_by_role("heading", name="login.safetensors")).to_be_visible()
    expect(broken).to_contain_text("HTML")
    page.get_by_role("searchbox").fill("chroma q8")
    expect(page.get_by_role("list", name="Models").get_by_role("listitem")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_a_phone_and_names_its_controls(page: Page, served: Served, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 320, "height": 640})
    for view in VIEWS:
        page.goto(f"{served.url}/{view}")
        expect(page.locator("#state-text")).not_to_have_text("Connecting …")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 320, view
        nameless = re.findall(
            rf"- (?:{CONTROLS})(?: \[[^\]]*\])*:?$", page.locator("body").aria_snapshot(), re.M
        )
        assert not nameless, view


def test_first_key_is_made_and_asked_for(page: Page, served: Served, browser: Browser) -> None:
    page.goto(f"{served.url}/#/keys")
    page.get_by_label("Name").fill("mine")
    page.get_by_role("button", name="Make the key").click()
    key = page.get_by_label("The key", exact=True).inner_text()
    try:
        see(page, re.compile("admin · made just now"))
        other = browser.new_page()
        other.goto(served.url)
        other.get_by_label("Key", exact=True).fill("dk-00000000-wrong")
        other.get_by_role("button", name="Unlock").click()
        see(other, "That key does not fit. Another one?")
        other.get_by_label("Key", exact=True).fill(key)
        other.get_by_role("button", name="Unlock").click()
        see(other, "the built-in model")
        expect(other.get_by_role("link", name="Keys")).to_be_visible()
        other.close()
        with served.client(key) as client:
            guest = client.post("/admin/keys", json={"name": "guest"}).json()["key"]
        third = browser.new_page()
        third.goto(f"{served.url}/#/models/darkroom/draw")
        third.get_by_label("Key", exact=True).fill(guest)
        third.get_by_role("button", name="Unlock").click()
        expect(third.get_by_role("button", name="Draw")).to_be_visible()
        expect(third.get_by_role("link", name="Keys")).to_have_count(0)
        expect(third.get_by_role("button", name="Load")).to_have_count(0)
        third.close()
    finally:
        with served.client(key) as client:
            keys = [each["id"] for each in client.get("/admin/keys").json()["data"]]
            for id in sorted(keys, key=lambda id: id in key):  # the one in use at last
                client.delete(f"/admin/keys/{id}")


def test_files_of_the_page_are_its_own_and_kept(served: Served) -> None:
    with served.client() as client:
        answer = client.get("/")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert client.get("/", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
        for name in re.findall(r'(?:src|href)="(assets/[\w.]+)"', answer.text):
            assert client.get(f"/{name}").status_code == 200
        assert client.get("/assets/none.js").status_code == 404
        assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", answer.text)
