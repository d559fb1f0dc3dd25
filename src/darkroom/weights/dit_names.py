"""What the spellings of diffusion transformers have in common; they lead to `model.diffusion_model.`."""

from __future__ import annotations

import re

from darkroom.api.names import Role
from darkroom.weights.keys import Join, KeyRules, Rename, Rule, SplitRows

NET = Role.DIFFUSION_MODEL.prefix


def network_places(names: str) -> KeyRules:
    """Rules from the places where files keep the network: ComfyUI's, diffusers' folder, nothing in front.

    names: a pattern of the parts that a name may begin with where nothing is in front.
    """
    return KeyRules(
        (
            Rename(r"^(?:diffusion_model|transformer)\.", NET),
            Rename(rf"^(?=(?:{names})\b)", NET),
        )
    )


def swapped_halves(layer: str) -> tuple[Rule, ...]:
    """For a modulation that nothing follows: diffusers has its scale before its shift. layer: with a dot."""
    own = re.escape(layer)
    return (
        SplitRows(rf"{own}(weight|bias)", (rf"{layer}scale.\1", rf"{layer}shift.\1")),
        Join((rf"{own}shift\.(weight|bias)", rf"{own}scale\.(weight|bias)"), rf"{layer}\1"),
    )
