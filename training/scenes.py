"""Random scenes and the captions that describe them, drawn in batches on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor

from training import captions as words
from training.captions import Captions
from training.domain import COLOURS, PLACES, SHAPES, Triple, held_out, triples

NORMAL, SMALL, LARGE = range(3)
SINGLE, BESIDE, RIGHT_OF, ABOVE, BELOW = range(5)

# Radius of an object as a share of the picture's short side, by size: alone in the middle, alone at a place,
# in a pair.
RADII = {
    "middle": ((0.24, 0.31), (0.12, 0.16), (0.36, 0.42)),
    "place": ((0.18, 0.23), (0.10, 0.14), (0.27, 0.31)),
    "pair": ((0.15, 0.185), (0.09, 0.115), (0.20, 0.23)),
}


@dataclass(frozen=True)
class Scenes:
    """What is in each picture of a batch.

    shape, colour, size: (b, 2) indices, for both objects; layout: (b,), SINGLE or a pair's order;
    place: (b,) index of PLACES for a single one; background: (b,) index of COLOURS.
    centre: (b, 2, 2) x and y in [0, 1]; radius: (b, 2), share of the short side; rotation: (b, 2) radians.
    light: (b, 3) in [-1, 1], how the background's light falls.
    """

    shape: Tensor
    colour: Tensor
    size: Tensor
    layout: Tensor
    place: Tensor
    background: Tensor
    centre: Tensor
    radius: Tensor
    rotation: Tensor
    light: Tensor

    def __len__(self) -> int:
        return len(self.layout)

    def take(self, rows: Tensor) -> Scenes:
        """The scenes at these indices."""
        return Scenes(*(getattr(self, f.name)[rows] for f in fields(self)))

    def put(self, rows: Tensor, others: Scenes) -> None:
        """Replaces the scenes at these indices."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(others, f.name)


class Dice:
    """Random numbers of one seed on one device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """Floats in [0, 1)."""
        return torch.rand(shape, generator=self.generator, device=self.device)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high)."""
        return torch.randint(high, shape, generator=self.generator, device=self.device)

    def chance(self, p: float, *shape: int) -> Tensor:
        """True with probability p."""
        return self.uniform(*shape) < p

    def pick(self, values: Sequence[int], count: int, weights: Sequence[float] | None = None) -> Tensor:
        """`count` of the values, with these weights."""
        odds = torch.tensor(weights or [1] * len(values), device=self.device, dtype=torch.float32)
        index = torch.multinomial(odds, count, replacement=True, generator=self.generator)
        return torch.tensor(values, device=self.device)[index]


@cache
def _allowed() -> tuple[Tensor, Tensor]:
    """For each background the (shape, colour) pairs that training may show: (n, longest, 2), and how many."""
    kept = set(triples()) - set(held_out())
    rows = [
        [
            (s, c)
            for s, shape in enumerate(SHAPES)
            for c, colour in enumerate(COLOURS)
            if (shape, colour, bg) in kept
        ]
        for bg in COLOURS
    ]
    longest = max(map(len, rows))
    table = torch.tensor([row + [(0, 0)] * (longest - len(row)) for row in rows])
    return table, torch.tensor([len(row) for row in rows])


def random_scenes(count: int, dice: Dice) -> Scenes:
    """Scenes of the training distribution; no held-out combination is among them."""
    table, counts = (t.to(dice.device) for t in _allowed())
    background = dice.integers(len(COLOURS), count)
    choice = (dice.uniform(count, 2) * counts[background][:, None]).long()
    objects = table[background[:, None], choice]  # (b, 2 objects, shape and colour)
    layout = dice.pick((SINGLE, BESIDE, RIGHT_OF, ABOVE, BELOW), count, (64, 18, 4, 7, 7))
    place = torch.where(dice.chance(0.35, count), dice.integers(len(PLACES), count), 0)
    size = dice.pick((NORMAL, SMALL, LARGE), 2 * count, (70, 15, 15)).view(count, 2)
    return _composed(objects[..., 0], objects[..., 1], size, layout, place, background, dice)


def scenes_of(asked: Sequence[Triple], dice: Dice) -> Scenes:
    """One scene for each combination: a single object of normal size in the middle."""
    count, device = len(asked), dice.device
    shape = torch.tensor([SHAPES.index(t.shape) for t in asked], device=device)
    colour = torch.tensor([COLOURS.index(t.colour) for t in asked], device=device)
    background = torch.tensor([COLOURS.index(t.background) for t in asked], device=device)
    zeros = torch.zeros(count, dtype=torch.int64, device=device)
    pair = torch.stack((zeros, zeros), 1)
    return _composed(
        torch.stack((shape, shape), 1), torch.stack((colour, colour), 1), pair, zeros, zeros, background, dice
    )


