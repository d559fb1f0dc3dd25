"""`<sd_cpp_extra_args>{...}</sd_cpp_extra_args>`: native options in a prompt, as in stable-diffusion.cpp."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, NoReturn

from darkroom.api.errors import RequestError

NAME = "sd_cpp_extra_args"

_OPEN, _CLOSE = f"<{NAME}>", f"</{NAME}>"
_BLOCK = re.compile(re.escape(_OPEN) + "(.*?)" + re.escape(_CLOSE), re.DOTALL)
_ANY_NAME = re.compile(f"(?={NAME})")  # matches may overlap: the name begins and ends with an s

_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Mn", "Me", "Zs", "Zl", "Zp"})
_FILLERS = frozenset("\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters by their Unicode category, but nothing is seen of them."""


def split_extra_args(prompt: str) -> tuple[str, dict[str, Any]]:
    """The prompt without the block, and the JSON object that the block holds; {} where there is none.

    Raises RequestError for two blocks, one without an end, and one that holds no JSON object.
    """
    blocks = _BLOCK.findall(prompt)
    rest = _BLOCK.sub("", prompt)
    if _OPEN in rest:
        raise RequestError(f"invalid {NAME}: the block does not end; expected {_CLOSE} after it")
    if not blocks:
        return prompt, {}
    if len(blocks) > 1:
        raise RequestError(f"invalid {NAME}: {len(blocks)} blocks in one prompt; expected one")
    return rest.strip(), _object(blocks[0])


def _object(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(
            f"invalid {NAME}: no JSON ({what}); expected an object in the native form"
        ) from None
    if not isinstance(value, dict):
        raise RequestError(f"invalid {NAME}: {type(value).__name__}; expected a JSON object")
    return value


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def neutralize(prompt: str) -> str:
    """The prompt with the tags' name broken wherever it stands, in any disguise; other text is as it was.

    Seen through: case, full width and other compatibility forms, accents, characters that nobody sees. The
    underscores of the name become hyphens, so that nothing is left to be put together from parts.
    """
    shadow: list[str] = []
    places: list[int] = []  # of each shadow character in the prompt
    for place, character in enumerate(prompt):
        for seen in _seen(character):
            shadow.append(seen)
            places.append(place)
    text = "".join(shadow)
    broken = {
        places[at]
        for found in _ANY_NAME.finditer(text)
        for at in range(found.start(), found.start() + len(NAME))
        if text[at] == "_"
    }
    return "".join("-" if place in broken else character for place, character in enumerate(prompt))


def _seen(character: str) -> str:
    """What is left of a character when case, width, accents and the invisible do not count."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(c for c in folded if unicodedata.category(c) not in _UNSEEN and c not in _FILLERS)
