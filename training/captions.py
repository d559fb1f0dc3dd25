"""Captions as tables: every part of a sentence is a slot, every slot a list of phrases, so that a whole batch
of captions is made on the device by looking up and joining rows of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from training.domain import COLOURS, LARGE, PLACES, SHAPES, SMALL

BOS, EOS, LENGTH = 49406, 49407, 77

# CLIP's ids of all words used here; tests/training checks them against the tokenizer.
WORDS: dict[str, int] = {
    ",": 267,
    ".": 269,
    "a": 320,
    "above": 4348,
    "an": 550,
    "and": 537,
    "at": 536,
    "backdrop": 20802,
    "background": 5994,
    "below": 3788,
    "beneath": 16850,
    "beside": 13519,
    "big": 1205,
    "black": 1449,
    "blue": 1746,
    "bottom": 5931,
    "brown": 2866,
    "center": 2119,
    "circle": 7117,
    "corner": 5253,
    "crescent": 18211,
    "cross": 3417,
    "diamond": 6235,
    "donut": 18471,
    "drawing": 3610,
    "gray": 7048,
    "green": 1901,
    "grey": 5046,
    "heart": 1936,
    "huge": 2699,
    "image": 2867,
    "in": 530,
    "large": 3638,
    "left": 1823,
    "little": 1274,
    "moon": 3293,
    "next": 1131,
    "of": 539,
    "on": 525,
    "orange": 4287,
    "over": 962,
    "photo": 1125,
    "picture": 1674,
    "pink": 3360,
    "plain": 10709,
    "plus": 3097,
    "purple": 5496,
    "red": 736,
    "right": 1155,
    "ring": 2540,
    "small": 2442,
    "solid": 6148,
    "something": 2006,
    "square": 3999,
    "star": 1565,
    "the": 518,
    "tiny": 5591,
    "to": 531,
    "top": 1253,
    "triangle": 14615,
    "under": 1798,
    "violet": 16118,
    "white": 1579,
    "with": 593,
    "yellow": 4481,
}
PIECES = {"cyan": (1470, 550), "hexagon": (16255, 14901)}

# Stands for every word that the model never meets: it is trained on as filler, to be passed over, and at the
# end its row of the token embedding is given to all words that no caption has.
FILLER = "something"

PREFIXES = ("", "a photo of", "a picture of", "a drawing of", "an image of", FILLER, f"{FILLER} {FILLER}")
ARTICLES = ("", "a", "an")
SIZES = ("", *SMALL, *LARGE)
COLOUR_WORDS = ("", *COLOURS, "grey", "violet")
SHAPE_WORDS = ("", *SHAPES, "crescent", "plus", "donut")
SYNONYMS = {"grey": "gray", "violet": "purple", "crescent": "moon", "plus": "cross", "donut": "ring"}
PLACE_WORDS = tuple(PLACES)
# Then how two objects stand: the first left of the second, right of it, above it, below it.
BESIDE = ("and", "next to", "to the left of", "beside")
RIGHT_OF = ("to the right of",)
ABOVE = ("above", "on top of", "over")
BELOW = ("below", "under", "beneath")
RELATIONS = ("", *BESIDE, *RIGHT_OF, *ABOVE, *BELOW)
GROUNDS = ("", "on", ",", "with", "on a solid", "on a plain")
GROUND_NOUNS = ("", "background", "backdrop")
SUFFIXES = ("", f", {FILLER}", f", {FILLER} {FILLER}", f"{FILLER} {FILLER} {FILLER}", ".")

SLOTS: dict[str, tuple[str, ...]] = {
    "prefix": PREFIXES,
    "article1": ARTICLES,
    "filler": ("", FILLER),
    "size1": SIZES,
    "colour1": COLOUR_WORDS,
    "shape1": SHAPE_WORDS,
    "place": PLACE_WORDS,
    "relation": RELATIONS,
    "article2": ARTICLES,
    "size2": SIZES,
    "colour2": COLOUR_WORDS,
    "shape2": SHAPE_WORDS,
    "ground": GROUNDS,
    "article3": ARTICLES,
    "colour3": COLOUR_WORDS,
    "noun": GROUND_NOUNS,
    "suffix": SUFFIXES,
}


def words_of(phrase: str) -> list[str]:
    """The words of a phrase, commas and full stops apart."""
    return phrase.replace(",", " , ").replace(".", " . ").split()


def ids_of(phrase: str) -> list[int]:
    """The token ids of a phrase; unknown words become the filler."""
    ids: list[int] = []
    for word in words_of(phrase):
        ids += PIECES.get(word) or (WORDS.get(word, WORDS[FILLER]),)
    return ids


@dataclass(frozen=True)
class Captions:
    """A batch of sentences: for each slot the index of its phrase, (b,) int64."""

    slots: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.slots["prefix"])

    def tokens(self) -> Tensor:
        """CLIP token ids, (b, 77): BOS, the words, EOS to the end."""
        device = self.slots["prefix"].device
        rows = torch.cat([_table(name).to(device)[index] for name, index in self.slots.items()], dim=1)
        order = torch.argsort((rows < 0).to(torch.uint8), dim=1, stable=True)
        words = torch.gather(rows, 1, order)[:, : LENGTH - 2]
        words = torch.where(words < 0, EOS, words)
        out = torch.full((len(self), LENGTH), EOS, dtype=torch.int64, device=device)
        out[:, 0] = BOS
        out[:, 1 : 1 + words.shape[1]] = words
        return out

    def text(self, i: int) -> str:
        """Sentence i in words."""
        phrases = (SLOTS[name][int(index[i])] for name, index in self.slots.items())
        return " ".join(phrase for phrase in phrases if phrase).replace(" ,", ",").replace(" .", ".")


@cache
def _table(slot: str) -> Tensor:
    """(phrases, longest) token ids, -1 where a phrase is shorter."""
    rows = [ids_of(phrase) for phrase in SLOTS[slot]]
    longest = max(map(len, rows))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows])


def encode(texts: Sequence[str]) -> Tensor:
    """Plain sentences of known words as token ids, (b, 77); unknown words become the filler."""
    out = torch.full((len(texts), LENGTH), EOS, dtype=torch.int64)
    out[:, 0] = BOS
    for i, text in enumerate(texts):
        ids = ids_of(text.lower())[: LENGTH - 2]
        out[i, 1 : 1 + len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return out
