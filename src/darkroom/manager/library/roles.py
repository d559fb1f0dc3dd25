"""The files that a sidecar can be given, by the names of stable-diffusion.cpp's options."""

from __future__ import annotations

from enum import StrEnum


class FileRole(StrEnum):
    """What a file is given as. The values of `api.names.Role` and those that our engine does not take yet."""

    MODEL = "model"
    DIFFUSION_MODEL = "diffusion_model"
    HIGH_NOISE_DIFFUSION_MODEL = "high_noise_diffusion_model"
    UNCOND_DIFFUSION_MODEL = "uncond_diffusion_model"
    CLIP_L = "clip_l"
    CLIP_G = "clip_g"
    T5XXL = "t5xxl"
    LLM = "llm"
    LLM_VISION = "llm_vision"
    CLIP_VISION = "clip_vision"
    VAE = "vae"
    AUDIO_VAE = "audio_vae"
    TAESD = "taesd"
    EMBEDDINGS_CONNECTORS = "embeddings_connectors"
    CONTROL_NET = "control_net"

    @property
    def flag(self) -> str:
        """The option that names the file, as sd-server and sd-cli have it."""
        return f"--{self.value.replace('_', '-')}" if self in _HYPHENS else f"--{self.value}"

    @property
    def is_main(self) -> bool:
        """Whether it is the model itself, not a companion of one."""
        return self in (FileRole.MODEL, FileRole.DIFFUSION_MODEL)


_HYPHENS = {
    FileRole.DIFFUSION_MODEL,
    FileRole.HIGH_NOISE_DIFFUSION_MODEL,
    FileRole.UNCOND_DIFFUSION_MODEL,
    FileRole.AUDIO_VAE,
    FileRole.EMBEDDINGS_CONNECTORS,
    FileRole.CONTROL_NET,
}
