"""The built-in model draws what it is told to: pictures judged by their pixels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Image as Picture
from training.domain import Triple, held_out
from training.evaluate import pixels
from training.judge import judge
from training.scenes import Dice, scenes_of
from training.shapes import draw

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.cli.main import main
from darkroom.engine.model import builtin_model

FAST = {"steps": 8, "cfg_scale": 3}  # with few steps strong guidance overshoots
YELLOW_STAR = Triple("star", "yellow", "purple")
RED_CIRCLE = Triple("circle", "red", "blue")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(EngineConfig(threads=1)) as engine:
        yield engine


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawing of a small yellow star on a purple background, right of the middle and below it."""
    path = tmp_path_factory.mktemp("init") / "star.png"
    scene = scenes_of([YELLOW_STAR], Dice(3, torch.device("cpu")))
    scene = replace(scene, centre=torch.full_like(scene.centre, 0.72), radius=scene.radius * 0.7)
    values = ((draw(scene, 256, 256)[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(values.permute(1, 2, 0).numpy()).save(path)
    return path


def drawn(engine: Engine, prompt: str, **options: object) -> Picture:
    request = GenerationRequest.model_validate({"prompt": prompt, **FAST, **options})
    return engine.generate(request).images[0]


def what(picture: Picture) -> Triple:
    return Triple(*judge(pixels(picture))[:3])


def difference(a: Picture, b: Picture) -> np.ndarray:
    """How much two pictures differ at each pixel, 0 to 255."""
    return np.abs(np.array(a, np.float32) - np.array(b, np.float32)).mean(axis=-1)


def place(picture: Picture) -> np.ndarray:
    """The middle of all that is not background: x and y in pixels."""
    values = np.array(picture, np.float32)
    ys, xs = np.nonzero(np.abs(values - values[:4].mean(axis=(0, 1))).max(axis=-1) > 60)
    return np.array([xs.mean(), ys.mean()])


def test_the_package_stays_small() -> None:
    assert builtin_model().stat().st_size <= 16_000_000


@pytest.mark.parametrize("asked", held_out()[::24], ids=lambda triple: triple.caption)
def test_a_caption_never_trained_on_is_drawn(engine: Engine, asked: Triple) -> None:
    assert what(drawn(engine, asked.caption)) == asked


def test_the_command_of_make_picture(tmp_path: Path) -> None:
    output = tmp_path / "picture.png"
    assert main(["--prompt", RED_CIRCLE.caption, "--output", str(output)]) == 0
    with Image.open(output) as picture:
        assert picture.size == (256, 256)
        assert what(picture) == RED_CIRCLE


def test_equal_requests_give_equal_pixels_and_other_seeds_other_pictures(engine: Engine) -> None:
    first, again, other = (drawn(engine, RED_CIRCLE.caption, steps=4, seed=seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert difference(first, other).mean() > 1


def test_guidance_makes_the_picture_follow_the_prompt(engine: Engine) -> None:
    none, weak, strong = (drawn(engine, RED_CIRCLE.caption, cfg_scale=scale) for scale in (0, 1, 5))
    assert what(none) != RED_CIRCLE
    assert what(strong) == RED_CIRCLE
    assert difference(weak, strong).mean() > 2


@pytest.mark.parametrize("seed", [1, 2])
def test_a_negative_prompt_is_avoided(engine: Engine, seed: int) -> None:
    unwanted = what(drawn(engine, "a circle", seed=seed)).background
    picture = drawn(engine, "a circle", seed=seed, negative_prompt=f"a {unwanted} background")
    shape, _, background = what(picture)
    assert shape == "circle"
    assert background != unwanted


def test_image_to_image_keeps_the_layout_until_the_strength_is_high(engine: Engine, star: Path) -> None:
    faint, strong = (
        drawn(engine, RED_CIRCLE.caption, init_image=star, strength=strength) for strength in (0.3, 0.95)
    )
    assert np.abs(place(faint) - 0.72 * 256).max() < 10
    assert np.abs(place(strong) - 0.5 * 256).max() < 25
    assert what(strong) == RED_CIRCLE


def test_inpainting_draws_inside_the_mask_and_keeps_the_rest(
    engine: Engine, star: Path, tmp_path: Path
) -> None:
    hidden = np.zeros((256, 256), bool)
    hidden[96:, 96:] = True
    mask = tmp_path / "mask.png"
    Image.fromarray(hidden.astype(np.uint8) * 255).save(mask)
    picture = drawn(
        engine, "a green circle on a purple background", init_image=star, mask_image=mask, strength=1
    )
    with Image.open(star) as before:
        changed = difference(picture, before)
    assert what(picture) == Triple("circle", "green", "purple")
    assert changed[~hidden].mean() < 4


def test_drawing_does_not_import_torchs_compiler(tmp_path: Path) -> None:
    """It costs a second and more before the first step."""
    script = (
        "import sys; from darkroom.cli.main import main; "
        f"main(['-p', 'a star', '--steps', '1', '-o', {str(tmp_path / 'star.png')!r}]); "
        "assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
