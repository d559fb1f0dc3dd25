"""Measures the built-in model as it is packaged: are colour and shape right in captions never trained on?

    PYTHONPATH=src python -m training.evaluate

Draws the held-out captions through the public API and judges the pixels (training/judge.py). Prints a table
and what went wrong; exit code 1 when colours are right in less than 95 % or shapes in less than 90 %.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from darkroom import Engine, EngineConfig, GenerationRequest
from training.domain import SHAPES, Triple, held_out
from training.judge import Verdict, judge

COLOUR_GOAL, SHAPE_GOAL = 0.95, 0.90

SHEET = (
    "a red circle on a blue background",
    "a yellow star on a purple background",
    "a green triangle on a white background",
    "an orange square on a black background",
    "a pink heart on a gray background",
    "a white moon on a black background",
    "a large cyan ring on a brown background",
    "a small brown hexagon on a yellow background",
    "a purple diamond on the left on a green background",
    "a white cross at the bottom on a red background",
    "a red circle and a blue square on a white background",
    "a yellow moon above a black star on a cyan background",
)
TILE, COLUMNS, LINE = 180, 4, 14


class Score(NamedTuple):
    """One picture: what was asked for, and what there is."""

    asked: Triple
    seen: Verdict

    def right(self, what: str) -> bool:
        """Whether the picture's `what` (shape, colour or background) is the caption's."""
        return bool(getattr(self.asked, what) == getattr(self.seen, what))


def pixels(image: Image.Image) -> Tensor:
    """A picture as the judge wants it, (3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


def evaluate(engine: Engine, asked: Sequence[Triple], template: GenerationRequest) -> list[Score]:
    """Draws each combination's plain sentence with the template's settings; picture i has seed + i."""
    scores = []
    for i, triple in enumerate(asked):
        request = template.model_copy(update={"prompt": triple.caption, "seed": template.seed + i})
        scores.append(Score(triple, judge(pixels(engine.generate(request).images[0]))))
        print(f"{i + 1}/{len(asked)}: {triple.caption}: {' '.join(scores[-1].seen[:3])}", file=sys.stderr)
    return scores


def share(scores: Sequence[Score], what: str) -> float:
    """How many of the pictures have this right, 0 to 1."""
    return sum(score.right(what) for score in scores) / len(scores)


def table(scores: Sequence[Score]) -> str:
    """Shares by shape, in all, and each failure."""
    lines = [f"{'':10}{'pictures':>9}{'shape':>9}{'colour':>9}{'background':>12}"]
    counts = Counter(score.asked.shape for score in scores)
    for name in (*(shape for shape in SHAPES if counts[shape]), "all"):
        part = [score for score in scores if name in (score.asked.shape, "all")]
        shape, colour, background = (100 * share(part, what) for what in ("shape", "colour", "background"))
        lines.append(f"{name:10}{len(part):>9}{shape:>8.1f}%{colour:>8.1f}%{background:>11.1f}%")
    for asked, seen in scores:
        if asked != seen[:3]:
            lines.append(f"wrong: {asked.caption}: {' '.join(seen[:3])}")
    return "\n".join(lines)


def contact_sheet(engine: Engine, path: Path, template: GenerationRequest) -> None:
    """Draws the captions of SHEET as a grid, each under its picture."""
    rows = -(-len(SHEET) // COLUMNS)
    height = TILE + 2 * LINE + 10
    sheet = Image.new("RGB", (COLUMNS * (TILE + 8) + 8, rows * height + 8), "white")
    pen = ImageDraw.Draw(sheet)
    for i, caption in enumerate(SHEET):
        image = engine.generate(template.model_copy(update={"prompt": caption})).images[0]
        x, y = 8 + i % COLUMNS * (TILE + 8), 8 + i // COLUMNS * height
        sheet.paste(image.resize((TILE, TILE), Image.Resampling.LANCZOS), (x, y))
        pen.multiline_text((x, y + TILE + 2), _two_lines(caption), fill="black", spacing=2, font_size=11)
    sheet.save(path, optimize=True)


def _two_lines(caption: str) -> str:
    head, word, tail = caption.rpartition(" on ")
    return f"{head}\n{word.strip()} {tail}"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    total = len(held_out())
    parser.add_argument("--count", type=int, default=total, help=f"captions to draw, at most {total}")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the first picture, the next has one more"
    )
    parser.add_argument("--model", type=Path, help="another checkpoint than the built-in model")
    parser.add_argument("--threads", type=int, default=-1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cfg-scale", type=float)
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet into this file instead")
    return parser.parse_args()


def main() -> int:
    """Draws, judges, prints."""
    args = options()
    template = GenerationRequest(prompt="", seed=args.seed, steps=args.steps, cfg_scale=args.cfg_scale)
    with Engine.load(EngineConfig(model=args.model, threads=args.threads)) as engine:
        if args.sheet:
            contact_sheet(engine, args.sheet, template)
            return 0
        start = time.monotonic()
        scores = evaluate(engine, held_out()[: args.count], template)
        seconds = (time.monotonic() - start) / len(scores)
        plan = engine.plan(template)
    print(table(scores))
    print(f"{plan.steps} steps, cfg {plan.cfg_scale:g}, {plan.method}, seed {args.seed}")
    print(f"{seconds:.1f} s per picture, {torch.get_num_threads()} threads, {platform.machine()}")
    reached = share(scores, "colour") >= COLOUR_GOAL and share(scores, "shape") >= SHAPE_GOAL
    print("goals reached" if reached else f"goals missed: colour {COLOUR_GOAL:.0%}, shape {SHAPE_GOAL:.0%}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
