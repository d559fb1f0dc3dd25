"""Every family on a tiny model: previews of each kind, and requests drawn as one batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.end_to_end.test_qwen_image import make_pipeline as qwen_image
from tests.end_to_end.test_sdxl import make_pipeline as sdxl
from tests.families.chroma.reference import pipeline as chroma
from tests.families.flux.reference import pipeline as flux
from tests.families.sd3.reference import pipeline as sd3
from tests.families.z_image.reference import pipeline as z_image

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.result import GenerationResult, Hooks, Preview
from darkroom.nets.vae.tae import TAESDConfig, TAESDDecoder
from darkroom.nets.vae.taehv import TAEHVConfig, TAEHVDecoder

FAMILIES: dict[str, Callable[[], Any]] = {
    "sdxl": sdxl,
    "sd3": sd3,
    "flux": flux,
    "flux schnell": partial(flux, has_guidance=False),
    "chroma": chroma,
    "qwen_image": qwen_image,
    "z_image": z_image,
}
SIZE, STEPS = 64, 2

TOLERANCE = 2
"""Of 255 levels of a colour."""


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    FAMILIES[request.param]().save_pretrained(path)
    torch.manual_seed(0)
    channels = 4 if request.param == "sdxl" else 16
    decoder = (
        TAEHVDecoder(TAEHVConfig(widths=(8, 8, 8, 8)))
        if request.param == "qwen_image"
        else TAESDDecoder(TAESDConfig(channels, width=8))
    )
    save_file(decoder.state_dict(), path / "tiny.safetensors")
    return path


def engine_of(model: Path, **options: object) -> Engine:
    tiny = {"taesd": model / "tiny.safetensors", "taesd_preview_only": True}
    given = {"model": model, "threads": 1, "compute_type": "f32", **tiny, **options}
    return Engine.load(EngineConfig.model_validate(given))


def request(**options: object) -> GenerationRequest:
    given = {"prompt": "a cat", "width": SIZE, "height": SIZE, "steps": STEPS, "seed": 5, **options}
    return GenerationRequest.model_validate(given)


def test_previews_of_every_kind(model: Path) -> None:
    with engine_of(model) as engine:
        plain = engine.generate(request()).images[0]
        for mode, side in (("proj", SIZE // 8), ("tae", SIZE), ("vae", SIZE)):
            seen: list[Preview] = []
            result = engine.generate(request(preview=mode), on_preview=seen.append)
            assert [(p.step, p.image.size) for p in seen] == [(1, (side, side)), (2, (side, side))]
            assert result.images[0].tobytes() == plain.tobytes()
        assert seen[-1].image.tobytes() == plain.tobytes()  # the model's own decoder
        family = engine.model.family
        assert len(family.latent_rgb(engine.model.architecture).factors) == family.latent.channels


def assert_same(got: GenerationResult, expected: GenerationResult) -> None:
    for one, other in zip(got.images, expected.images, strict=True):
        difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))
        assert difference.max() <= TOLERANCE


def test_a_batch_is_its_requests(model: Path) -> None:
    asked = [request(), request(prompt="a dog", seed=9, batch_count=2)]
    with engine_of(model, max_batch=1) as engine:
        expected = [engine.generate(one) for one in asked]
    seen: list[int] = []
    with engine_of(model, max_batch=8) as engine:
        hooks = Hooks(lambda progress: seen.append(progress.together))
        outcomes = engine.generate_many([(one, hooks) for one in asked])
    for outcome, one in zip(outcomes, expected, strict=True):
        assert isinstance(outcome, GenerationResult)
        assert_same(outcome, one)
    assert max(seen) == 2
