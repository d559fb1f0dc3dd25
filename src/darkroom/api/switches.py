"""Options that both programs know and that change nothing in an engine or a picture."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from darkroom.api.options import opt


class ContextSwitches(BaseModel):
    """Context options that change nothing in an engine's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    list_devices: bool = opt(False, "list the devices for --backend and exit", "--list-devices")
    mmap: bool = opt(False, "accepted; weights are always memory-mapped", "--mmap")
    fa: bool = opt(False, "accepted; attention is always memory-efficient", "--fa")
    diffusion_fa: bool = opt(False, "accepted; attention is always memory-efficient", "--diffusion-fa")
    diffusion_conv_direct: bool = opt(
        False, "accepted; convolutions always run directly", "--diffusion-conv-direct"
    )
    vae_conv_direct: bool = opt(False, "accepted; convolutions always run directly", "--vae-conv-direct")


class PictureSwitches(BaseModel):
    """Generation options about the file, not the picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    disable_image_metadata: bool = opt(
        False, "do not write the parameters text into the picture", "--disable-image-metadata"
    )
