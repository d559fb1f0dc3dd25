"""The manager, which reads headers by itself, and the engine, which loads them, say the same of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.headers import FOLDER, answers, header_names
from tests.manager.library.files import write_header

from darkroom.api.names import Role
from darkroom.manager.library.headers import read_header
from darkroom.manager.library.identify import identify
from darkroom.manager.library.parts import PartKind

COMPANIONS = {
    "clip_g-comfyui": (PartKind.CLIP_G, "clip_text", 1280),
    "clip_l-comfyui": (PartKind.CLIP_L, "clip_text", 768),
    "flux_ae-bfl": (PartKind.VAE, "kl", 16),
    "qwen2.5_vl_7b-comfyui": (PartKind.LLM, "qwen2", 3584),
    "qwen2.5_vl_7b-gguf": (PartKind.LLM, "qwen2", 3584),
    "qwen2.5_vl_7b_mmproj-gguf": (PartKind.LLM_VISION, "qwen2_vision", 3584),
    "qwen3_4b-comfyui": (PartKind.LLM, "qwen3", 2560),
    "qwen3_4b-gguf": (PartKind.LLM, "qwen3", 2560),
    "qwen_image_vae-comfyui": (PartKind.VAE, "wan", 16),
    "sd3_vae-diffusers": (PartKind.VAE, "kl", 16),
    "t5xxl-comfyui": (PartKind.T5XXL, "t5", 4096),
    "t5xxl-gguf": (PartKind.T5XXL, "t5", 4096),
}


@pytest.mark.parametrize("name", header_names())
def test_families_of_main_files(name: str, tmp_path: Path) -> None:
    """Both read the same published header: the engine its tensors, the manager the file."""
    identity = identify(read_header(write_header(tmp_path, name)))
    role = (
        "model" if any(part.kind is not PartKind.DIFFUSION for part in identity.parts) else "diffusion_model"
    )
    assert answers({Role(role): name}) == [identity.family]
    assert not identity.problem


def test_all_companions_are_listed() -> None:
    assert {path.stem for path in (FOLDER / "companions").glob("*.txt")} == COMPANIONS.keys()


@pytest.mark.parametrize("name", COMPANIONS)
def test_companions(name: str, tmp_path: Path) -> None:
    identity = identify(read_header(write_header(tmp_path, f"companions/{name}")))
    part = identity.parts[0]
    assert (part.kind, part.architecture, part.width) == COMPANIONS[name]
    assert identity.family is None
