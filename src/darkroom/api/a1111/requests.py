"""What A1111 clients send. Any field may be null, which says nothing; unknown ones are kept and echoed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Side = Annotated[int, Field(gt=0, le=65_536)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Few = Annotated[int, Field(gt=0, le=64)]
Picture = Annotated[str, Field(description="base64 of a PNG, JPEG or WebP file, with or without data:...,")]


class Generation(BaseModel):
    """What txt2img and img2img have in common. None means: as the model or the server's start has it."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None = Field(None, description="may hold <sd_cpp_extra_args>{...}</sd_cpp_extra_args>")
    negative_prompt: str | None = None
    styles: list[str] | None = Field(None, description="names of saved prompts; this server has none")
    seed: int | None = Field(-1, ge=-(2**63), lt=2**63, description="a negative one is drawn at random")
    subseed: int | None = None
    subseed_strength: Number | None = Field(None, description="above 0: refused")
    seed_resize_from_h: int | None = Field(None, description="above 0: refused")
    seed_resize_from_w: int | None = Field(None, description="above 0: refused")
    sampler_name: str | None = Field(None, description="also with a schedule: DPM++ 2M Karras")
    sampler_index: str | int | None = Field(None, description="as sampler_name, which counts more")
    scheduler: str | None = None
    batch_size: Few | None = Field(1, description="times n_iter: the number of pictures")
    n_iter: Few | None = 1
    steps: Annotated[int, Field(gt=0, le=10_000)] | None = None
    cfg_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    distilled_cfg_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="Forge's: what a distilled network is told"
    )
    width: Side | None = None
    height: Side | None = None
    clip_skip: int | None = Field(None, description="stable-diffusion.cpp's; below 1: the model's")
    eta: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    denoising_strength: Number | None = Field(None, description="cut to 0 ... 1")
    extra_images: list[Picture] | None = Field(None, description="reference images of edit models")
    lora: list[Any] | None = Field(None, description="refused: this engine applies no LoRA yet")
    restore_faces: bool | None = Field(None, description="true: refused")
    tiling: bool | None = Field(None, description="true: refused")
    enable_hr: bool | None = Field(None, description="true: refused, there is no second pass")
    refiner_checkpoint: str | None = Field(None, description="a name: refused")
    s_churn: Number | None = Field(None, description="above 0: refused")
    s_min_uncond: Number | None = Field(None, description="above 0: refused")
    s_noise: Number | None = Field(None, description="another than 1: refused")
    override_settings: dict[str, Any] | None = Field(None, description="options for this request alone")
    override_settings_restore_afterwards: bool | None = True
    script_name: str | None = Field(None, description="a name: refused")
    script_args: list[Any] | None = None
    alwayson_scripts: dict[str, Any] | None = Field(None, description="with arguments: refused by name")
    infotext: str | None = Field(None, description="not empty: refused")
    send_images: bool | None = True
    save_images: bool | None = Field(False, description="this server keeps no pictures")


class TextToImage(Generation):
    """The body of POST /sdapi/v1/txt2img."""


class ImageToImage(Generation):
    """The body of POST /sdapi/v1/img2img."""

    init_images: list[Picture] | None = Field(None, description="one picture")
    resize_mode: Annotated[int, Field(ge=0, le=3)] | None = Field(
        0, description="0 stretch, 1 crop, 2 fill the borders; 3 (latent): refused"
    )
    mask: Picture | None = Field(None, description="white, or opaque, is drawn anew")
    mask_blur: Annotated[int, Field(ge=0, le=256)] | None = None
    mask_blur_x: Annotated[int, Field(ge=0, le=256)] | None = 4
    mask_blur_y: Annotated[int, Field(ge=0, le=256)] | None = 4
    inpainting_fill: Annotated[int, Field(ge=0, le=3)] | None = Field(
        0, description="0 the colours around, 1 the picture itself; 2 and 3 (latent): refused"
    )
    inpaint_full_res: bool | int | None = Field(True, description="draw the masked part alone, at full size")
    inpaint_full_res_padding: Annotated[int, Field(ge=0, le=4096)] | None = Field(
        0, description="pixels around the masked part that the model sees as well"
    )
    inpainting_mask_invert: bool | int | None = 0
    initial_noise_multiplier: Number | None = Field(None, description="another than 1: refused")
    include_init_images: bool | None = Field(False, description="echo the pictures in `parameters`")


class Extras(BaseModel):
    """What upscaling is asked with."""

    resize_mode: Annotated[int, Field(ge=0, le=1)] | None = Field(
        0, description="0: by upscaling_resize; 1: to upscaling_resize_w x upscaling_resize_h"
    )
    show_extras_results: bool | None = True
    gfpgan_visibility: Share | None = Field(0, description="above 0: refused")
    codeformer_visibility: Share | None = Field(0, description="above 0: refused")
    codeformer_weight: Share | None = 0
    upscaling_resize: Annotated[float, Field(gt=0, le=64, allow_inf_nan=False)] | None = 2
    upscaling_resize_w: Side | None = 512
    upscaling_resize_h: Side | None = 512
    upscaling_crop: bool | None = Field(True, description="cut what does not fit in resize_mode 1")
    upscaler_1: str | None = "None"
    upscaler_2: str | None = "None"
    extras_upscaler_2_visibility: Share | None = 0
    upscale_first: bool | None = False


class ExtraSingleImage(Extras):
    """The body of POST /sdapi/v1/extra-single-image."""

    image: Picture = ""


class FileData(BaseModel):
    """One picture of several."""

    data: Picture
    name: str = ""


class ExtraBatchImages(Extras):
    """The body of POST /sdapi/v1/extra-batch-images."""

    imageList: Annotated[list[FileData], Field(max_length=64)]


class PngInfo(BaseModel):
    """The body of POST /sdapi/v1/png-info."""

    image: Picture
