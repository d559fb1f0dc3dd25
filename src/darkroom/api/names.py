"""The names that people type: samplers, schedules, generators, modules. Values are stable-diffusion.cpp's."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """What one run of sd-cli does."""

    IMG_GEN = "img_gen"
    CONVERT = "convert"
    METADATA = "metadata"


class SampleMethod(StrEnum):
    """How the sampling trajectory is integrated."""

    EULER = "euler"
    EULER_A = "euler_a"
    HEUN = "heun"
    DPM2 = "dpm2"
    DPMPP_2S_A = "dpm++2s_a"
    DPMPP_2M = "dpm++2m"
    DPMPP_2M_V2 = "dpm++2mv2"
    IPNDM = "ipndm"
    IPNDM_V = "ipndm_v"
    LCM = "lcm"
    DDIM_TRAILING = "ddim_trailing"
    TCD = "tcd"
    RES_MULTISTEP = "res_multistep"
    RES_2S = "res_2s"
    ER_SDE = "er_sde"
    EULER_CFG_PP = "euler_cfg_pp"
    EULER_A_CFG_PP = "euler_a_cfg_pp"
    EULER_GE = "euler_ge"
    DPMPP_2M_SDE = "dpm++2m_sde"
    DPMPP_2M_SDE_BT = "dpm++2m_sde_bt"
    LMS = "lms"


class Scheduler(StrEnum):
    """Which noise levels the trajectory visits. `normal` is accepted as a name for `discrete`."""

    DISCRETE = "discrete"
    KARRAS = "karras"
    EXPONENTIAL = "exponential"
    AYS = "ays"
    GITS = "gits"
    SMOOTHSTEP = "smoothstep"
    SGM_UNIFORM = "sgm_uniform"
    SIMPLE = "simple"
    KL_OPTIMAL = "kl_optimal"
    LCM = "lcm"
    BONG_TANGENT = "bong_tangent"
    LTX2 = "ltx2"
    LOGIT_NORMAL = "logit_normal"
    FLUX2 = "flux2"
    FLUX = "flux"
    BETA = "beta"

    @classmethod
    def _missing_(cls, value: object) -> Scheduler | None:
        return cls.DISCRETE if value == "normal" else None


class RngType(StrEnum):
    """Where noise comes from: `cuda` is Philox as on a GPU, `cpu` is torch's Mersenne Twister."""

    STD_DEFAULT = "std_default"
    CUDA = "cuda"
    CPU = "cpu"


class PredictionType(StrEnum):
    """What the network predicts."""

    EPS = "eps"
    V = "v"
    EDM_V = "edm_v"
    SD3_FLOW = "sd3_flow"
    FLUX_FLOW = "flux_flow"


class PreviewMode(StrEnum):
    """How a picture is shown before it is done: `proj` mixes colours of latent channels, others decode."""

    NONE = "none"
    PROJ = "proj"
    TAE = "tae"
    VAE = "vae"

    @property
    def visible(self) -> PreviewMode:
        """Itself; for none the one that costs next to nothing."""
        return PreviewMode.PROJ if self is PreviewMode.NONE else self


class ComputeType(StrEnum):
    """The arithmetic of the networks. `auto` takes bf16 where the device is fast at it, else f32."""

    AUTO = "auto"
    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"


class WeightType(StrEnum):
    """The types that weights can be written in, as GGUF's programs spell them; case does not matter."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q4_0 = "q4_0"
    Q4_1 = "q4_1"
    Q5_0 = "q5_0"
    Q5_1 = "q5_1"
    Q8_0 = "q8_0"
    Q2_K = "q2_K"
    Q3_K = "q3_K"
    Q4_K = "q4_K"
    Q5_K = "q5_K"
    Q6_K = "q6_K"
    IQ4_NL = "iq4_nl"
    IQ4_XS = "iq4_xs"
    TQ1_0 = "tq1_0"
    TQ2_0 = "tq2_0"
    MXFP4 = "mxfp4"
    NVFP4 = "nvfp4"

    @classmethod
    def _missing_(cls, value: object) -> WeightType | None:
        return next((type for type in cls if type.dtype == str(value).lower()), None)

    @property
    def dtype(self) -> str:
        """What an index of tensors calls it."""
        return self.value.lower()


class Module(StrEnum):
    """The parts of a model that can be placed on devices of their own."""

    DIFFUSION = "diffusion"
    TE = "te"
    CLIP_VISION = "clip_vision"
    VAE = "vae"
    CONTROLNET = "controlnet"
    PHOTOMAKER = "photomaker"
    UPSCALER = "upscaler"
    DETECTOR = "detector"

    @classmethod
    def parse(cls, name: str) -> Module | None:
        """The module that `name` or one of its aliases means; case, `-` and `_` do not matter."""
        return MODULE_ALIASES.get(name.strip().lower().replace("-", "").replace("_", ""))


class SplitMode(StrEnum):
    """How a network is spread over several devices: whole blocks, or a part of every matrix."""

    LAYER = "layer"
    ROW = "row"


class Role(StrEnum):
    """The files that a model is put together from; each value is also the name of its option."""

    MODEL = "model"
    DIFFUSION_MODEL = "diffusion_model"
    CLIP_L = "clip_l"
    CLIP_G = "clip_g"
    T5XXL = "t5xxl"
    LLM = "llm"
    LLM_VISION = "llm_vision"
    VAE = "vae"

    @property
    def flag(self) -> str:
        """The option that names the file."""
        return "--diffusion-model" if self is Role.DIFFUSION_MODEL else f"--{self.value}"

    @property
    def prefix(self) -> str:
        """Where the part's tensors live in a native checkpoint; the main file's have none."""
        match self:
            case Role.MODEL:
                return ""
            case Role.DIFFUSION_MODEL:
                return "model.diffusion_model."
            case Role.VAE:
                return "first_stage_model."
            case _:
                return f"text_encoders.{self.value}."


MODULE_ALIASES: dict[str, Module] = {
    alias: module
    for module, aliases in {
        Module.DIFFUSION: ("diffusion", "model", "unet", "dit"),
        Module.TE: (
            "te",
            "clip",
            "text",
            "textencoder",
            "textencoders",
            "conditioner",
            "cond",
            "llm",
            "t5",
            "t5xxl",
        ),
        Module.CLIP_VISION: ("clipvision", "vision"),
        Module.VAE: ("vae", "firststage", "autoencoder", "tae"),
        Module.CONTROLNET: ("controlnet", "control"),
        Module.PHOTOMAKER: ("photomaker", "photomakerid", "pmid", "photo"),
        Module.UPSCALER: ("upscaler", "esrgan", "hires"),
        Module.DETECTOR: ("detector", "adetailer", "yolo"),
    }.items()
    for alias in aliases
}
