"""What A1111 can and this server cannot: asked for, it is refused by its name instead of left out."""

from __future__ import annotations

import re

from darkroom.api.a1111.requests import Extras, Generation, ImageToImage
from darkroom.server.errors import ApiError, InvalidField

_NETWORK = re.compile(r"<(lora|lyco|hypernet):[^>]*", re.IGNORECASE)
"""How A1111's prompts ask for changes to the weights."""


def require_possible(request: Generation) -> None:
    """Raises for the first thing that cannot be: ApiError with the field's name."""
    asked = {
        "enable_hr": (request.enable_hr, "there is no second pass at a higher resolution"),
        "restore_faces": (request.restore_faces, "there is no face restorer"),
        "tiling": (request.tiling, "pictures that repeat at their borders cannot be drawn"),
        "subseed_strength": ((request.subseed_strength or 0) > 0, "seeds cannot be mixed"),
        "seed_resize_from_w": ((request.seed_resize_from_w or 0) > 0, "noise cannot be resized"),
        "seed_resize_from_h": ((request.seed_resize_from_h or 0) > 0, "noise cannot be resized"),
        "refiner_checkpoint": (request.refiner_checkpoint not in (None, "", "None"), "there is no refiner"),
        "s_churn": ((request.s_churn or 0) > 0, "no sampler here churns"),
        "s_min_uncond": ((request.s_min_uncond or 0) > 0, "guidance is never left out"),
        "s_noise": (request.s_noise not in (None, 1), "noise is not scaled; 1 is right"),
        "infotext": (bool(request.infotext), "send its settings as fields"),
        "lora": (bool(request.lora), "this engine applies no LoRA yet"),
        "styles": (any(request.styles or ()), "there are no saved prompts (GET /sdapi/v1/prompt-styles)"),
    }
    if isinstance(request, ImageToImage):
        noise = request.initial_noise_multiplier
        asked["initial_noise_multiplier"] = (noise not in (None, 0, 1), "noise is not scaled; 1 is right")
    for name, (is_asked, why) in asked.items():
        if is_asked:
            raise InvalidField(f"{name}: not possible here: {why}", param=name)
    for name in ("prompt", "negative_prompt"):
        if tag := _NETWORK.search(getattr(request, name) or ""):
            raise InvalidField(
                f"{name}: not possible here: {tag[0]}> asks for one, and this engine applies none yet",
                param=name,
            )
    _require_no_scripts(request)


def _require_no_scripts(request: Generation) -> None:
    if request.script_name and request.script_name != "None":
        raise ApiError(
            f"script_name: there is no script '{request.script_name}'; this server has none (GET "
            "/sdapi/v1/scripts)",
            status=422,
            param="script_name",
        )
    for name, script in (request.alwayson_scripts or {}).items():
        arguments = script.get("args") if isinstance(script, dict) else script
        if any(arguments) if isinstance(arguments, list | dict) else arguments:
            raise ApiError(
                f"alwayson_scripts: there is no script '{name}'; this server has none (GET "
                "/sdapi/v1/scripts)",
                status=422,
                param="alwayson_scripts",
            )


def require_possible_extras(request: Extras) -> None:
    """Raises InvalidField for face restorers."""
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(request, name):
            raise InvalidField(
                f"{name}: not possible here: there is no face restorer; 0 is right", param=name
            )
