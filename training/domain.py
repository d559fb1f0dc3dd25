"""What the built-in model can draw: shapes, colours, sizes, places; and what it never sees in training."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import NamedTuple

SHAPES = ("circle", "square", "triangle", "star", "heart", "hexagon", "diamond", "cross", "ring", "moon")

# sRGB, 0 to 255. Far enough apart that light and shade never turn one into another.
PALETTE = {
    "red": (218, 38, 42),
    "orange": (246, 138, 28),
    "yellow": (250, 218, 52),
    "green": (46, 160, 72),
    "blue": (42, 88, 214),
    "purple": (136, 56, 182),
    "black": (26, 26, 30),
    "white": (244, 244, 242),
    "pink": (250, 152, 192),
    "cyan": (64, 206, 220),
    "brown": (122, 74, 40),
    "gray": (134, 138, 144),
}
COLOURS = tuple(PALETTE)

SMALL = ("small", "tiny", "little")
LARGE = ("large", "big", "huge")

# Where a single object stands, as a direction from the middle (right, down).
PLACES = {
    "": (0, 0),
    "in the center": (0, 0),
    "on the left": (-1, 0),
    "on the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
    "in the top left corner": (-1, -1),
    "in the top right corner": (1, -1),
    "in the bottom left corner": (-1, 1),
    "in the bottom right corner": (1, 1),
}

HELD_OUT = 120


class Triple(NamedTuple):
    """A shape of one colour on a background of another."""

    shape: str
    colour: str
    background: str

    @property
    def caption(self) -> str:
        """The plain sentence that asks for it."""
        return (
            f"{article(self.colour)} {self.colour} {self.shape} "
            f"on {article(self.background)} {self.background} background"
        )


def article(word: str) -> str:
    """The indefinite article before `word`."""
    return "an" if word[0] in "aeiou" else "a"


@cache
def triples() -> tuple[Triple, ...]:
    """All combinations; an object never has its background's colour."""
    return tuple(
        Triple(shape, colour, background)
        for shape in SHAPES
        for colour in COLOURS
        for background in COLOURS
        if colour != background
    )


@cache
def held_out() -> tuple[Triple, ...]:
    """The combinations that no training picture shows: always the same ones, those of the least SHA-256.

    The first half are circles, squares, triangles and stars in the eight basic colours.
    """
    basic = set(COLOURS[:8])
    ordered = sorted(triples(), key=lambda triple: hashlib.sha256(" ".join(triple).encode()).digest())
    core = [t for t in ordered if t.shape in SHAPES[:4] and {t.colour, t.background} <= basic][
        : HELD_OUT // 2
    ]
    rest = [t for t in ordered if t not in core][: HELD_OUT - len(core)]
    return (*core, *rest)
