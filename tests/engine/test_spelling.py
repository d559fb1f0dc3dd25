"""Names of files put together, and those of published layouts: what is written is recognised again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.headers import read_header

from darkroom.api.config import EngineConfig
from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.engine.convert import convert_model
from darkroom.engine.model import open_model
from darkroom.engine.spelling import by_file_names, by_native_names
from darkroom.weights.checkpoint import Checkpoint, open_checkpoint
from darkroom.weights.index import TensorIndex
from darkroom.weights.source import TensorView
from darkroom.weights.spellings import published


class Header(Checkpoint):
    """A checkpoint of which only the header is there."""

    def __init__(self, index: TensorIndex) -> None:
        self.path, self.index = Path("header"), index


def names(view: TensorView) -> set[str]:
    return set(view.index)


@pytest.mark.parametrize(
    ("role", "prefix"),
    [
        (Role.DIFFUSION_MODEL, "model.diffusion_model."),
        (Role.CLIP_L, "text_encoders.clip_l.transformer."),
        (Role.CLIP_G, "text_encoders.clip_g.transformer."),
        (Role.T5XXL, "text_encoders.t5xxl.transformer."),
        (Role.LLM, "text_encoders.llm."),
        (Role.LLM_VISION, "text_encoders.llm.visual."),
        (Role.VAE, "vae."),
    ],
)
def test_companions_get_their_prefix_once(tmp_path: Path, role: Role, prefix: str) -> None:
    save_file({"x.weight": torch.ones(2)}, tmp_path / "bare.safetensors")
    save_file({f"{prefix}x.weight": torch.ones(2)}, tmp_path / "prefixed.safetensors")
    for name in ("bare", "prefixed"):
        with open_checkpoint(tmp_path / f"{name}.safetensors") as file:
            assert names(by_file_names({role: file})) == {f"{prefix}x.weight"}


def test_a_companion_takes_the_place_of_the_models_part(tmp_path: Path) -> None:
    one, two = torch.ones(2), torch.ones(2)
    save_file(
        {"first_stage_model.old": one, "vae.older": two, "unet": torch.ones(1)}, tmp_path / "m.safetensors"
    )
    save_file({"new": torch.ones(2)}, tmp_path / "v.safetensors")
    with (
        open_checkpoint(tmp_path / "m.safetensors") as model,
        open_checkpoint(tmp_path / "v.safetensors") as vae,
    ):
        assert names(by_file_names({Role.MODEL: model, Role.VAE: vae})) == {"unet", "vae.new"}


def test_a_part_of_a_full_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    with open_checkpoint(checkpoint) as file:
        taken = names(by_file_names({Role.VAE: file}))
    assert taken == {name for name in load_file(checkpoint) if name.startswith("first_stage_model.")}


def test_what_no_generation_uses_is_left_out(tmp_path: Path) -> None:
    unused = ["betas", "sqrt_recipm1_alphas_cumprod", "model_ema.decay", "text_encoders.llm.lm_head.weight"]
    unused += ["cond_stage_model.transformer.text_model.embeddings.position_ids", "posterior_variance"]
    used = ["alphas_cumprod", "v_pred", "edm_vpred.sigma_max", "text_encoders.llm.model.norm.weight"]
    save_file({name: torch.ones(1) for name in unused + used}, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as file:
        assert names(by_file_names({Role.MODEL: file})) == set(used)


LAYOUTS = {
    "sdxl-diffusers": "sdxl-original",
    "sd3.5_medium-diffusers": "sd3.5_medium-original",
    "flux_dev-diffusers": "flux_dev-bfl",
    "flux_dev-gguf": "flux_dev-bfl",
    "chroma_hd-diffusers": "chroma_hd-original",
    "qwen_image-diffusers": "qwen_image-comfyui",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_diffusion_network_alone_gets_its_authors_names(layout: str) -> None:
    """Without text encoders and autoencoder, too; those of full files are not looked at here."""
    native = [by_native_names({Role.MODEL: Header(read_header(name))}) for name in (layout, LAYOUTS[layout])]
    ours, authors = (
        {} if view is None else view.under("model.diffusion_model.").index.shapes() for view in native
    )
    assert ours == authors
    assert ours


def test_native_names_of_text_encoders_are_comfyuis() -> None:
    assert published("text_encoders.t5xxl.shared.weight") == "text_encoders.t5xxl.transformer.shared.weight"
    assert published("text_encoders.clip_l.transformer.x") == "text_encoders.clip_l.transformer.x"
    assert published("text_encoders.llm.model.norm.weight") == "text_encoders.llm.model.norm.weight"
    assert published("text_encoders.llm_vision.blocks.0.x") == "text_encoders.llm.visual.blocks.0.x"


@pytest.mark.parametrize("native_names", [False, True])
def test_what_was_put_together_is_the_same_model(
    checkpoint: Path, tmp_path: Path, native_names: bool
) -> None:
    tensors = load_file(checkpoint)
    vae = "first_stage_model."
    save_file({n: t for n, t in tensors.items() if not n.startswith(vae)}, tmp_path / "bare.safetensors")
    save_file(
        {n.removeprefix(vae): t for n, t in tensors.items() if n.startswith(vae)},
        tmp_path / "vae.safetensors",
    )
    config = EngineConfig(model=tmp_path / "bare.safetensors", vae=tmp_path / "vae.safetensors", threads=1)
    output = tmp_path / "x.gguf"
    convert_model(config, output, native_names=native_names)
    with open_checkpoint(output) as file:
        assert (names_of := set(file.index)) == (set(tensors) if native_names else names_of)
    before, after = (open_model(EngineConfig(model=path)) for path in (checkpoint, output))
    assert before.family is after.family
    for module, source in before.sources.items():
        for name in source.index:
            ours, theirs = after.sources[module].read(name), source.read(name)
            assert isinstance(ours, torch.Tensor)
            assert isinstance(theirs, torch.Tensor)
            assert torch.equal(ours, theirs)
    before.close()
    after.close()


def test_native_names_need_a_known_network(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    for config in (
        EngineConfig(vae=tmp_path / "x.safetensors"),
        EngineConfig(model=tmp_path / "x.safetensors"),
    ):
        with pytest.raises(
            CheckpointError, match=r"--convert-name: .* holds no diffusion network of a known model"
        ):
            convert_model(config, tmp_path / "y.gguf", native_names=True)
