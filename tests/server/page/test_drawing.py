from __future__ import annotations

import io
import re

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect
from tests.server.conftest import RunningServer, StartServer
from tests.server.page.conftest import Visit, draw, open_settings
from tests.server.page.line import Line

KEY = "schlüssel"
LONG = 1000
"""Steps that nobody waits for."""


def start(page: Page, prompt: str, steps: int) -> None:
    """Asks for a picture and waits until some of its steps are done."""
    open_settings(page, steps=steps)
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#phase")).to_have_text(re.compile(rf"step ([3-9]|\d\d+) of {steps}"))


def cancel(page: Page) -> None:
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#progress")).to_be_hidden()


def tab_to(page: Page, id: str) -> None:
    for _ in range(60):
        if page.evaluate("document.activeElement.id") == id:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never comes to #{id}")


def test_a_picture_by_keyboard_alone(visit: Visit) -> None:
    page = visit()
    page.keyboard.type("a red circle on a blue background")
    tab_to(page, "steps")
    page.keyboard.type("4")
    tab_to(page, "sampler")
    page.keyboard.type("heun")
    tab_to(page, "draw")
    page.keyboard.press("Enter")
    expect(page.locator("#about")).to_be_visible()
    expect(page.locator("#picture")).to_have_attribute("alt", "a red circle on a blue background")
    tab_to(page, "download")
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    seed = page.locator("#facts dd").first.inner_text()
    assert waiting.value.suggested_filename == f"a-red-circle-on-a-blue-background-{seed}.png"
    picture = Image.open(io.BytesIO(waiting.value.path().read_bytes()))
    assert picture.size == (256, 256)
    assert f"Steps: 4, CFG scale: 7.000000, Eta: 0.000000, Seed: {seed}," in picture.info["parameters"]
    assert "Sampler: heun discrete" in picture.info["parameters"]


