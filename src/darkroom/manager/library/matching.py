"""Whether a companion fits a model: by how it is built and how wide it is, never by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from darkroom.manager.library.catalogue import Catalogue, Need
from darkroom.manager.library.parts import Part
from darkroom.manager.library.roles import FileRole

Chosen = Mapping[FileRole, Part]
"""Companions that are already decided on, by role."""

DOWNSCALE = 8
"""How many times smaller latents are than pictures, for the families of 8x autoencoders."""


def misfit(network: Part, need: Need, part: Part, catalogue: Catalogue, chosen: Chosen) -> str:
    """What makes `part` another model's; empty when it fits.

    network: the model's diffusion network, whose numbers say what it takes.
    """
    kinds = [catalogue.kinds[kind] for kind in need.kinds]
    if part.architecture not in {kind.architecture for kind in kinds}:
        return f"this is {part.title}; {kinds[0].title} is needed"
    check = _CHECKS.get(need.role, _by_width)
    widths = {kind.width for kind in kinds if kind.architecture == part.architecture}
    reason = check(network, part, widths, chosen)
    return f"this is {part.title} ({reason}); {kinds[0].title} is needed" if reason else ""


def _by_width(network: Part, part: Part, widths: set[int], chosen: Chosen) -> str:
    takes = network.numbers.get(part.kind.value)
    wanted = {takes} if takes else widths
    return (
        ""
        if part.width in wanted
        else f"its width is {part.width}, not {' or '.join(map(str, sorted(wanted)))}"
    )


def _vae(network: Part, part: Part, widths: set[int], chosen: Chosen) -> str:
    takes = network.numbers.get("vae")
    wanted = {takes} if takes else widths
    if part.width not in wanted:
        return f"its latents have {part.width} channels, not {' or '.join(map(str, sorted(wanted)))}"
    if part.numbers.get("pixels", 3) != 3:
        return "it is for pictures with transparency"
    if "downscale" not in part.numbers:
        return "it has no encoder"
    if (
        part.architecture in ("kl", "wan")
        and part.width in (4, 16)
        and part.numbers["downscale"] != DOWNSCALE
    ):
        return f"its latents are {part.numbers['downscale']} times smaller"
    return ""


def _clip_l(network: Part, part: Part, widths: set[int], chosen: Chosen) -> str:
    """SDXL's stands beside CLIP-G's text, SD3's is the smaller part of the vector."""
    if network.architecture == "sdxl":
        beside = chosen.get(FileRole.CLIP_G)
        wanted = network.numbers["text"] - beside.width if beside else min(widths)
        return "" if part.width == wanted else f"its width is {part.width}, not {wanted}"
    if network.architecture == "sd3":
        small = 2 * part.width < network.numbers["vector"]
        return "" if small else f"its vector would be most of {network.numbers['vector']}"
    return _by_width(network, part, widths, chosen)


def _clip_g(network: Part, part: Part, widths: set[int], chosen: Chosen) -> str:
    """Its vector is SDXL's own, and what CLIP-L leaves of SD3's."""
    if network.architecture not in ("sdxl", "sd3"):
        return _by_width(network, part, widths, chosen)
    vector, projection = network.numbers["vector"], part.numbers.get("projection", 0)
    if network.architecture == "sdxl":
        if not projection:
            return "it has no text_projection"
        return "" if projection == vector else f"its vector is {projection} wide, not {vector}"
    own = projection or part.width
    beside = chosen.get(FileRole.CLIP_L)
    both = beside.width + own if beside else vector
    return "" if both == vector < 2 * own else f"with its vector of {own}, two encoders do not make {vector}"


def _llm_vision(network: Part, part: Part, widths: set[int], chosen: Chosen) -> str:
    llm = chosen.get(FileRole.LLM)
    wanted = llm.width if llm else network.numbers.get("llm", part.width)
    return "" if part.width == wanted else f"it is for a language model {part.width} wide, not {wanted}"


_CHECKS: dict[FileRole, Callable[[Part, Part, set[int], Chosen], str]] = {
    FileRole.VAE: _vae,
    FileRole.CLIP_L: _clip_l,
    FileRole.CLIP_G: _clip_g,
    FileRole.LLM_VISION: _llm_vision,
}