def _composed(
    shape: Tensor, colour: Tensor, size: Tensor, layout: Tensor, place: Tensor, background: Tensor, dice: Dice
) -> Scenes:
    count, device = len(layout), dice.device
    directions = torch.tensor(list(PLACES.values()), device=device, dtype=torch.float32)[place]  # (b, 2)
    placed = directions.abs().sum(1) > 0
    kind = torch.where(layout > 0, 2, torch.where(placed, 1, 0))
    bounds = torch.tensor([RADII["middle"], RADII["place"], RADII["pair"]], device=device)[
        kind[:, None], size
    ]
    radius = torch.lerp(bounds[..., 0], bounds[..., 1], dice.uniform(count, 2))

    jitter = dice.uniform(count, 2, 2) * 2 - 1
    offset = (0.455 - radius[:, :1] + 0.015 * jitter[:, 0]).clamp(min=0.14)
    wander = torch.where(placed, 0.025, torch.where(place > 0, 0.02, 0.05))[:, None]
    single = 0.5 + directions * offset + wander * jitter[:, 0] * (directions == 0)
    along = torch.tensor([0.27, 0.73], device=device)
    pair = torch.where(((layout == RIGHT_OF) | (layout == BELOW))[:, None], along.flip(0), along)  # (b, 2)
    upright = ((layout == ABOVE) | (layout == BELOW))[:, None]
    middle = torch.full_like(pair, 0.5)
    stood = torch.stack((torch.where(upright, middle, pair), torch.where(upright, pair, middle)), -1)
    centre = torch.where((layout > 0)[:, None, None], stood + 0.025 * jitter, single[:, None])
    return Scenes(
        shape, colour, size, layout, place, background, centre, radius,
        rotation=(dice.uniform(count, 2) * 2 - 1) * 0.2,
        light=dice.uniform(count, 3) * 2 - 1,
    )  # fmt: skip


def describe(scenes: Scenes, dice: Dice, *, plain: bool = False) -> Captions:
    """A true sentence for each scene, wording random; `plain`: always 'a red circle on a blue background'."""
    count = len(scenes)
    pair, device = scenes.layout > 0, dice.device
    named = torch.ones(count, dtype=torch.bool, device=device)
    coloured, grounded, articled = named, named, named
    slots = {name: torch.zeros(count, dtype=torch.int64, device=device) for name in words.SLOTS}
    if not plain:
        # Some captions leave out the background, the colour, or all but one thing.
        part = dice.uniform(count)
        grounded = (part >= 0.12) & ~((part > 0.12) & (part < 0.18))
        coloured = ~((part > 0.17) & (part < 0.20))
        only_ground = (part > 0.20) & (part < 0.23) & ~pair
        only_colour = (part > 0.165) & (part < 0.17) & ~pair
        named = ~(only_ground | only_colour)
        coloured &= ~only_ground
        articled = dice.chance(0.93, count)
        slots["prefix"] = dice.pick(range(len(words.PREFIXES)), count, (76, 8, 3, 3, 3, 5, 2))
        slots["suffix"] = dice.pick(range(len(words.SUFFIXES)), count, (88, 4, 3, 2, 3))
        slots["filler"] = (dice.chance(0.05, count) & named).long()
    for n in ("1", "2"):
        i = int(n) - 1
        there = named if i == 0 else named & pair
        size = _size_word(scenes.size[:, i], dice) * there
        colour = (_colour_word(scenes.colour[:, i], dice, plain) + 1) * (coloured & (there | (i == 0)))
        slots["size" + n], slots["colour" + n] = size, colour
        slots["shape" + n] = (_shape_word(scenes.shape[:, i], dice, plain) + 1) * there
        vowel = (size == 0) & (colour == 1 + COLOURS.index("orange")) & ((i == 1) | (slots["filler"] == 0))
        slots["article" + n] = (1 + vowel.long()) * (there & articled)
    slots["place"] = scenes.place * (named & ~pair)
    slots["relation"] = _relation(scenes.layout, dice) * (named & pair)
    ground = dice.pick(range(1, len(words.GROUNDS)), count, (85, 6, 2, 3, 4)) if not plain else named.long()
    slots["ground"] = ground * (grounded & named)
    solo = (grounded & named) | ~(named | (coloured & ~named))
    slots["colour3"] = (_colour_word(scenes.background, dice, plain) + 1) * solo
    slots["noun"] = (1 + (dice.chance(0.05, count).long() if not plain else 0)) * solo
    orange = (slots["colour3"] == 1 + COLOURS.index("orange")).long()
    says_article = solo & articled & (slots["ground"] != words.GROUNDS.index(","))
    says_article &= slots["ground"] < words.GROUNDS.index("on a solid")
    slots["article3"] = (1 + orange) * says_article
    return Captions(slots)


def _size_word(size: Tensor, dice: Dice) -> Tensor:
    word = dice.pick(range(3), len(size), (60, 20, 20))
    return torch.where(size == NORMAL, 0, torch.where(size == SMALL, 1, 1 + len(words.SMALL)) + word)


def _colour_word(colour: Tensor, dice: Dice, plain: bool) -> Tensor:
    return colour if plain else _synonym(colour, COLOURS, words.COLOUR_WORDS, dice)


def _shape_word(shape: Tensor, dice: Dice, plain: bool) -> Tensor:
    return shape if plain else _synonym(shape, SHAPES, words.SHAPE_WORDS, dice)


def _synonym(index: Tensor, names: Sequence[str], phrases: Sequence[str], dice: Dice) -> Tensor:
    """Now and then another word for the same thing; indices into `phrases` less its empty first."""
    other = list(range(len(names)))
    for word, meaning in words.SYNONYMS.items():
        if meaning in names:
            other[names.index(meaning)] = phrases.index(word) - 1
    table = torch.tensor(other, device=index.device)
    return torch.where(dice.chance(0.15, len(index)), table[index], index)


def _relation(layout: Tensor, dice: Dice) -> Tensor:
    count = len(layout)
    out = torch.zeros_like(layout)
    first = 1
    for kind, phrases, weights in (
        (BESIDE, words.BESIDE, (75, 12, 8, 5)),
        (RIGHT_OF, words.RIGHT_OF, (1,)),
        (ABOVE, words.ABOVE, (70, 15, 15)),
        (BELOW, words.BELOW, (60, 30, 10)),
    ):
        choice = dice.pick(range(first, first + len(phrases)), count, weights)
        out = torch.where(layout == kind, choice, out)
        first += len(phrases)
    return out
