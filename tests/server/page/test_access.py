"""That everybody can use the page: names, contrast, focus, sizes, motion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.server.page.conftest import Visit, draw, file, open_settings, png

CHECKS = Path(__file__).with_name("checks.js").read_text(encoding="utf-8").partition("\n")[2].rstrip()

ZOOMED = {"viewport": {"width": 640, "height": 430}, "device_scale_factor": 2}  # 1280x860 at 200 %
PHONE = {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True}
LONG = 1000


def check(page: Page, name: str) -> Any:  # noqa: ANN401
    return page.evaluate(f"{CHECKS}.{name}()")


def open_all(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((it) => (it.open = true))")


def states(page: Page) -> Iterator[str]:
    """Brings the page into one state after the other."""
    yield "at the start"
    page.locator("#start-file").set_input_files(file(png()))
    draw(page, "a red circle", steps=1)
    open_all(page)
    yield "with a picture, everything open"
    page.get_by_role("button", name="Paint a mask").click()
    yield "painting"
    page.keyboard.press("Escape")
    page.locator("#open-file").set_input_files(file(png(text="a heart\nSteps: 2, Seed: 3, Size: 64x64")))
    expect(page.locator("#reader")).to_be_visible()
    open_all(page)
    yield "reading"
    page.keyboard.press("Escape")
    page.get_by_label("Seed", exact=True).fill("9" * 19)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    yield "refused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_contrast_and_targets(visit: Visit, scheme: str) -> None:
    page = visit(color_scheme=scheme, reduced_motion="reduce")
    for state in states(page):
        for name in ("unnamed", "faint", "small"):
            assert check(page, name) == [], f"{name} {state}"


@pytest.mark.parametrize("options", [PHONE, ZOOMED])
def test_nothing_sticks_out(visit: Visit, options: dict[str, Any]) -> None:
    page = visit(**options)
    for state in states(page):
        assert check(page, "wide") == [], state


@pytest.mark.parametrize(
    "options", [{}, {"viewport": {"width": 360, "height": 640}}, {"forced_colors": "active"}]
)
def test_focus_is_seen_and_goes_from_top_to_bottom(visit: Visit, options: dict[str, Any]) -> None:
    page = visit(reduced_motion="reduce", **options)
    draw(page, "a red circle", steps=1)
    open_all(page)
    page.evaluate("document.activeElement.blur()")
    page.get_by_label("Prompt", exact=True).focus()
    seen = [check(page, "focus")]
    while not seen[-1]["isBody"] and len(seen) < 80:
        page.keyboard.press("Tab")
        seen.append(check(page, "focus"))
    seen.pop()
    assert len(seen) > 30
    assert [it["name"] for it in seen if it["ring"] < 2] == []
    assert [it["name"] for it in seen if not it["isSeen"]] == []
    assert [it["place"] for it in seen] == sorted(it["place"] for it in seen)


def test_landmarks_headings_and_language(visit: Visit) -> None:
    page = visit()
    assert page.locator("html").get_attribute("lang") == "en"
    expect(page.get_by_role("banner")).to_have_count(1)
    expect(page.get_by_role("main")).to_have_count(1)
    for name in ("Picture", "This session", "Start picture"):
        expect(page.get_by_role("region", name=name, exact=True)).to_have_count(1)
    expect(page.get_by_role("form", name="What to draw")).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_text("Darkroom")
    expect(page).to_have_title("builtin · Darkroom")


def test_a_screen_reader_is_told_now_and_then(visit: Visit) -> None:
    page = visit()
    check(page, "listen")
    page.get_by_label("Prompt", exact=True).fill("a white star")
    open_settings(page, steps=LONG)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#announcer")).to_have_text(re.compile(rf"Drawing: step \d+ of {LONG}"))
    times = [time for time, _ in page.evaluate("told")]
    assert all(later - sooner >= 4900 for sooner, later in pairwise(times)), times


@pytest.mark.parametrize(("motion", "count"), [("reduce", 0), ("no-preference", 1)])
def test_nothing_moves_for_who_wants_no_motion(visit: Visit, motion: str, count: int) -> None:
    page = visit(reduced_motion=motion)
    open_settings(page, steps=LONG)
    page.keyboard.press("Control+Enter")
    expect(page.locator("body")).to_have_attribute("data-state", "drawing")
    assert page.evaluate("document.getAnimations().length") == count
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#progress")).to_be_hidden()
