"""Pictures on a device that runs out of memory: less stays on it, and the same request is finished."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import FakeProvider, Processor, fake
from torch import Tensor, nn

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import Cancelled, OutOfMemoryError
from darkroom.api.names import ComputeType, Module, PreviewMode
from darkroom.api.result import GenerationResult, Hooks, Phase, Preview, Progress
from darkroom.engine import autoencoding
from darkroom.engine.pipeline import decode
from darkroom.families.base import Conditioning
from darkroom.runtime.backends import Backend
from darkroom.runtime.component import OnBytes
from darkroom.runtime.devices import Devices
from darkroom.weights.source import TensorSource

REQUEST = GenerationRequest(prompt="a cat", width=64, height=64, steps=2)
CONFIG = EngineConfig(backend="vulkan0", threads=1, compute_type=ComputeType.F32)


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[bytes]:
    with Engine.load(CONFIG.model_copy(update={"model": checkpoint, "backend": "cpu"})) as engine:
        return [image.tobytes() for image in engine.generate(REQUEST).images]


@pytest.fixture
def engine(checkpoint: Path) -> Iterator[Engine]:
    devices = Devices([Processor(), FakeProvider(fake("vulkan0"))])
    with Engine.load(CONFIG.model_copy(update={"model": checkpoint}), devices=devices) as engine:
        yield engine


def run_out(engine: Engine, module: Module, times: int, when: Callable[[], bool] = lambda: True) -> None:
    """A module's network, wherever it is, asks for more memory than there is so many times."""
    component, left = engine.components[module], times
    build = component._build

    def refuse(net: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal left
        if left and when():
            left -= 1
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 20.00 GiB")

    def refusing() -> nn.Module:
        net = build()
        net.register_forward_pre_hook(refuse)
        return net

    component._build, component._net = refusing, None


def drawn(engine: Engine) -> list[bytes]:
    return [image.tobytes() for image in engine.generate(REQUEST).images]


@pytest.mark.parametrize(
    ("times", "said", "streamed"),
    [
        (1, "with te and vae there only while needed", False),
        (2, "blocks brought one by one", True),
        (3, "blocks brought one by one", True),
    ],
)
def test_diffusion_finishes_on_a_lower_rung(
    engine: Engine,
    expected: list[bytes],
    caplog: pytest.LogCaptureFixture,
    times: int,
    said: str,
    streamed: bool,
) -> None:
    run_out(engine, Module.DIFFUSION, times)
    with caplog.at_level(logging.WARNING):
        assert drawn(engine) == expected
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == times
    assert all("diffusion: out of memory on vulkan0; once more" in warning for warning in warnings)
    assert said in warnings[-1]
    assert engine.components[Module.DIFFUSION].is_streamed == streamed
    assert engine.components[Module.TE].params is not engine.components[Module.TE].runtime


def test_the_rung_is_kept(engine: Engine, expected: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    run_out(engine, Module.DIFFUSION, 3)
    drawn(engine)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert drawn(engine) == expected
    assert not caplog.records


def test_text_encoder_that_runs_out_makes_the_others_leave(engine: Engine, expected: list[bytes]) -> None:
    run_out(engine, Module.TE, 1)
    assert drawn(engine) == expected
    diffusion = engine.components[Module.DIFFUSION]
    assert diffusion.params is not diffusion.runtime


@pytest.mark.parametrize("module", [Module.TE, Module.VAE])
def test_a_network_whose_blocks_come_and_go_leaves_for_another(
    checkpoint: Path, expected: list[bytes], monkeypatch: pytest.MonkeyPatch, module: Module
) -> None:
    config = CONFIG.model_copy(update={"model": checkpoint, "gpu_layers": 3})
    with Engine.load(config, devices=Devices([Processor(), FakeProvider(fake("vulkan0"))])) as engine:
        diffusion = engine.components[Module.DIFFUSION]
        diffusion.load()
        if module is Module.TE:
            run_out(engine, module, 1)
        else:
            errors = [torch.OutOfMemoryError("out of memory")]
            monkeypatch.setattr(
                autoencoding, "decode", lambda *args: decode(*args) if not errors else throw(errors.pop())
            )
        assert drawn(engine) == expected
        assert diffusion.is_streamed
        assert diffusion.params is engine.manager.host(Module.DIFFUSION)


def throw(error: Exception) -> NoReturn:
    raise error


def test_a_split_network_leaves_for_another(checkpoint: Path, expected: list[bytes]) -> None:
    devices = Devices([Processor(), FakeProvider(fake("vulkan0"), fake("vulkan1"))])
    config = CONFIG.model_copy(
        update={"model": checkpoint, "backend": "diffusion=vulkan0&vulkan1,te=vulkan1,vae=vulkan0"}
    )
    with Engine.load(config, devices=devices) as engine:
        engine.components[Module.DIFFUSION].load()
        run_out(engine, Module.TE, 1)
        assert drawn(engine) == expected
        diffusion, vae = engine.components[Module.DIFFUSION], engine.components[Module.VAE]
        assert diffusion.is_split
        assert diffusion.params is engine.manager.host(Module.DIFFUSION)
        assert vae.params is vae.runtime  # is on the other card


@pytest.mark.parametrize("options", [{"params_backend": "cpu"}, {"gpu_layers": 3}])
def test_weights_that_main_memory_cannot_hold_wait_in_their_file(
    checkpoint: Path,
    expected: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, object],
) -> None:
    config = CONFIG.model_copy(update={"model": checkpoint} | options)
    with Engine.load(config, devices=Devices([Processor(), FakeProvider(fake("vulkan0"))])) as engine:
        diffusion, host = engine.components[Module.DIFFUSION], engine.manager.host(Module.DIFFUSION)
        fill = diffusion._fill

        def fill_no_host(
            net: nn.Module,
            source: TensorSource,
            backend: Backend,
            only: Collection[str] | None,
            on_bytes: OnBytes | None = None,
        ) -> None:
            if backend is host:
                raise MemoryError
            fill(net, source, backend, only, on_bytes)

        monkeypatch.setattr(diffusion, "_fill", fill_no_host)
        with caplog.at_level(logging.WARNING):
            assert drawn(engine) == expected
        assert caplog.messages == [
            "diffusion: out of memory on cpu; once more, its weights read from their file for each use"
        ]
        assert diffusion.home is None
        assert (diffusion.params is diffusion.runtime) == ("gpu_layers" in options)
        assert diffusion.is_streamed == ("gpu_layers" in options)


def test_weights_that_wait_where_another_runs_make_room(
    checkpoint: Path, expected: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    config = CONFIG.model_copy(
        update={"model": checkpoint, "backend": "all=vulkan0,te=cpu", "params_backend": "diffusion=cpu"}
    )
    with Engine.load(config, devices=Devices([Processor(), FakeProvider(fake("vulkan0"))])) as engine:
        run_out(engine, Module.TE, 1)
        with caplog.at_level(logging.WARNING):
            assert drawn(engine) == expected
        assert caplog.messages == [
            "te: out of memory on cpu; once more, with diffusion read from the file for each use"
        ]
        assert engine.components[Module.DIFFUSION].params is None


def test_who_cannot_go_on_does_not_keep_the_others_from_it(
    engine: Engine, expected: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out(engine, Module.DIFFUSION, 2)
    error = torch.OutOfMemoryError("out of memory")
    monkeypatch.setattr(autoencoding, "encode_start", lambda *_: throw(error))
    hopeless = REQUEST.model_copy(update={"init_image": Image.new("RGB", (64, 64))})
    first, second = engine.generate_many([(hopeless, Hooks()), (REQUEST, Hooks())])
    assert isinstance(first, OutOfMemoryError)
    assert isinstance(second, GenerationResult)
    assert [image.tobytes() for image in second.images] == expected


def test_in_a_batch_those_who_left_stay_away_and_the_others_are_drawn(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    square = Image.new("RGB", (64, 64), "red")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    inpainting = {"init_image": square, "mask_image": mask, "strength": 1.0}
    asked = [
        REQUEST.model_copy(update={"seed": seed, "steps": 4, "preview": PreviewMode.PROJ} | inpainting)
        for seed in range(4)
    ]
    previews: list[Preview] = []
    cancelled: list[Progress] = []
    hooks = [
        Hooks(on_preview=previews.append),
        Hooks(cancelled.append, lambda: any(p.phase is Phase.SAMPLE and p.step == 1 for p in cancelled)),
        Hooks(is_skipped=lambda: True),
        Hooks(),
    ]
    devices = Devices([Processor(), FakeProvider(fake("vulkan0"))])
    config = CONFIG.model_copy(update={"model": checkpoint, "max_batch": 4})
    with Engine.load(config, devices=devices) as engine:
        expected = [engine.generate(one).images[0] for one in (asked[0], asked[3])]
        family, sizes = engine.model.family, []
        predict = family.predict

        def short(net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
            sizes.append(len(x))
            if 3 <= len(sizes) <= 5:  # the batch, and both of those who are left, alone
                raise MemoryError
            return predict(net, x, t, cond)

        monkeypatch.setattr(family, "predict", short)
        first, second, third, fourth = engine.generate_many(list(zip(asked, hooks, strict=True)))
    assert isinstance(second, Cancelled)
    assert isinstance(third, GenerationResult)
    assert not third.images
    for outcome, picture in zip((first, fourth), expected, strict=True):
        assert isinstance(outcome, GenerationResult)
        difference = np.asarray(outcome.images[0], dtype=int) - np.asarray(picture, dtype=int)
        assert abs(difference).max() <= 2
    alone = sizes[0] // 4
    assert sizes[2:5] == [2 * alone, alone, alone]
    assert sizes[5:] == [2 * alone] * 4
    assert previews[-1].step == 4


def test_when_nothing_is_left_to_do_the_request_fails_and_the_engine_lives(
    engine: Engine, expected: list[bytes]
) -> None:
    is_short = True
    run_out(engine, Module.DIFFUSION, 99, lambda: is_short)
    with pytest.raises(OutOfMemoryError, match="vulkan0: out of memory while running diffusion"):
        engine.generate(REQUEST)
    is_short = False
    assert drawn(engine) == expected
