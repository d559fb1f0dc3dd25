from __future__ import annotations

import torch
from training.domain import held_out, triples
from training.judge import judge
from training.scenes import Dice, scenes_of
from training.shapes import draw

SAMPLE = (*held_out(), *triples()[::5])


def _verdicts() -> list[tuple[bool, bool, bool]]:
    pictures = draw(scenes_of(SAMPLE, Dice(7, torch.device("cpu"))), 128, 128)
    out = []
    for triple, picture in zip(SAMPLE, pictures, strict=True):
        seen = judge(picture)
        out.append(
            (seen.shape == triple.shape, seen.colour == triple.colour, seen.background == triple.background)
        )
    return out


def test_the_judge_knows_drawings_for_what_they_are() -> None:
    shape, colour, background = (sum(column) / len(SAMPLE) for column in zip(*_verdicts(), strict=True))
    assert shape >= 0.99
    assert colour >= 0.99
    assert background >= 0.99
