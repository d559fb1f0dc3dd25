"""The prompt language: weights in brackets, BREAK, trigger words, chunks that a text encoder can take."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeVar

from darkroom.api.errors import RequestError
from darkroom.tokenizers import t5
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.clip import BOS, EOS, ClipTokenizer

ROUND = 1.1
SQUARE = 1 / 1.1

# Word boundaries are ASCII ones, so that BREAK also works between Chinese characters.
_SYNTAX = re.compile(
    r"""
      \\(?P<escaped>[()\[\]\\])
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
    | (?P<bracket>[()\[\]])
    | (?P<break>(?a:\b)BREAK(?a:\b))
    | (?P<text>[^\\()\[\]:B]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)

_FLOAT32_MAX = 3.4e38

T = TypeVar("T")


class Segment(NamedTuple):
    """A stretch of prompt and how strongly it counts; 1 is plain."""

    text: str
    weight: float


@dataclass(frozen=True)
class PromptChunks:
    """A prompt as equally long rows for a text encoder: BOS, up to `length` - 2 tokens, EOS, padding.

    tokens, weights: (k, length).
    """

    tokens: list[list[int]]
    weights: list[list[float]]


@dataclass(frozen=True)
class MaskedChunks:
    """A prompt as equally long rows for T5: up to `length` - 1 tokens, EOS, padding.

    tokens, weights, mask: (k, length); the mask is False for padding.
    """

    tokens: list[list[int]]
    weights: list[list[float]]
    mask: list[list[bool]]


class WeightedTokens(NamedTuple):
    """A prompt as one sequence for a language model, both (l,)."""

    tokens: list[int]
    weights: list[float]


def parse_weights(prompt: str) -> list[list[Segment]]:
    """The parts of a prompt between its BREAKs, each as weighted segments; equal neighbours are joined.

    `(x)` counts 1.1 times, `[x]` 1/1.1 times, `(x:1.5)` 1.5 times. Brackets nest, and close at the end when
    left open; a closing one without an opening one is text, and so is a bracket or a backslash after a
    backslash. The syntax is stable-diffusion-webui's.

    Raises RequestError for a weight that is no finite 32-bit number.
    """
    texts: list[str | None] = []  # None is a BREAK
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> bool:
        if not opened[kind]:
            return False
        for i in range(opened[kind].pop(), len(weights)):
            weights[i] *= factor
        return True

    def closes(match: re.Match[str]) -> bool:
        if match["weight"]:
            return close("(", float(match["weight"]))
        return (match[0] == ")" and close("(", ROUND)) or (match[0] == "]" and close("[", SQUARE))

    for match in _SYNTAX.finditer(prompt):
        if match[0] in opened:
            opened[match[0]].append(len(weights))
        elif not closes(match):
            texts.append(None if match["break"] else match["escaped"] or match[0])
            weights.append(1.0)
    while close("(", ROUND) or close("[", SQUARE):
        pass
    return _parts(texts, weights)


def _parts(texts: Sequence[str | None], weights: Sequence[float]) -> list[list[Segment]]:
    """Parts between the BREAKs (None), neighbours of equal weight joined."""
    parts: list[list[Segment]] = [[]]
    for text, weight in zip(texts, weights, strict=True):
        if text is None:
            parts.append([])
            continue
        if not math.isfinite(weight) or abs(weight) > _FLOAT32_MAX:
            raise RequestError(
                f"prompt: the weight of {text!r} is {weight:g}; a usual weight is between 0 and 2"
            )
        part = parts[-1]
        if part and part[-1].weight == weight:
            part[-1] = Segment(part[-1].text + text, weight)
        else:
            part.append(Segment(text, weight))
    return parts


def find_words(parts: Sequence[Sequence[Segment]], words: Collection[str]) -> list[str]:
    """The trigger words that a prompt uses, in the order of their first use."""
    triggers = _Triggers(words)
    found = (word for part in parts for segment in part for word, _ in triggers.split(segment.text) if word)
    return list(dict.fromkeys(found))


