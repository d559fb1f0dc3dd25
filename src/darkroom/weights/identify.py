"""What to say about a file that no model family knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from darkroom.weights.index import TensorIndex


def describe_unknown(index: TensorIndex, families: Mapping[str, Collection[str]]) -> str:
    """One sentence: the closest family, what of it is missing, what is there instead.

    index: the file under native names. families: title to tensor names that its files must have.
    """
    if not index:
        return f"holds no tensors; known families: {', '.join(families)}"
    groups = Counter(_group(name) for name in index)
    holds = ", ".join(f"{group} ({count})" for group, count in groups.most_common(4))
    found = {title: [name for name in names if name in index] for title, names in families.items() if names}
    closest = max(found, key=lambda title: len(found[title]) / len(families[title]), default=None)
    if closest is None or not found[closest]:
        return f"unknown model: {len(index)} tensors, mostly {holds}; known families: {', '.join(families)}"
    wanted = families[closest]
    missing = [name for name in wanted if name not in index]
    unexpected = [name for name in index if _group(name) not in {_group(known) for known in wanted}]
    return (
        f"unknown model: closest is {closest}, with {len(found[closest])} of {len(wanted)} tensors it needs; "
        f"{_few(missing)} missing, {_few(unexpected)} unexpected; the file holds mostly {holds}"
    )


def _group(name: str) -> str:
    """The first two parts of a name: `model.diffusion_model`, `double_blocks.0`."""
    return ".".join(name.split(".")[:2])


def _few(names: Collection[str]) -> str:
    examples = ", ".join(list(names)[:3])
    return f"{len(names)} ({examples}{', ...' if len(names) > 3 else ''})" if names else "0"
