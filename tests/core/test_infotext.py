from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from darkroom.api.version import __version__
from darkroom.core.infotext import Infotext, PictureParameters, read_infotext, write_infotext

PICTURE = PictureParameters(
    prompt="a red circle",
    negative_prompt="blurry",
    steps=20,
    cfg_scale=7,
    eta=0,
    seed=42,
    width=256,
    height=128,
    model="sd-v1-5.safetensors",
    rng="cuda",
    sampler="euler_a",
    scheduler="discrete",
    clip_skip=1,
)


def test_the_text_is_in_the_order_of_stable_diffusion_cpp() -> None:
    assert write_infotext(PICTURE) == (
        "a red circle\n"
        "Negative prompt: blurry\n"
        "Steps: 20, CFG scale: 7.000000, Eta: 0.000000, Seed: 42, Size: 256x128, Model: sd-v1-5.safetensors, "
        f"RNG: cuda, Sampler: euler_a discrete, Clip skip: 1, Version: darkroom {__version__}"
    )


def test_each_file_is_named_as_stable_diffusion_cpp_names_it() -> None:
    encoders = ("clip_l.safetensors", "t5, of 2020.gguf")
    files = dataclasses.replace(
        PICTURE, text_encoders=encoders, diffusion_model="dev.gguf", vae="ae.safetensors"
    )
    text = write_infotext(files)
    assert (
        'Sampler: euler_a discrete, TE: clip_l.safetensors, TE: "t5, of 2020.gguf", Unet: dev.gguf, '
        "VAE: ae.safetensors, Clip skip: 1"
    ) in text
    assert read_infotext(text).settings["TE"] == "clip_l.safetensors, t5, of 2020.gguf"


def test_what_was_not_used_is_left_out() -> None:
    text = write_infotext(dataclasses.replace(PICTURE, negative_prompt="", eta=None, clip_skip=None))
    assert "Negative prompt" not in text
    assert "Eta" not in text
    assert "Clip skip" not in text


def test_image_to_image_has_its_strength_and_custom_sigmas_replace_the_schedule() -> None:
    changed = dataclasses.replace(PICTURE, denoising_strength=0.75, sigmas=(14.6, 1, 0))
    read = read_infotext(write_infotext(changed)).settings
    assert read["Denoising strength"] == "0.750000"
    assert read["Sampler"] == "euler_a"
    assert read["Custom Sigmas"] == "[14.6000, 1.0000, 0.0000]"
    assert read["Clip skip"] == "1"


WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40).map(str.strip)
FILE_NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=30)


@given(prompt=WORDS, negative=WORDS, model=FILE_NAMES, args=WORDS)
def test_what_is_written_is_read_back(prompt: str, negative: str, model: str, args: str) -> None:
    picture = dataclasses.replace(
        PICTURE, prompt=prompt, negative_prompt=negative, model=model, extra_sample_args=args
    )
    read = read_infotext(write_infotext(picture))
    if not prompt.startswith("Negative prompt:"):
        assert (read.prompt, read.negative_prompt) == (prompt, negative)
    assert read.settings["Model"] == model
    assert read.settings.get("Extra sample args", "") == args


def test_a_text_of_a1111_is_read() -> None:
    text = (
        "masterpiece, (cat:1.2)\nsecond line\nNegative prompt: lowres,\nbad hands\n"
        "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 3718586439, "
        'Size: 512x768, Model hash: 6ce0161689, Model: v1-5, Lora hashes: "one: ab12, two: cd34", '
        'TI hashes: "x: 1", Hashes: {"vae": "735e4c3a44", "model": "6ce0"}, Version: v1.10.1'
    )
    read = read_infotext(text)
    assert read.prompt == "masterpiece, (cat:1.2)\nsecond line"
    assert read.negative_prompt == "lowres,\nbad hands"
    assert read.settings["Schedule type"] == "Karras"
    assert read.settings["Lora hashes"] == "one: ab12, two: cd34"
    assert read.settings["Hashes"] == '{"vae": "735e4c3a44", "model": "6ce0"}'
    assert read.settings["Version"] == "v1.10.1"


def test_a_text_of_stable_diffusion_cpp_is_read() -> None:
    text = (
        "a cat\nSteps: 20, CFG scale: 7.000000, Guidance: 3.500000, Eta: inf, Seed: 42, Size: 512x512, "
        "Model: sd.gguf, RNG: cuda, Sampler: euler_a discrete, Version: stable-diffusion.cpp, "
        'SDCPP: {"schema":"sdcpp.image.params/v1","prompt":{"positive":"a, b: c"},"seed":42}'
    )
    read = read_infotext(text)
    assert read.prompt == "a cat"
    assert read.settings["Eta"] == "inf"
    assert read.settings["SDCPP"].endswith('"seed":42}')
    assert list(read.settings)[-2:] == ["Version", "SDCPP"]


def test_a_text_without_settings_is_all_prompt() -> None:
    assert read_infotext("just words, here: there") == Infotext("just words, here: there")


def test_padding_at_the_end_is_no_part_of_the_text() -> None:
    assert read_infotext("a\nSteps: 2, Seed: 1, Size: 8x8\0").settings["Size"] == "8x8"
