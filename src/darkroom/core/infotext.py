"""The `parameters` text inside a picture: how it was made, in the form that A1111 and its relatives read.

    a red circle on a blue background
    Negative prompt: blurry
    Steps: 20, CFG scale: 7.000000, Eta: 0.000000, Seed: 42, Size: 256x256, Model: a.safetensors, RNG: cuda,
    Sampler: euler discrete, Clip skip: 1, Version: darkroom 0.1.0

(the settings are one line). Order and number format are stable-diffusion.cpp's `get_image_params`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from darkroom.api.version import __version__

_KEY = re.compile(r"\s*(\w[\w \-/]*):[ \t]*")
_NEGATIVE = "Negative prompt:"

# A model's text encoders, one after the other, as stable-diffusion.cpp writes them.
_REPEATED = "TE"


@dataclass(frozen=True, kw_only=True)
class PictureParameters:
    """How one picture was made. None leaves a setting out.

    model, text_encoders, diffusion_model, vae: file names without folders.
    denoising_strength: for image-to-image only.
    sigmas: noise levels given by hand; the schedule is then left out.
    """

    prompt: str
    negative_prompt: str = ""
    steps: int
    cfg_scale: float
    guidance: float | None = None
    eta: float | None = None
    extra_sample_args: str = ""
    seed: int
    width: int
    height: int
    model: str
    rng: str
    sampler_rng: str | None = None
    sampler: str
    scheduler: str
    sigmas: Sequence[float] | None = None
    text_encoders: Sequence[str] = ()
    diffusion_model: str | None = None
    vae: str | None = None
    clip_skip: int | None = None
    denoising_strength: float | None = None


@dataclass(frozen=True)
class Infotext:
    """A `parameters` text taken apart. settings: as written, in order, unquoted."""

    prompt: str
    negative_prompt: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def write_infotext(picture: PictureParameters) -> str:
    """The `parameters` text of a picture; `read_infotext` reads it back."""
    lines = [picture.prompt]
    if picture.negative_prompt:
        lines.append(f"{_NEGATIVE} {picture.negative_prompt}")
    lines.append(", ".join(f"{key}: {value}" for key, value in _settings(picture)))
    return "\n".join(lines)


def _settings(picture: PictureParameters) -> list[tuple[str, str]]:
    sampler, sigmas = picture.sampler, None
    if picture.sigmas is None:
        sampler = f"{sampler} {picture.scheduler}"
    else:
        sigmas = "[" + ", ".join(f"{sigma:.4f}" for sigma in picture.sigmas) + "]"
    settings = [
        ("Steps", str(picture.steps)),
        ("CFG scale", _number(picture.cfg_scale)),
        ("Guidance", _number(picture.guidance)),
        ("Eta", _number(picture.eta)),
        ("Extra sample args", _quoted(picture.extra_sample_args)),
        ("Seed", str(picture.seed)),
        ("Size", f"{picture.width}x{picture.height}"),
        ("Model", _quoted(picture.model)),
        ("RNG", picture.rng),
        ("Sampler RNG", picture.sampler_rng),
        ("Sampler", sampler),
        ("Custom Sigmas", sigmas),
        *(("TE", _quoted(name)) for name in picture.text_encoders),
        ("Unet", _quoted(picture.diffusion_model)),
        ("VAE", _quoted(picture.vae)),
        ("Clip skip", None if picture.clip_skip is None else str(picture.clip_skip)),
        ("Denoising strength", _number(picture.denoising_strength)),
        ("Version", f"darkroom {__version__}"),
    ]
    return [(key, value) for key, value in settings if value]


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.6f}"


def _quoted(value: str | None) -> str | None:
    """As A1111 quotes: a value that holds the line's own punctuation becomes a JSON string."""
    if value and re.search(r'[,:\n"\[{]|^\s|\s$', value):
        return json.dumps(value, ensure_ascii=False)
    return value


def read_infotext(text: str) -> Infotext:
    """Takes a `parameters` text apart, whoever of A1111's relatives wrote it.

    The last line holds the settings when it starts with `Steps:` or has three of them, as in A1111's
    `parse_generation_parameters`; without such a line everything is prompt.
    """
    lines = text.strip().strip("\0").strip().split("\n")
    settings = _read_settings(lines[-1])
    if lines[-1].startswith("Steps:") or len(settings) >= 3:
        lines.pop()
    else:
        settings = {}
    start = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:]).removeprefix(_NEGATIVE)
    return Infotext("\n".join(lines[:start]).strip(), negative.strip(), settings)


def _read_settings(line: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    at = 0
    while at < len(line):
        key = _KEY.match(line, at)
        if key:
            value, at = _read_value(line, key.end())
            name = key[1].strip()
            if name == _REPEATED and name in settings:
                settings[name] += f", {value}"
            settings.setdefault(name, value)
        comma = line.find(",", at)
        at = len(line) if comma < 0 else comma + 1
    return settings


def _read_value(line: str, at: int) -> tuple[str, int]:
    """The value at `at` and where it ends: a JSON string or object, a [list], or up to a comma."""
    if line[at : at + 1] in ('"', "{"):
        try:
            value, end = json.JSONDecoder().raw_decode(line, at)
        except ValueError:
            pass
        else:
            return (value if isinstance(value, str) else line[at:end]), end
    close = line.find("]", at) if line[at : at + 1] == "[" else -1
    comma = line.find(",", max(at, close))
    end = len(line) if comma < 0 else comma
    return line[at:end].strip(), end
