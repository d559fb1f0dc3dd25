"""What an engine is loaded with: files, placement, generators. Per-picture options are in request.py."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from darkroom.api.errors import CheckpointError
from darkroom.api.names import ComputeType, PredictionType, RngType, Role, WeightType
from darkroom.api.options import flags, opt


class EngineConfig(BaseModel):
    """Load-time options, stable-diffusion.cpp's "Context Options"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path | None = opt(
        None, "path to full model (default: the built-in model)", "-m", "--model", metavar="PATH"
    )
    diffusion_model: Path | None = opt(
        None, "path to the diffusion network alone", "--diffusion-model", metavar="PATH"
    )
    clip_l: Path | None = opt(None, "path to the CLIP-L text encoder", "--clip_l", metavar="PATH")
    clip_g: Path | None = opt(None, "path to the CLIP-G text encoder", "--clip_g", metavar="PATH")
    t5xxl: Path | None = opt(None, "path to the T5-XXL text encoder", "--t5xxl", metavar="PATH")
    llm: Path | None = opt(
        None,
        "path to the language model that encodes text (Qwen-Image: Qwen2.5-VL-7B, Z-Image: Qwen3-4B)",
        "--llm",
        metavar="PATH",
        aliases=("--qwen2vl",),
    )
    llm_vision: Path | None = opt(
        None,
        "path to the language model's vision tower, for reference images (mmproj)",
        "--llm_vision",
        metavar="PATH",
        aliases=("--qwen2vl_vision",),
    )
    vae: Path | None = opt(None, "path to a standalone vae model", "--vae", metavar="PATH")
    taesd: Path | None = opt(
        None,
        "path to a tiny autoencoder (TAESD) of the model's latents, for fast decoding at lower quality",
        "--taesd",
        metavar="PATH",
        aliases=("--tae",),
    )
    taesd_preview_only: bool = opt(
        False, "--taesd shows previews only; the VAE decodes the picture", "--taesd-preview-only"
    )
    embd_dir: Path | None = opt(
        None, "directory of textual inversion embeddings", "--embd-dir", metavar="DIR"
    )
    backend: str = opt(
        "",
        "runtime backend: one device name for everything, or a list such as te=cpu,vae=cuda0,diffusion=cuda0;"
        " diffusion and te can be split over several devices: diffusion=cuda0&cuda1",
        "--backend",
        metavar="SPEC",
        concat=True,
    )
    split_mode: str = opt(
        "",
        "how a network is split over several devices: layer (some blocks on each) or row (a part of every "
        "block on each); same syntax as --backend (default: layer)",
        "--split-mode",
        metavar="SPEC",
        concat=True,
    )
    params_backend: str = opt(
        "",
        "where weights live: same syntax as --backend, plus disk (default: the module's runtime backend)",
        "--params-backend",
        metavar="SPEC",
        concat=True,
    )
    offload_to_cpu: bool = opt(
        False,
        "keep weights in RAM and move them when needed; counts only without --params-backend",
        "--offload-to-cpu",
    )
    max_vram: str = opt(
        "0",
        "GiB of a device's memory to use, one number or a list such as cuda0=6,cuda1=4; below 0: all that is "
        "free less so much; weights that do not fit are brought when they are needed (default: 0, no limit)",
        "--max-vram",
        metavar="SPEC",
    )
    stream_layers: bool = opt(
        False,
        "bring all blocks of the diffusion network one by one, from where its weights live (--params-backend "
        "cpu or disk); with --max-vram or --n-gpu-layers only those that do not stay",
        "--stream-layers",
    )
    gpu_layers: int = opt(
        -1,
        "blocks of the diffusion network that stay on its device, the others are brought one by one "
        "(default: -1, all; 0: none)",
        "-ngl",
        "--n-gpu-layers",
        metavar="N",
        ge=-1,
    )
    auto_fit: bool = opt(
        False,
        "place the model so that it runs as fast as memory allows, print the plan and run it; --max-vram "
        "says how much of a device may be used, other placement options are ignored",
        "--auto-fit",
    )
    clip_on_cpu: bool = opt(
        False, "run text encoders on the CPU; counts only without --backend", "--clip-on-cpu"
    )
    vae_on_cpu: bool = opt(False, "run the VAE on the CPU; counts only without --backend", "--vae-on-cpu")
    control_net_cpu: bool = opt(
        False, "run the ControlNet on the CPU; counts only without --backend", "--control-net-cpu"
    )
    eager_load: bool = opt(
        False, "read all weights at start instead of when a module first runs", "--eager-load"
    )
    max_batch: int = opt(
        0,
        "pictures of one shape that are drawn at once (default: 0, as many as the device is faster with; "
        "1: one by one, so that a picture is the same to the bit beside whichever others)",
        "--max-batch",
        metavar="N",
        ge=0,
        le=64,
    )
    type: WeightType | None = opt(
        None,
        "type that weights are converted to (default: as they are in the file; iq1, iq2 and iq3 types cannot "
        "be written, they need statistics of the model in use)",
        "--type",
        metavar="TYPE",
        label="weight format",
    )
    tensor_type_rules: str = opt(
        "",
        'types of single tensors, pattern=type, comma-separated: "^vae\\.=f16,model\\.=q8_0"; the first '
        "regular expression that is found in a tensor's name decides, and --type where none is",
        "--tensor-type-rules",
        metavar="RULES",
        concat=True,
    )
    threads: int = opt(
        -1,
        "CPU threads (default: -1, the number of physical cores)",
        "-t",
        "--threads",
        metavar="N",
        le=1024,  # with far more, OpenMP crashes the process
    )
    compute_type: ComputeType = opt(
        ComputeType.AUTO,
        "arithmetic of the networks; auto is bf16 where the device is fast at it, else f32",
        "--compute-type",
        metavar="TYPE",
        label="compute type",
    )
    rng: RngType = opt(
        RngType.CUDA, "random generator of the initial noise", "--rng", metavar="RNG", label="rng type"
    )
    sampler_rng: RngType | None = opt(
        None,
        "random generator of the samplers' noise (default: as --rng)",
        "--sampler-rng",
        metavar="RNG",
        label="sampler rng type",
    )
    model_args: str = opt(
        "",
        "more model options, key=value, comma-separated",
        "--model-args",
        metavar="LIST",
        concat=True,
    )
    prediction: PredictionType | None = opt(
        None,
        "what the network predicts (default: found out from the file)",
        "--prediction",
        metavar="TYPE",
        label="prediction type",
    )

    @property
    def files(self) -> dict[Role, Path]:
        """The files that were named, by their role, the main one first."""
        return {role: path for role in Role if (path := getattr(self, role.value)) is not None}


def check_files(config: EngineConfig) -> None:
    """The paths of a configuration exist; asked before torch is imported. Raises CheckpointError."""
    for name, (flag, _) in flags(EngineConfig).items():
        path = getattr(config, name)
        try:
            missing = isinstance(path, Path) and not path.exists()
        except OSError as error:  # a name that is too long, a folder that may not be entered
            raise CheckpointError(f"{flag.names[-1]}: '{path}' cannot be read ({error.strerror})") from None
        if missing:
            raise CheckpointError(f"{flag.names[-1]}: '{path}' does not exist; expected a path")
