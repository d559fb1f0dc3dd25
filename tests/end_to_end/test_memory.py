"""Memory is given back: nothing leaks, nothing stays that the plan does not say, too little is no crash."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.names import Module
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig

GENERATIONS = 100
MEGABYTE = 10**6


def draw_many(engine: Engine, count: int, first: int = 0) -> None:
    """Pictures of different prompts, sizes and seeds."""
    for number in range(first, first + count):
        engine.generate(
            GenerationRequest(
                prompt=f"cat number {number}", width=64 + 64 * (number % 2), height=64, steps=2, seed=number
            )
        )
    gc.collect()


def test_a_hundred_generations_leak_nothing(checkpoint: Path) -> None:
    process = psutil.Process()
    with Engine.load(EngineConfig(model=checkpoint, backend="cpu", threads=1)) as engine:
        draw_many(engine, 20)  # caches of prompts and kernels fill up
        before = process.memory_info().rss
        objects = len(gc.get_objects())
        draw_many(engine, GENERATIONS, first=20)
        assert process.memory_info().rss - before < 10 * MEGABYTE
        assert len(gc.get_objects()) - objects < GENERATIONS


@pytest.fixture
def cuda() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("params_backend", ["", "cpu", "disk"])
def test_a_card_holds_the_planned_weights_after_a_hundred_generations(
    cuda: None, checkpoint: Path, params_backend: str
) -> None:
    config = EngineConfig(model=checkpoint, backend="cuda0", params_backend=params_backend)
    with Engine.load(config) as engine:
        draw_many(engine, 2)
    of_libraries = torch.cuda.memory_allocated()
    with Engine.load(config) as engine:
        draw_many(engine, 40)  # the cache of prompts fills up
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        draw_many(engine, GENERATIONS, first=40)
        assert torch.cuda.memory_allocated() - before[0] < 10**5
        assert torch.cuda.memory_reserved() <= before[1]
        if params_backend:
            assert torch.cuda.memory_allocated() - of_libraries < 2 * MEGABYTE  # the last prompts
    gc.collect()
    assert torch.cuda.memory_allocated() <= of_libraries


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose diffusion network is by far the largest part, 0.3 GB."""
    torch.manual_seed(0)
    te = CLIPTextConfig(49408, 77, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=1)
    nets = {
        "cond_stage_model.transformer.": CLIPTextModel(te),
        "model.diffusion_model.": UNetModel(UNetConfig(model_channels=128, context_dim=64)),
        "first_stage_model.": AutoencoderKL(KLConfig(ch=32)),
    }
    tensors = {
        prefix + name: tensor.half().contiguous()
        for prefix, net in nets.items()
        for name, tensor in net.state_dict().items()
    }
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.gpu
@pytest.mark.parametrize("megabytes", [300, 240])
def test_a_card_that_is_too_small_finishes_the_same_request(
    cuda: None, wide: Path, caplog: pytest.LogCaptureFixture, megabytes: int
) -> None:
    request = GenerationRequest(prompt="a cat", width=256, height=256, steps=3)
    with Engine.load(EngineConfig(model=wide, backend="cuda0")) as engine:
        expected = np.asarray(engine.generate(request).images[0], dtype=int)
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(megabytes * MEGABYTE / total)
    with caplog.at_level(logging.WARNING), Engine.load(EngineConfig(model=wide, backend="cuda0")) as engine:
        for _ in range(2):
            picture = np.asarray(engine.generate(request).images[0], dtype=int)
            assert abs(picture - expected).mean() < 1
        assert engine.components[Module.DIFFUSION].is_streamed
    assert "diffusion: out of memory on cuda0; once more" in caplog.text
