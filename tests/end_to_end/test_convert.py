"""Converted models draw the pictures of the files that they are from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from tests.families.flux.reference import native, pipeline

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.names import ComputeType, Module, Role, WeightType
from darkroom.engine.convert import convert_model
from darkroom.layers.packed_linear import PackedModule
from darkroom.weights.checkpoint import open_checkpoint

ROLES = (Role.DIFFUSION_MODEL, Role.CLIP_L, Role.T5XXL, Role.VAE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Flux as four files."""
    folder, tensors = tmp_path_factory.mktemp("flux"), native(pipeline())
    for role in ROLES:
        part = {n.removeprefix(role.prefix): t for n, t in tensors.items() if n.startswith(role.prefix)}
        save_file({n: t.half().contiguous() for n, t in part.items()}, folder / f"{role}.safetensors")
    return {role.value: folder / f"{role}.safetensors" for role in ROLES}


def draw(**config: Any) -> tuple[np.ndarray, bool]:  # noqa: ANN401
    """The picture, and whether weights of the text encoders were packed in memory."""
    with Engine.load(EngineConfig(compute_type=ComputeType.F32, threads=1, **config)) as engine:
        request = GenerationRequest(prompt="a cat", width=64, height=64, steps=2, seed=3)
        image = engine.generate(request).images[0]
        with engine.components[Module.TE].resident() as te:
            is_packed = any(isinstance(module, PackedModule) for module in te.modules())
    return np.asarray(image).astype(int), is_packed


@pytest.mark.parametrize("native_names", [False, True])
@pytest.mark.parametrize("ending", ["gguf", "safetensors"])
def test_four_files_as_one(files: dict[str, Path], tmp_path: Path, ending: str, native_names: bool) -> None:
    output = tmp_path / f"one.{ending}"
    convert_model(EngineConfig(**files), output, native_names=native_names)  # type: ignore[arg-type]
    expected, _ = draw(**files)
    assert np.array_equal(draw(model=output)[0], expected)
    assert expected.std() > 5


def test_a_diffusers_folder_becomes_a_checkpoint(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path / "folder")
    config, output = EngineConfig(model=tmp_path / "folder"), tmp_path / "one.safetensors"
    convert_model(config, output, native_names=True)
    with open_checkpoint(output) as checkpoint:
        assert "model.diffusion_model.double_blocks.0.img_attn.qkv.weight" in checkpoint.index
    assert np.array_equal(draw(model=output)[0], draw(model=tmp_path / "folder")[0])


def test_quantized_beforehand_or_while_loading(files: dict[str, Path], tmp_path: Path) -> None:
    config = EngineConfig(**files, type=WeightType.Q8_0)  # type: ignore[arg-type]
    convert_model(config, tmp_path / "one.gguf")
    expected, packed_before = draw(**files)
    from_file, packed_file = draw(model=tmp_path / "one.gguf")
    while_loading, packed_loading = draw(**files, type=WeightType.Q8_0)
    assert (packed_before, packed_file, packed_loading) == (False, True, True)
    for picture in (from_file, while_loading):
        assert 0 < np.abs(picture - expected).mean() < 4
    assert np.abs(from_file - while_loading).mean() < 4
