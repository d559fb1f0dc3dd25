"""Pictures on their way: when they come, what they show, and what they do not disturb."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import CheckpointError, OutOfMemoryError, RequestError
from darkroom.api.names import PreviewMode
from darkroom.api.result import Preview
from darkroom.engine.parts import Parts
from darkroom.nets.vae.tae import TAESDConfig, TAESDDecoder


def engine_of(**options: object) -> Engine:
    return Engine.load(EngineConfig.model_validate({"threads": 1, **options}))


def request(**options: object) -> GenerationRequest:
    given = {"prompt": "a red heart on a green background", "steps": 6, "preview": "proj", **options}
    return GenerationRequest.model_validate(given)


def shown(engine: Engine, **options: object) -> tuple[Image.Image, list[Preview]]:
    seen: list[Preview] = []
    result = engine.generate(request(**options), on_preview=seen.append)
    return result.images[0], seen


def correlation(preview: Image.Image, picture: Image.Image) -> float:
    """Of each colour over the picture, the least of three."""
    small = np.asarray(picture.resize(preview.size, Image.Resampling.BOX), dtype=float)
    seen = np.asarray(preview, dtype=float)
    return min(
        float(np.corrcoef(seen[..., colour].ravel(), small[..., colour].ravel())[0, 1]) for colour in range(3)
    )


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """The built-in model, whose pictures show something."""
    with engine_of() as engine:
        yield engine


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TAESD decoder of random weights, large enough to give every colour."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny") / "taesd_decoder.safetensors"
    net = TAESDDecoder(TAESDConfig(width=8))
    save_file({name: tensor * 2.2 for name, tensor in net.state_dict().items()}, path)
    return path


def test_previews_come_at_their_steps(engine: Engine) -> None:
    _, seen = shown(engine, preview_interval=2)
    assert [(p.step, p.steps, p.image_number, p.images) for p in seen] == [
        (2, 6, 1, 1),
        (4, 6, 1, 1),
        (6, 6, 1, 1),
    ]
    assert all(p.image.size == (32, 32) for p in seen)


def test_mixed_channels_have_the_pictures_colours(engine: Engine) -> None:
    picture, seen = shown(engine, cfg_scale=3.0)
    assert correlation(seen[-1].image, picture) > 0.8


def test_the_models_own_decoder_shows_the_picture_itself(engine: Engine) -> None:
    picture, seen = shown(engine, preview=PreviewMode.VAE, preview_interval=3)
    assert [p.image.size for p in seen] == [(256, 256)] * 2
    assert correlation(seen[-1].image, picture) > 0.999


def test_a_preview_shows_what_the_model_expects_unless_noise_is_asked_for(engine: Engine) -> None:
    _, clean = shown(engine, preview_interval=1)
    picture, noisy = shown(engine, preview_interval=1, preview_noisy=True)
    assert correlation(clean[1].image, picture) > correlation(noisy[1].image, picture) + 0.1
    assert correlation(noisy[-1].image, picture) > 0.8


def test_previews_change_no_picture(engine: Engine, tiny: Path) -> None:
    plain = engine.generate(request(preview="none", steps=3)).images[0].tobytes()
    assert shown(engine, steps=3)[0].tobytes() == plain
    assert shown(engine, steps=3, preview="vae")[0].tobytes() == plain
    with engine_of(taesd=tiny, taesd_preview_only=True) as other:
        assert shown(other, steps=3, preview="tae")[0].tobytes() == plain


def test_nobody_is_shown_what_was_not_asked_for(engine: Engine) -> None:
    assert shown(engine, preview="none")[1] == []
    engine.generate(request())  # and nobody is there


def test_a_tiny_autoencoder_shows_previews_and_decodes(tiny: Path) -> None:
    with engine_of(taesd=tiny) as engine:
        result, seen = shown(engine, preview="tae", preview_interval=6)
        assert seen[0].image.tobytes() == result.tobytes()
        assert np.asarray(result).std() > 10
        assert "VAE: taesd_decoder.safetensors" in engine.generate(request(preview="none")).infotexts[0]
    with engine_of(taesd=tiny, taesd_preview_only=True) as engine:
        picture, seen = shown(engine, preview="tae", preview_interval=6)
        assert seen[0].image.size == picture.size
        assert seen[0].image.tobytes() == result.tobytes()
        assert picture.tobytes() != result.tobytes()


@pytest.mark.parametrize("layout", ["decoder.layers.", "tae.decoder.layers.", "taesd_decoder.", "decoder."])
def test_every_spelling_of_its_file_is_read(tiny: Path, layout: str, tmp_path: Path) -> None:
    tensors = {}
    for name, tensor in load_file(tiny).items():
        place, rest = name.split(".", 1)
        tensors[f"{layout}{int(place) - layout.endswith('layers.')}.{rest}"] = tensor
    tensors["encoder.layers.0.weight"] = torch.zeros(8, 3, 3, 3)
    path = tmp_path / "other.safetensors"
    save_file(tensors, path)
    with engine_of(taesd=tiny) as one, engine_of(taesd=path) as other:
        asked = request(preview="none", steps=1)
        assert one.generate(asked).images[0].tobytes() == other.generate(asked).images[0].tobytes()


def test_a_tiny_autoencoder_of_other_latents_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taef1.safetensors"
    save_file(TAESDDecoder(TAESDConfig(latent_channels=16, width=8)).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"with 16 channels.* have 4 .* taesd_decoder.safetensors"):
        engine_of(taesd=path)
    save_file({"0.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="holds no decoder of a tiny autoencoder"):
        engine_of(taesd=path)


def test_tae_without_a_file_is_a_mistake(engine: Engine) -> None:
    with pytest.raises(RequestError, match=r"--preview: tae needs .* --taesd"):
        engine.generate(request(preview="tae"))


def test_too_little_memory_for_previews_costs_only_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def short(self: Parts, *_: object) -> object:
        raise OutOfMemoryError("cpu: out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "resident", short)
        picture, seen = shown(engine, preview="vae")
    assert seen == []
    assert "drawn without" in caplog.text
    assert picture.tobytes() == engine.generate(request(preview="none")).images[0].tobytes()
