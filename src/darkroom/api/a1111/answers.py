"""What A1111's clients get."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class GenerationAnswer(BaseModel):
    """Pictures. images: in base64. parameters: the request. info: a `GenerationInfo` as JSON text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class GenerationInfo(BaseModel):
    """How the pictures of one request were made, as A1111's `Processed.js()` has it.

    The single values (prompt, seed, ...) are the first picture's.
    """

    prompt: str
    all_prompts: list[str]
    negative_prompt: str
    all_negative_prompts: list[str]
    seed: int
    all_seeds: list[int]
    subseed: int
    all_subseeds: list[int]
    subseed_strength: float = 0
    width: int
    height: int
    sampler_name: str
    cfg_scale: float
    steps: int
    batch_size: int
    restore_faces: bool = False
    face_restoration_model: str | None = None
    sd_model_name: str
    sd_model_hash: str | None
    sd_vae_name: str | None
    sd_vae_hash: str | None = None
    seed_resize_from_w: int = -1
    seed_resize_from_h: int = -1
    denoising_strength: float | None
    extra_generation_params: dict[str, Any]
    index_of_first_image: int = 0
    infotexts: list[str]
    styles: list[str] = Field(default_factory=list)
    job_timestamp: str
    clip_skip: int
    is_using_inpainting_conditioning: bool
    version: str


class ProgressState(BaseModel):
    """What is going on, as A1111's `shared.state` has it.

    job: the job's id, empty when nothing is drawn. job_no, job_count: pictures done and in all.
    """

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class ProgressAnswer(BaseModel):
    """How far the picture is. progress: 0 to 1. eta_relative: seconds left. current_image: in base64."""

    progress: float
    eta_relative: float
    state: ProgressState
    current_image: str | None = None
    textinfo: str | None = None


class ExtraSingleAnswer(BaseModel):
    """One upscaled picture."""

    html_info: str
    image: str | None = None


class ExtraBatchAnswer(BaseModel):
    """Several upscaled pictures."""

    html_info: str
    images: list[str]


class PngInfoAnswer(BaseModel):
    """What a picture says about itself. info: its `parameters` text, taken apart in `parameters`."""

    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


class SamplerItem(BaseModel):
    """A sampler."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(BaseModel):
    """A schedule of noise levels."""

    name: str
    label: str
    aliases: list[str] | None = None
    default_rho: float | None = None
    need_inner_model: bool | None = None


class ModelItem(BaseModel):
    """A model. hash: the first ten digits of its SHA-256; both are null until the file has been read."""

    model_config = ConfigDict(protected_namespaces=())

    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None = None


class VaeItem(BaseModel):
    """An autoencoder of its own."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    filename: str


class UpscalerItem(BaseModel):
    """A way to enlarge pictures."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float = 4


class EmbeddingItem(BaseModel):
    """A textual inversion embedding. shape: the width of its vectors, null for a text encoder's own."""

    step: int | None = None
    sd_checkpoint: str | None = None
    sd_checkpoint_name: str | None = None
    shape: int | None = None
    vectors: int | None = None


class EmbeddingsAnswer(BaseModel):
    """Embeddings by the word that calls them."""

    loaded: dict[str, EmbeddingItem]
    skipped: dict[str, EmbeddingItem] = Field(default_factory=dict)


class MemoryAnswer(BaseModel):
    """Bytes: of this process in main memory, and on the card."""

    ram: dict[str, Any]
    cuda: dict[str, Any]


class ScriptsAnswer(BaseModel):
    """The scripts that there are: none."""

    txt2img: list[str] = Field(default_factory=list)
    img2img: list[str] = Field(default_factory=list)