def chunk(
    parts: Sequence[Sequence[Segment]],
    tokenizer: ClipTokenizer,
    *,
    pad: int,
    length: int = 77,
    words: Mapping[str, Sequence[int]] | None = None,
) -> PromptChunks:
    """Tokenizes a parsed prompt and lays it out in chunks of `length`, at least one.

    Every part but the last is filled up with EOS to a whole number of chunks; nothing else moves a word to
    the next chunk. words: trigger words and the ids that stand for each.
    The layout is stable-diffusion.cpp's.
    """
    room = length - 2
    words = words or {}
    triggers = _Triggers(words)
    tokens: list[int] = []
    weights: list[float] = []
    for i, part in enumerate(parts):
        if i > 0:
            fill = -len(tokens) % room
            tokens += [EOS] * fill
            weights += [1.0] * fill
        for text, weight in part:
            for word, plain in triggers.split(text):
                ids = words[word] if word else tokenizer.encode(plain)
                tokens += ids
                weights += [weight] * len(ids)
    starts = range(0, max(len(tokens), 1), room)
    return PromptChunks(
        [_framed(tokens[start : start + room], BOS, EOS, pad, length) for start in starts],
        [_framed(weights[start : start + room], 1.0, 1.0, 1.0, length) for start in starts],
    )


def chunk_t5(parts: Sequence[Sequence[Segment]], tokenizer: TextTokenizer, *, length: int) -> MaskedChunks:
    """Tokenizes a parsed prompt and lays it out in chunks of `length`, at least one; BREAK begins another.

    Without BREAK the layout is stable-diffusion.cpp's, which reads the word itself to T5.
    """
    room = length - 1
    rows: list[WeightedTokens] = []
    for part in parts:
        tokens, weights = weigh([part], tokenizer)
        starts = range(0, len(tokens), room)
        rows += [WeightedTokens(tokens[at : at + room], weights[at : at + room]) for at in starts]
    rows = rows or [WeightedTokens([], [])]
    return MaskedChunks(
        [row.tokens + [t5.EOS] + [t5.PAD] * (room - len(row.tokens)) for row in rows],
        [row.weights + [1.0] * (length - len(row.tokens)) for row in rows],
        [[i <= len(row.tokens) for i in range(length)] for row in rows],
    )


def weigh(
    parts: Sequence[Sequence[Segment]], tokenizer: TextTokenizer, *, before: str = "", after: str = ""
) -> WeightedTokens:
    """Tokenizes a parsed prompt between the two halves of a template; nothing is added or filled up.

    BREAK means nothing here. A prompt without weights is tokenized together with the template, as the models'
    authors do.
    """
    segments = [Segment(before, 1.0), *chain.from_iterable(parts), Segment(after, 1.0)]
    (joined,) = _parts(*zip(*segments, strict=True))
    tokens: list[int] = []
    weights: list[float] = []
    for text, weight in joined:
        ids = tokenizer.encode(text)
        tokens += ids
        weights += [weight] * len(ids)
    return WeightedTokens(tokens, weights)


def _framed(row: list[T], first: T, last: T, pad: T, length: int) -> list[T]:
    """`row` between `first` and `last`, filled up with `pad`."""
    return [first, *row, last] + [pad] * (length - 2 - len(row))


class _Triggers:
    """Finds trigger words outside longer words; the longest wins; case and spacing are free."""

    def __init__(self, words: Collection[str]) -> None:
        self._words = sorted(words, key=lambda word: (-len(word), word))
        choices = "|".join("(" + r"\s+".join(map(re.escape, word.split())) + ")" for word in self._words)
        self._pattern = re.compile(rf"(?<![A-Za-z0-9_])(?:{choices})(?![A-Za-z0-9_])", re.IGNORECASE)

    def split(self, text: str) -> Iterator[tuple[str, str]]:
        """Cuts a text at its trigger words: (word, "") for each of them, ("", text) for what is between."""
        position = 0
        for match in self._pattern.finditer(text) if self._words else ():
            yield "", text[position : match.start()]
            assert match.lastindex is not None, "every alternative is a group"
            yield self._words[match.lastindex - 1], ""
            position = match.end()
        yield "", text[position:]
