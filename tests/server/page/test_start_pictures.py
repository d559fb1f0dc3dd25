from __future__ import annotations

import base64
import io
import json

from PIL import Image
from playwright.sync_api import Page, Route, expect
from tests.server.page.conftest import Visit, draw, file, let_fall, open_settings, png

A1111 = """a red heart
Negative prompt: blurry
Steps: 12, Sampler: Euler a, Schedule type: Karras, CFG scale: 4.5, Seed: 99, Size: 320x192, Clip skip: 2"""


def body_of_drawing(page: Page, prompt: str) -> dict[str, object]:
    with page.expect_request("**/img_gen") as asked:
        draw(page, prompt, steps=2)
    body: dict[str, object] = json.loads(asked.value.post_data or "")
    return body


def picture(data: object) -> Image.Image:
    assert isinstance(data, str)
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_drawing_starts_from_a_picture_that_was_chosen(visit: Visit) -> None:
    page = visit()
    content = png("red", (192, 96))
    page.locator("#start-file").set_input_files(file(content))
    expect(page.locator("#start-image")).to_be_visible()
    page.get_by_role("button", name="Take its shape").click()
    expect(page.locator("[name=width]")).to_have_value("352")
    page.get_by_label("Strength").fill("0.5")
    body = body_of_drawing(page, "a white moon")
    assert base64.b64decode(str(body["init_image"])) == content
    assert body["strength"] == 0.5
    expect(page.locator("#infotext")).to_contain_text("Denoising strength: 0.500000")
    page.get_by_role("button", name="Remove", exact=True).click()
    assert "init_image" not in body_of_drawing(page, "a white ring")


def test_start_pictures_are_dropped_pasted_and_drawn(visit: Visit) -> None:
    page = visit()
    let_fall(page, "#start-drop", png("green"))
    expect(page.locator("#start-image")).to_be_visible()
    page.get_by_role("button", name="Remove", exact=True).click()
    let_fall(page, "#prompt", png("blue"), event="paste")
    expect(page.locator("#start-image")).to_be_visible()
    assert picture(body_of_drawing(page, "a star")["init_image"]).convert("RGB").getpixel((0, 0)) == (
        0,
        0,
        255,
    )
    page.get_by_role("button", name="Use as start").click()
    assert picture(body_of_drawing(page, "two stars")["init_image"]).size == (256, 256)


def test_a_mask_is_painted_with_a_mouse_or_by_keyboard(visit: Visit) -> None:
    page = visit()
    page.locator("#start-file").set_input_files(file(png("red", (200, 100))))
    page.get_by_role("button", name="Paint a mask").click()
    box = page.locator("#easel-canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.6)
    page.mouse.up()
    page.get_by_role("button", name="Use this mask").click()
    mask = picture(body_of_drawing(page, "a cross")["mask_image"]).convert("L")
    assert (mask.size, mask.getpixel((50, 50)), mask.getpixel((150, 50))) == ((200, 100), 255, 0)

    page.get_by_role("button", name="Change the mask").click()
    page.get_by_role("button", name="Clear").click()
    page.locator("#easel-canvas").focus()
    page.keyboard.press("+")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.get_by_role("button", name="Use this mask").click()
    mask = picture(body_of_drawing(page, "a ring")["mask_image"]).convert("L")
    assert mask.getpixel((50, 50)) == 0
    assert (mask.getbbox() or (0,))[0] > 100

    page.get_by_role("button", name="Change the mask").click()
    page.get_by_role("button", name="Invert").click()
    page.get_by_role("button", name="Undo").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="No mask").click()
    assert "mask_image" not in body_of_drawing(page, "a diamond")


def test_a_mask_comes_from_a_file(visit: Visit) -> None:
    page = visit()
    page.locator("#start-file").set_input_files(file(png("red", (64, 64))))
    page.locator("#mask-file").set_input_files(file(png("white", (32, 32))))
    expect(page.locator("#mask-note")).to_be_visible()
    assert picture(body_of_drawing(page, "a triangle")["mask_image"]).size == (32, 32)


def test_reference_pictures_go_to_models_that_look_at_them(visit: Visit) -> None:
    page = visit(until_ready=False)

    def with_references(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        told["features"]["ref_images"] = True
        told["defaults"]["sample_params"]["guidance"]["distilled_guidance"] = 2.5
        route.fulfill(response=answer, json=told)

    page.route("**/capabilities", with_references)
    page.reload()
    expect(page.locator("#references")).to_be_visible()
    page.locator("#reference-file").set_input_files([file(png("red")), file(png("green")), file(png("blue"))])
    page.get_by_role("button", name="Remove reference picture 2").click()
    expect(page.locator("#reference-list li")).to_have_count(2)
    page.get_by_label("Guidance", exact=True).fill("3")
    body = body_of_drawing(page, "a square")
    assert isinstance(body["ref_images"], list)
    colours = [picture(data).getpixel((0, 0)) for data in body["ref_images"]]
    assert colours == [(255, 0, 0), (0, 0, 255)]
    sample = body["sample_params"]
    assert isinstance(sample, dict)
    assert sample["guidance"] == {"txt_cfg": 7, "distilled_guidance": 3}


def test_a_dropped_picture_tells_how_it_was_made(visit: Visit) -> None:
    page = visit()
    open_settings(page)
    let_fall(page, "body", png(text=A1111))
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("a red heart")
    expect(dialog.locator("#reader-facts")).to_contain_text("Euler a")
    dialog.get_by_role("button", name="Use these settings").click()
    expect(dialog).to_be_hidden()
    wanted = {"prompt": "a red heart", "negative": "blurry", "steps": "12", "cfg": "4.5", "seed": "99"}
    wanted |= {"width": "320", "height": "192", "sampler": "euler_a", "scheduler": "karras", "clip_skip": "2"}
    for name, value in wanted.items():
        expect(page.locator(f"[name={name}]")).to_have_value(value)
    expect(page.locator("#keep")).to_be_checked()


def test_its_own_pictures_draw_themselves_again(visit: Visit) -> None:
    page = visit()
    draw(page, "a purple hexagon", cfg=3, seed=5)
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    content = waiting.value.path().read_bytes()
    page.get_by_role("button", name="Back to this model's defaults").click()
    let_fall(page, "#frame", content)
    page.get_by_role("dialog").get_by_role("button", name="Use these settings").click()
    infotext = page.locator("#infotext").text_content()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#thumbs img")).to_have_count(2)
    expect(page.locator("#about")).to_be_visible()
    assert page.locator("#infotext").text_content() == infotext


def test_what_says_nothing_and_what_is_no_picture(visit: Visit) -> None:
    page = visit()
    page.locator("#open-file").set_input_files(file(png()))
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("This picture does not say how it was made.")
    expect(dialog.get_by_role("button", name="Use these settings")).to_be_hidden()
    dialog.get_by_role("button", name="Use as start").click()
    expect(page.locator("#start-image")).to_be_visible()
    page.locator("#start-file").set_input_files(file(b"words", "words.png"))
    expect(page.get_by_role("alert")).to_have_text("words.png is not a picture that this browser can read.")
