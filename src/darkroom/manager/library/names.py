"""Names of models: from file names, readable, unique, and the same tomorrow."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

_TYPE = (
    r"(?:ud[-_])?(?:i?q\d(?:_(?:k(?:_(?:s|m|l|xl))?|[01]|nl|xs|xxs|s|m))?|tq\d_0|bf16|fp?16|fp?32"
    r"|fp8(?:_e[45]m[23](?:fn)?)?(?:_(?:scaled|mixed))?|nf4|int8|mxfp4|nvfp4)"
)
_TYPED = re.compile(rf"^(.+?)[-_.]({_TYPE})$", re.IGNORECASE)
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_ENDINGS = re.compile(r"\.(?:safetensors|ckpt|gguf|pt|pth|bin|sft)(?:\.index\.json)?$", re.IGNORECASE)
_PLAIN = ("diffusion_pytorch_model", "model", "pytorch_model", "main")


def name_of(path: Path) -> str:
    """`flux1:q4_1` of `flux1-Q4_1.gguf`: a name, and its type if it is named after it."""
    stem = _SHARD.sub("", _ENDINGS.sub("", path.name))
    if stem in _PLAIN and path.parent.name:
        stem = (
            f"{path.parent.name}-{stem}"
            if path.parent.name not in ("transformer", "unet")
            else (path.parent.parent.name or stem)
        )
    match = _TYPED.match(stem)
    name, tag = (match[1], match[2]) if match else (stem, "")
    return f"{_slug(name)}:{_slug(tag)}" if tag else _slug(name)


def _slug(text: str) -> str:
    slug = re.sub(r"[^a-z0-9._+-]+", "-", text.lower()).strip("-._")
    return re.sub(r"-{2,}", "-", slug) or "model"


def give_names(
    paths: Collection[Path],
    given: Mapping[Path, str],
    taken: Collection[str],
    known: Mapping[Path, str] | None = None,
) -> dict[Path, str]:
    """A name for each path: the one that it was given before, or a new one that nobody has.

    taken: names of models that are no files. known: what the catalogue calls some of the files.
    """
    names = {path: given[path] for path in paths if path in given}
    used = {*taken, *names.values()}
    for path in sorted(set(paths) - names.keys()):
        wanted = (known or {}).get(path) or name_of(path)
        names[path] = _free(wanted, path, used)
        used.add(names[path])
    return names


def _free(wanted: str, path: Path, used: Collection[str]) -> str:
    name, _, tag = wanted.partition(":")
    tag = f":{tag}" if tag else ""
    if name + tag not in used:
        return name + tag
    parent = _slug(path.parent.name) if path.parent.name else "other"
    if f"{parent}-{name}{tag}" not in used:
        return f"{parent}-{name}{tag}"
    number = 2
    while f"{name}-{number}{tag}" in used:
        number += 1
    return f"{name}-{number}{tag}"
