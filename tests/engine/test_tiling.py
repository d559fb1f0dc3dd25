"""Pictures whose VAE runs tile by tile: as asked, where memory is short, and where it ran out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.conftest import FakeBackend, fake
from torch import Tensor

from darkroom import Engine, EngineConfig, GenerationRequest, Phase, Progress
from darkroom.api.errors import Cancelled, OutOfMemoryError
from darkroom.api.names import ComputeType
from darkroom.engine.tiling import FittedVAE, Tiling, activation_bytes
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.runtime.devices import DeviceType

PLAIN = GenerationRequest(prompt="a cat", width=64, height=128, steps=2)
SMALL_TILES = Tiling(size=(8, 8))
TILED = PLAIN.model_copy(update={"vae_tiling": True, "vae_tile_size": (4, 5)})


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    config = EngineConfig(model=checkpoint, threads=1, backend="cpu", compute_type=ComputeType.F32)
    with Engine.load(config) as engine:
        yield engine


def pixels(engine: Engine, request: GenerationRequest) -> Tensor:
    (image,) = engine.generate(request).images
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int()


def test_the_picture_is_the_same(engine: Engine) -> None:
    assert (pixels(engine, TILED) - pixels(engine, PLAIN)).abs().max() <= 1  # a grey level, by rounding


def test_image_to_image_starts_from_the_same_latent(engine: Engine) -> None:
    image = Image.effect_noise((64, 128), 60).convert("RGB")
    given = {"init_image": image, "mask_image": Image.new("L", (64, 128), 255), "strength": 0.5}
    difference = pixels(engine, TILED.model_copy(update=given)) - pixels(
        engine, PLAIN.model_copy(update=given)
    )
    assert difference.abs().max() <= 1


def test_every_tile_is_told_and_can_be_the_last(engine: Engine) -> None:
    told: list[Progress] = []
    engine.generate(TILED, on_progress=told.append)
    decoding = [progress for progress in told if progress.phase is Phase.DECODE]
    total = decoding[1].steps
    assert total > 4
    assert [progress.step for progress in decoding[1:-1]] == [*range(1, total), total - 1]
    assert decoding[-1].step == decoding[-1].steps

    count = 0

    def is_cancelled() -> bool:
        nonlocal count
        count += sum(progress.phase is Phase.DECODE and progress.step == 3 for progress in seen)
        return count > 0

    seen: list[Progress] = []
    with pytest.raises(Cancelled):
        engine.generate(TILED, on_progress=seen.append, is_cancelled=is_cancelled)
    assert (seen[-1].phase, seen[-1].step) == (Phase.DECODE, 3)


def test_a_picture_that_runs_out_of_memory_is_finished_by_tiles(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = pixels(engine, PLAIN)

    def out_of_memory(self: AutoencoderKL, z: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(AutoencoderKL, "decode", out_of_memory)
    with caplog.at_level(logging.WARNING):
        got = pixels(engine, PLAIN)
    assert (got - expected).abs().max() <= 1
    (record,) = caplog.records
    assert record.getMessage().startswith("vae: cpu: out of memory while decoding 64x128, ")
    assert record.getMessage().endswith("; it is done once more, tile by tile")


class TestFittedVAE:
    """An autoencoder on a card that is the processor; memory is as it is said to be."""

    z = torch.zeros(1, 4, 12, 16)
    at_once = int(1.5 * activation_bytes(128, 96, itemsize=4, tiled=False))
    waiting = int(1.5 * activation_bytes(128, 96, itemsize=4, tiled=True))

    @pytest.fixture
    def vae(self) -> AutoencoderKL:
        torch.manual_seed(0)
        return AutoencoderKL(KLConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1)).eval()

    def decode(self, vae: AutoencoderKL, room: int, tiling: Tiling = SMALL_TILES) -> tuple[Tensor, int]:
        """The picture, and how many tiles it took."""
        tiles: list[int] = []
        backend = FakeBackend(fake("vulkan0"), torch.device("cpu"))
        fitted = FittedVAE(vae, backend, tiling, lambda: room, lambda done, total: tiles.append(total))
        with torch.inference_mode():
            return fitted.decode(self.z), len(tiles)

    def test_what_fits_is_done_at_once(self, vae: AutoencoderKL) -> None:
        assert self.decode(vae, self.at_once)[1] == 0

    def test_what_does_not_fit_is_done_by_tiles(
        self, vae: AutoencoderKL, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole, _ = self.decode(vae, self.at_once)
        with caplog.at_level(logging.INFO):
            tiled, tiles = self.decode(vae, self.at_once - 1)
        assert tiles > 1
        assert (tiled - whole).abs().max() < 1e-4
        (record,) = caplog.records
        assert record.getMessage() == (
            "vae: decoding 128x96 needs about 47.2 MB, 47.2 MB are free; it is done tile by tile"
        )

    def test_tiles_that_are_asked_for_are_made(self, vae: AutoencoderKL) -> None:
        assert self.decode(vae, self.at_once, Tiling(True, (8, 8)))[1] > 1

    def test_encoding_follows_the_same_rule(self, vae: AutoencoderKL) -> None:
        tiles: list[int] = []
        backend = FakeBackend(fake("vulkan0"), torch.device("cpu"))
        fitted = FittedVAE(vae, backend, Tiling(size=(8, 8)), lambda: 0, lambda done, _: tiles.append(done))
        x = torch.rand(1, 3, 96, 128)
        with torch.inference_mode():
            for got, expected in zip(fitted.encode(x), vae.encode(x), strict=True):
                assert (got - expected).abs().max() < 1e-4
        assert tiles

    def test_what_fails_by_tiles_too_is_an_error_with_the_reason(
        self, vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def out_of_memory(*_: object) -> Tensor:
            raise torch.OutOfMemoryError("out of memory")

        monkeypatch.setattr(vae.decoder.conv_in, "forward", out_of_memory)
        with pytest.raises(OutOfMemoryError, match="vulkan0: out of memory while decoding 128x96"):
            self.decode(vae, self.at_once)

    def test_other_errors_are_not_tried_again(
        self, vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> Tensor:
            raise RuntimeError("driver shut down")

        monkeypatch.setattr(vae, "decode", broken)
        with pytest.raises(RuntimeError, match="driver shut down"):
            self.decode(vae, self.at_once)

    def test_on_a_card_pictures_wait_in_main_memory_if_need_be(
        self, vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        homes: list[str] = []

        def decode_tiled(*_: object, home: torch.device, **__: object) -> Tensor:
            homes.append(home.type)
            if len(homes) == 3:
                raise torch.OutOfMemoryError("out of memory")
            return self.z

        monkeypatch.setattr("darkroom.engine.tiling.decode_tiled", decode_tiled)
        backend = FakeBackend(fake("meta0", DeviceType.GPU), torch.device("meta"))
        for room in (self.waiting, self.waiting - 1, self.waiting):
            FittedVAE(vae, backend, Tiling(), lambda room=room: room, print).decode(self.z)  # type: ignore[misc]
        assert homes == ["meta", "cpu", "meta", "cpu"]


@pytest.mark.parametrize(
    ("size", "relative", "expected"),
    [
        ((32, 32), (0.0, 0.0), (32, 32)),
        ((3, -1), (0.0, 0.0), (32, 32)),
        ((4, 48), (0.0, 0.0), (4, 48)),
        ((500, 500), (0.0, 0.0), (160, 90)),
        ((32, 32), (0.5, 0.0), (80, 32)),
        ((32, 32), (1.0, 3.0), (160, 30)),
        ((32, 32), (0.001, 1000.0), (4, 4)),
    ],
)
def test_sizes_of_tiles(
    size: tuple[int, int], relative: tuple[float, float], expected: tuple[int, int]
) -> None:
    assert Tiling(size=size, relative=relative).tile(160, 90) == expected


def test_limits_of_the_device_count(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = EngineConfig(model=checkpoint, threads=1, backend="cpu", max_vram="cpu=0.01")
    with caplog.at_level(logging.INFO, "darkroom.engine.tiling"), Engine.load(config) as engine:
        engine.generate(PLAIN)
    said = [record.getMessage() for record in caplog.records if record.name == "darkroom.engine.tiling"]
    assert len(said) == 1
    assert said[0].startswith("vae: decoding 64x128 needs about ")
