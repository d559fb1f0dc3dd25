"""What reference images cost: text encoders without eyes nothing, the autoencoder where it is asked."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from safetensors.torch import save_file
from tests.families.flux.reference import native, pipeline

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.names import Module
from darkroom.api.result import Phase


def request(colour: str, args: str = "") -> GenerationRequest:
    """A picture beside a plain one of a size that is quick to encode."""
    return GenerationRequest(
        prompt="a cat",
        width=64,
        height=64,
        steps=1,
        ref_images=(Image.new("RGB", (64, 64), colour),),
        ref_image_args=f"resize_before_vae=off,{args}",
    )


def test_other_pictures_cost_an_encoder_without_eyes_nothing(tmp_path: Path) -> None:
    save_file({name: t.contiguous() for name, t in native(pipeline()).items()}, tmp_path / "flux.safetensors")
    config = EngineConfig(model=tmp_path / "flux.safetensors", params_backend="te=disk", threads=1)
    with Engine.load(config) as engine:
        red, blue = (engine.generate(request(colour)) for colour in ("red", "blue"))
        assert red.images[0].tobytes() != blue.images[0].tobytes()
        assert engine.components[Module.TE].traffic.loads == 1
        hidden = engine.generate(request("red", "pass_to_dit=false"))
        assert Phase.ENCODE_IMAGE not in hidden.timings