def test_progress_and_previews_are_live_and_cancel_ends_them(visit: Visit, server: RunningServer) -> None:
    page = visit()
    with page.expect_response("**/img_gen") as asked:
        start(page, "a green heart", LONG)
    job = asked.value.json()["id"]
    expect(page.locator("#phase")).to_contain_text(f"of {LONG}")
    expect(page.locator("#left")).to_contain_text("left")
    expect(page.locator("#picture")).to_have_attribute("alt", "Preview: a green heart")
    first = page.locator("#picture").get_attribute("src")
    step = page.locator("#bar").get_attribute("value")
    assert first
    assert step
    expect(page.locator("#picture")).not_to_have_attribute("src", first)
    expect(page.locator("#bar")).not_to_have_attribute("value", step)
    expect(page.locator("#thumbs .mark")).to_contain_text("%")
    cancel(page)
    assert server.http.get(f"/sdcpp/v1/jobs/{job}").json()["status"] == "cancelled"
    expect(page.locator("#thumbs li")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "stage"


def test_jobs_wait_in_line_and_each_can_be_looked_at(visit: Visit) -> None:
    page = visit()
    start(page, "first", LONG)
    for count, prompt in ((2, "second"), (3, "third")):
        page.get_by_label("Prompt", exact=True).fill(prompt)
        page.keyboard.press("Control+Enter")
        expect(page.locator("#thumbs li")).to_have_count(count)
    page.get_by_role("button", name="third, waits").click()
    expect(page.locator("#phase")).to_have_text("Waiting: number 2 in line")
    page.get_by_role("button", name="second, waits").click()
    expect(page.locator("#phase")).to_have_text("Waiting: next in line")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#thumbs li")).to_have_count(2)
    page.get_by_role("button", name="third, waits").click()
    expect(page.locator("#phase")).to_have_text("Waiting: next in line")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#thumbs li")).to_have_count(1)
    expect(page.locator("#phase")).to_contain_text("Drawing")
    cancel(page)


def test_several_pictures_have_seeds_that_count_up(visit: Visit) -> None:
    page = visit()
    draw(page, "a yellow moon", count=2, seed=7)
    thumbs = page.locator("#thumbs button")
    expect(thumbs).to_have_count(2)
    expect(thumbs.nth(0)).to_have_attribute("aria-label", "a yellow moon, seed 7")
    thumbs.nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#facts dd").first).to_have_text("8")
    expect(thumbs.nth(1)).to_have_attribute("aria-current", "true")


def test_settings_and_pictures_outlast_a_reload(visit: Visit) -> None:
    page = visit()
    draw(page, "a cyan ring", width=128, cfg=3.5)
    seed = page.locator("#facts dd").first.inner_text()
    page.locator("#format").select_option("webp")
    page.reload()
    expect(page.locator("#controls")).to_be_enabled()
    for name, value in (("prompt", "a cyan ring"), ("width", "128"), ("cfg", "3.5"), ("format", "webp")):
        expect(page.locator(f"[name={name}]")).to_have_value(value)
    expect(page.locator("[name=seed]")).to_have_value("")
    expect(page.locator("#facts dd").first).to_have_text(seed)
    page.locator("#seed").focus()
    with page.expect_request("**/img_gen") as asked:
        page.keyboard.press("Control+Enter")  # the last seed is shown there, and not kept
    assert '"seed":-1' in (asked.value.post_data or "")
    expect(page.locator("#thumbs img")).to_have_count(2)
    page.get_by_role("button", name=f"a cyan ring, seed {seed}").click()
    page.get_by_role("button", name="Use these settings").click()
    expect(page.locator("[name=seed]")).to_have_value(seed)
    expect(page.locator("#keep")).to_be_checked()
    expect(page.locator("#format")).to_have_value("png")
    page.get_by_role("button", name="Back to this model's defaults").click()
    expect(page.locator("[name=width]")).to_have_value("256")
    expect(page.locator("#keep")).not_to_be_checked()


def test_a_drawing_that_runs_is_found_again_after_a_reload(visit: Visit) -> None:
    page = visit()
    start(page, "a pink star", LONG)
    page.reload()
    expect(page.locator("#phase")).to_contain_text("Drawing: step")
    cancel(page)


def test_the_longest_seed_arrives_whole(visit: Visit) -> None:
    page = visit()
    seed = str(2**63 - 1)
    draw(page, "a black cross", steps=1, seed=seed)
    expect(page.locator("#facts dd").first).to_have_text(seed)
    expect(page.locator("#infotext")).to_contain_text(f"Seed: {seed},")


def test_sides_and_numbers_are_brought_to_what_is_possible(visit: Visit) -> None:
    page = visit()
    open_settings(page, steps=0, width=100, height=99999, count=99)
    page.keyboard.press("Tab")
    for name, value in (("steps", "1"), ("width", "96"), ("height", "4096"), ("count", "8")):
        expect(page.locator(f"[name={name}]")).to_have_value(value)
    expect(page.locator("#preset")).to_have_value("own")
    page.get_by_role("button", name="Swap width and height").click()
    expect(page.locator("[name=width]")).to_have_value("4096")
    labels = page.locator("#preset option").all_inner_texts()
    assert labels[0] == "Model's own · 256 × 256"
    page.locator("#preset").select_option(label=next(text for text in labels if "3:2" in text))
    expect(page.locator("[name=width]")).to_have_value("320")
    expect(page.locator("[name=height]")).to_have_value("224")


def test_the_servers_own_words_tell_what_is_wrong(visit: Visit) -> None:
    page = visit()
    open_settings(page, seed="9" * 19)
    with page.expect_response("**/img_gen") as asked:
        page.keyboard.press("Control+Enter")
    assert asked.value.status == 400
    expect(page.get_by_role("alert")).to_have_text(asked.value.json()["message"])
    draw(page, "a circle", steps=1, seed="")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_lost_connection_is_taken_up_where_it_broke(visit: Visit, server: RunningServer) -> None:
    with Line(server.url) as line:
        page = visit(line)
        start(page, "a brown square", LONG)
        line.cut()
        expect(page.locator("#phase")).to_contain_text("The connection is lost")
        with page.expect_request("**/events") as again:
            line.mend()
            expect(page.locator("#phase")).to_contain_text("Drawing: step")
        assert int(again.value.headers["last-event-id"]) > 2
        cancel(page)


def test_without_a_stream_the_job_is_asked_for(visit: Visit) -> None:
    page = visit()
    held: list[Route] = []
    page.route("**/events", lambda route: held.append(route))
    draw(page, "a hexagon", steps=2)
    assert len(held) == 1


@pytest.fixture(scope="module")
def locked(module_server: StartServer) -> RunningServer:
    return module_server("--api-key", KEY)


def test_loading_is_shown_and_a_key_is_asked_for(visit: Visit, locked: RunningServer) -> None:
    page = visit(locked, until_ready=False)
    expect(page.locator("body")).to_have_attribute("data-state", "loading")
    expect(page.locator("#state-text")).to_contain_text("Loading")
    page.keyboard.type("a diamond")  # nobody has to wait for the model
    key = page.get_by_label("Key", exact=True)
    expect(key).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-problem")).to_have_text("That key does not fit. Another one?")
    expect(key).to_be_focused()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#key")).to_be_hidden()
    expect(page.locator("#controls")).to_be_enabled()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a diamond")
    draw(page, "a diamond", steps=2)
    page.reload()
    expect(page.locator("#controls")).to_be_enabled()
    expect(page.locator("#key")).to_be_hidden()
    assert KEY not in page.evaluate("JSON.stringify(localStorage)")
