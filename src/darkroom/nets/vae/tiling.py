"""Autoencoders tile by tile, with the result of the whole picture.

Where a decoder takes memory, near the pixels, all its layers but one kind see a few pixels around each pixel:
a tile with that margin gives what the whole picture gives there. The exception is group normalisation, whose
statistics are of the whole picture. So layers are run one residual block at a time over all tiles, and as
often as the block has norms, once to gather the statistics of each. Nothing is blended: nothing differs.

What must be kept of the whole picture is one block's input, which may lie in main memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from darkroom.layers.moments import Moments, normalise
from darkroom.layers.norm import GroupNorm

Staged = Generator[tuple[GroupNorm, Tensor], Tensor, Tensor]
"""A computation that hands out each group norm with its input, and is sent back the normalised input."""

OnTile = Callable[[int, int], None]
"""Told how many tiles are done, and of how many."""


@dataclass(frozen=True)
class Segment:
    """A part of a network that sees only the surroundings of each pixel, but for its group norms.

    run: of a picture or a piece of one, (b, c, h, w)  ->  (b, c', h', w'). norms: how many it hands out.
    margin: pixels around a piece that are wrong at its cut edges, on the coarser of its two sides.
    up, down: how many times the picture becomes finer or coarser, 1 for a segment that keeps its size.
    in_place: whether what comes out has the shape of what went in.
    """

    run: Callable[[Tensor], Staged]
    margin: int
    norms: int = 0
    up: int = 1
    down: int = 1
    in_place: bool = False


@dataclass(frozen=True)
class Route:
    """A network's way: what sees the whole picture first, segments, what sees the whole picture last."""

    first: Callable[[Tensor], Tensor]
    segments: Sequence[Segment]
    last: Callable[[Tensor], Tensor]


class Tileable(Protocol):
    """An autoencoder that can be run by segments. downscale: pixels on one side of a latent pixel."""

    @property
    def downscale(self) -> int: ...  # noqa: D102

    def encoding(self) -> Route: ...  # noqa: D102

    def decoding(self) -> Route: ...  # noqa: D102


class Span(NamedTuple):
    """Rows or columns of a tile, and those that it is computed from, on the coarser side of a segment."""

    places: range
    seen: range


class Tile(NamedTuple):
    """A piece of a picture."""

    rows: Span
    columns: Span


def decode_tiled(
    vae: Tileable,
    z: Tensor,
    tile: tuple[int, int],
    *,
    home: torch.device | None = None,
    on_tile: OnTile | None = None,
) -> Tensor:
    """`vae.decode(z)`, z: (b, c, h, w), but for rounding.

    tile: width and height of a tile in latent pixels; it stands for tile * downscale pixels of every layer's
    own. home: where whole pictures wait between segments; None: where z is.
    """
    return _follow(vae.decoding(), z, _Frame(vae, tile, z.device, home or z.device, on_tile))


def encode_tiled(
    vae: Tileable,
    x: Tensor,
    tile: tuple[int, int],
    *,
    home: torch.device | None = None,
    on_tile: OnTile | None = None,
) -> tuple[Tensor, Tensor]:
    """`vae.encode(x)`, x: (b, 3, H, W), H and W multiples of downscale, but for rounding.

    The rest as for `decode_tiled`.
    """
    moments = _follow(vae.encoding(), x, _Frame(vae, tile, x.device, home or x.device, on_tile))
    mean, logvar = moments.chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


class _Frame:
    """What all segments of a run share: sizes, devices, and the count of tiles."""

    def __init__(
        self,
        vae: Tileable,
        tile: tuple[int, int],
        device: torch.device,
        home: torch.device,
        on_tile: OnTile | None,
    ) -> None:
        self.width, self.height = (side * vae.downscale for side in tile)
        self.device = device
        self.home = home
        self.total = 0
        self._done = 0
        self._on_tile = on_tile

    def advance(self) -> None:
        """One more tile is done."""
        self._done += 1
        if self._on_tile is not None:
            self._on_tile(self._done, self.total)

    def rows(self, segment: Segment, height: int, width: int) -> list[list[Tile]]:
        """The tiles of a picture that goes into `segment`, row by row."""
        finer = segment.up * segment.down
        ys, xs = (
            _cut(size // segment.down, max(side // finer, 1), segment.margin)
            for size, side in ((height, self.height), (width, self.width))
        )
        return [[Tile(rows, columns) for columns in xs] for rows in ys]


def _follow(route: Route, x: Tensor, frame: _Frame) -> Tensor:
    x = route.first(x)
    height, width = x.shape[2:]
    for segment in route.segments:
        rows = frame.rows(segment, height, width)
        frame.total += (segment.norms + 1) * sum(map(len, rows))
        height, width = (side * segment.up // segment.down for side in (height, width))
    for segment in route.segments:
        x = _run(segment, x, frame)
    return route.last(x.to(frame.device))


def _run(segment: Segment, x: Tensor, frame: _Frame) -> Tensor:
    """One segment over all tiles: a pass for the statistics of each norm, then one for the result."""
    rows = frame.rows(segment, *x.shape[2:])
    scales: list[tuple[Tensor, Tensor]] = []
    for _ in range(segment.norms):
        scales.append(_measure(segment, x, rows, scales, frame))
    out = x if segment.in_place else None
    above: Tensor | None = None
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        source, offset = x, 0
        if segment.in_place:
            # The rows of a band are overwritten; the next one still needs the last of them.
            places, seen = row[0].rows
            source, offset = x[:, :, seen.start : seen.stop].clone(), seen.start
            if above is not None:
                source[:, :, : above.shape[2]] = above
            if following is not None:
                above = source[:, :, following[0].rows.seen.start - offset : places.stop - offset].clone()
        for tile in row:
            y = _finish(segment.run(_piece(segment, source, tile, frame, offset)), scales)
            y = _inner(segment, y, tile)
            if out is None:
                out = _empty(y, x.shape, segment, frame.home)
            left, top = tile.columns.places.start * segment.up, tile.rows.places.start * segment.up
            out[:, :, top : top + y.shape[2], left : left + y.shape[3]] = y
            frame.advance()
    assert out is not None, "there is at least one tile"
    return out


def _measure(
    segment: Segment,
    x: Tensor,
    rows: list[list[Tile]],
    scales: list[tuple[Tensor, Tensor]],
    frame: _Frame,
) -> tuple[Tensor, Tensor]:
    """Scale and offset of the first norm that is not in `scales`."""
    moments: Moments | None = None
    for row in rows:
        for tile in row:
            stages = segment.run(_piece(segment, x, tile, frame))
            norm, value = next(stages)
            for scale, offset in scales:
                norm, value = stages.send(normalise(value, scale, offset, silu=norm.silu))
            stages.close()
            moments = moments or Moments(norm.num_groups)
            moments.add(_inner(segment, value, tile))
            frame.advance()
    assert moments is not None, "there is at least one tile"
    return moments.scales(norm)


def _finish(stages: Staged, scales: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The result of a computation whose norms are known."""
    answer: Tensor | None = None
    known = iter(scales)
    try:
        while True:
            norm, value = next(stages) if answer is None else stages.send(answer)
            scale, offset = next(known)
            answer = normalise(value, scale, offset, silu=norm.silu)
    except StopIteration as end:
        out: Tensor = end.value
        return out


def _piece(segment: Segment, x: Tensor, tile: Tile, frame: _Frame, offset: int = 0) -> Tensor:
    """What a tile is computed from: its pixels of x and a margin. offset: rows that x lacks above."""
    rows, columns = (slice(span.seen.start * segment.down, span.seen.stop * segment.down) for span in tile)
    piece = x[:, :, rows.start - offset : rows.stop - offset, columns]
    # Of its own, since networks may write over what they are given.
    return piece.to(frame.device, copy=True).contiguous(memory_format=_format(x))


def _inner(segment: Segment, y: Tensor, tile: Tile) -> Tensor:
    """A tile's result without the margin."""
    first_row, first_column = ((span.places.start - span.seen.start) * segment.up for span in tile)
    height, width = (len(span.places) * segment.up for span in tile)
    return y[:, :, first_row : first_row + height, first_column : first_column + width]


def _empty(y: Tensor, shape: torch.Size, segment: Segment, home: torch.device) -> Tensor:
    """Room for all tiles' results, y: one of them."""
    height, width = (side * segment.up // segment.down for side in shape[2:])
    size = (y.shape[0], y.shape[1], height, width)
    return torch.empty(size, dtype=y.dtype, device=home, memory_format=_format(y))


def _format(x: Tensor) -> torch.memory_format:
    is_last = x.stride(1) == 1 and x.shape[1] > 1
    return torch.channels_last if is_last else torch.contiguous_format


def _cut(size: int, largest: int, margin: int) -> list[Span]:
    """`size` places in as few spans of about equal length as `largest` allows.

    All see equally many places, those at the edges of the picture more than they need: for pieces of one
    shape a device chooses its algorithms once.
    """
    count = -(-size // largest)
    edges = [i * size // count for i in range(count + 1)]
    length = min(-(-size // count) + 2 * margin, size)
    starts = (min(max(first - margin, 0), size - length) for first in edges)
    return [
        Span(range(*places), range(start, start + length))
        for start, places in zip(starts, itertools.pairwise(edges), strict=False)
    ]
