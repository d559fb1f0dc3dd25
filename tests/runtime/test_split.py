"""What is said about several devices, and what is made of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import ImageChops
from tests.conftest import FakeProvider, Processor, fake

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.api.request import GenerationRequest
from darkroom.engine.engine import Engine
from darkroom.runtime.devices import Devices

REQUEST = GenerationRequest(prompt="a cat", width=64, height=64, steps=2, seed=1)


@pytest.fixture
def two_cards() -> Devices:
    return Devices([Processor(), FakeProvider(fake("cuda0"), fake("cuda1"), fake("vulkan0"))])


def engine(checkpoint: Path, devices: Devices, **options: str) -> Engine:
    config = EngineConfig.model_validate({"model": checkpoint, "threads": 1, **options})
    return Engine.load(config, devices=devices)


@pytest.mark.parametrize(
    ("options", "largest"),
    [
        ({"backend": "cuda0&cuda1"}, 0),
        ({"backend": "cuda0&cuda1", "params_backend": "disk"}, 0),
        ({"backend": "diffusion=cuda1&cuda0,te=cuda0&cuda1", "params_backend": "cpu"}, 0),
        ({"backend": "diffusion=cuda0&cuda1", "split_mode": "row"}, 3),
        ({"backend": "diffusion=cuda0&cuda1", "split_mode": "row", "params_backend": "cpu"}, 3),
    ],
)
def test_the_picture_is_the_same(
    checkpoint: Path, two_cards: Devices, options: dict[str, str], largest: int
) -> None:
    with engine(checkpoint, two_cards) as one, engine(checkpoint, two_cards, **options) as several:
        assert several.components[Module.DIFFUSION].is_split
        assert not several.components[Module.VAE].is_split
        (expected,), (picture,) = (made.generate(REQUEST).images for made in (one, several))
        difference = ImageChops.difference(expected, picture).getextrema()
        assert max(high for _, high in difference) <= largest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda0&cuda1"}, "vae: runs on one device; of cuda0&cuda1 only cuda0 is used"),
        (
            {"backend": "te=cuda0&cpu"},
            "te: layer split across a CPU device is not supported; using cuda0 "
            "(use --params-backend te=cpu to keep weights in RAM)",
        ),
        (
            {"backend": "te=cuda0&cuda1", "split_mode": "row"},
            "te: row split unavailable (no row-splittable transformer block weights found); falling back to "
            "layer split",
        ),
        (
            {"backend": "diffusion=cuda0&vulkan0", "split_mode": "diffusion=row"},
            "diffusion: row split unavailable (devices span different backend registries); falling back to "
            "layer split",
        ),
    ],
)
def test_what_is_not_done_is_said(
    checkpoint: Path,
    two_cards: Devices,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, str],
    message: str,
) -> None:
    with caplog.at_level(logging.WARNING, "darkroom"), engine(checkpoint, two_cards, **options):
        pass
    assert message in caplog.messages


def test_a_split_network_is_not_streamed(
    checkpoint: Path, two_cards: Devices, caplog: pytest.LogCaptureFixture
) -> None:
    config = EngineConfig(model=checkpoint, backend="cuda0&cuda1", gpu_layers=3, max_vram="0.001")
    with caplog.at_level(logging.WARNING), Engine.load(config, devices=two_cards) as made:
        diffusion = made.components[Module.DIFFUSION]
        assert diffusion.is_split
        assert not diffusion.is_streamed
    assert (
        "diffusion: is split over several devices, and so none of its blocks is streamed" in caplog.messages
    )


def test_blocks_are_shared_by_what_is_free_or_allowed(checkpoint: Path, two_cards: Devices) -> None:
    def on_second(max_vram: str) -> int:
        with engine(checkpoint, two_cards, backend="cuda0&cuda1", max_vram=max_vram) as made:
            diffusion = made.components[Module.DIFFUSION]
            diffusion.load()
            (share,) = diffusion._shares
            return len(share.modules)

    assert on_second("cuda0=3,cuda1=1") < on_second("0") < on_second("cuda0=1,cuda1=3")
