"""When the autoencoder runs tile by tile: as asked, where memory is short, and once more where it ran out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from darkroom.api.errors import OutOfMemoryError
from darkroom.api.request import GenerationRequest
from darkroom.nets.vae.tiling import OnTile, Tileable, decode_tiled, encode_tiled
from darkroom.runtime.backends import Backend
from darkroom.runtime.budget import estimate_activation_bytes, format_bytes
from darkroom.runtime.residency import SPARE

logger = logging.getLogger(__name__)

T = TypeVar("T")

TILED_CHANNELS = 80
"""Of a decoder that takes at once what pictures waiting between its blocks take: 200 numbers a pixel."""

SMALLEST_TILE = 4
USUAL_TILE = 32


@dataclass(frozen=True)
class Tiling:
    """What a request says about tiles. is_asked: for tiles whatever memory there is."""

    is_asked: bool = False
    size: tuple[int, int] = (USUAL_TILE, USUAL_TILE)
    relative: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, request: GenerationRequest) -> Tiling:
        """The request's."""
        return cls(request.vae_tiling, request.vae_tile_size, request.vae_relative_tile_size)

    def tile(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a tile of a picture, all in latent pixels."""
        columns, rows = (
            _side(*sides) for sides in zip(self.size, self.relative, (width, height), strict=True)
        )
        return columns, rows


def _side(asked: int, relative: float, whole: int) -> int:
    """As stable-diffusion.cpp reads them, except that its tiles overlap where a number of them is given."""
    if relative > 1:
        side = round(whole / relative)
    elif relative > 0:
        side = round(whole * relative)
    else:
        side = asked if asked >= SMALLEST_TILE else USUAL_TILE
    return max(min(side, whole), SMALLEST_TILE)


class Way(NamedTuple):
    """One way to run an autoencoder. home: where pictures wait between its blocks; None: not by tiles."""

    home: torch.device | None
    needed: int


class FittedVAE(nn.Module):
    """An autoencoder that runs at once or tile by tile, whichever there is memory for.

    At once if that fits; else by tiles, with what waits between the blocks on the device if that fits, else
    in main memory. Where memory runs out in spite of the estimate, the last of these is tried, once.

    room: asked for the bytes that may be used. on_tile: told of each tile, if there are any.
    """

    def __init__(
        self, vae: nn.Module, backend: Backend, tiling: Tiling, room: Callable[[], int], on_tile: OnTile
    ) -> None:
        super().__init__()
        self.vae = vae
        self._backend = backend
        self._tiling = tiling
        self._room = room
        self._on_tile = on_tile

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, x: (b, 3, H, W)  ->  (b, c, h, w) twice."""
        vae, side = self._tileable, self._tileable.downscale
        tile = self._tiling.tile(x.shape[3] // side, x.shape[2] // side)

        def run(home: torch.device | None) -> tuple[Tensor, Tensor]:
            if home is None:
                out: tuple[Tensor, Tensor] = self.vae.encode(x)  # type: ignore[operator]
                return out
            return encode_tiled(vae, x, tile, home=home, on_tile=self._on_tile)

        return self._run("encoding", run, x.shape[3], x.shape[2], x.element_size())

    def decode(self, z: Tensor) -> Tensor:
        """Pixels, z: (b, c, h, w)  ->  (b, 3, H, W)."""
        vae, side = self._tileable, self._tileable.downscale
        tile = self._tiling.tile(z.shape[3], z.shape[2])

        def run(home: torch.device | None) -> Tensor:
            if home is None:
                out: Tensor = self.vae.decode(z)  # type: ignore[operator]
                return out
            return decode_tiled(vae, z, tile, home=home, on_tile=self._on_tile)

        return self._run("decoding", run, z.shape[3] * side, z.shape[2] * side, z.element_size())

    @property
    def _tileable(self) -> Tileable:
        return self.vae  # type: ignore[return-value]

    def _run(
        self, work: str, run: Callable[[torch.device | None], T], width: int, height: int, itemsize: int
    ) -> T:
        ways = self._ways(width, height, itemsize)
        first, last = self._choose(ways, f"vae: {work} {width}x{height}"), ways[-1]
        try:
            with self._backend.guarded(f"{work} {width}x{height}"):
                return run(first.home)
        except OutOfMemoryError as error:
            if first == last:
                raise
            reason = str(error).partition(";")[0]
        # Outside of the handler, which would keep what the first attempt has made.
        logger.warning("vae: %s; it is done once more, %s", reason, _spelled(last))
        self._backend.empty_cache()
        with self._backend.guarded(f"{work} {width}x{height}"):
            return run(last.home)

    def _ways(self, width: int, height: int, itemsize: int) -> list[Way]:
        """All ways, the fastest first."""
        at_once, waiting = (
            int(SPARE * activation_bytes(width, height, itemsize=itemsize, tiled=tiled))
            for tiled in (False, True)
        )
        here, host = self._backend.device, torch.device("cpu")
        ways = [] if self._tiling.is_asked else [Way(None, at_once)]
        ways.append(Way(here, waiting))
        return ways if here == host else [*ways, Way(host, 0)]

    def _choose(self, ways: list[Way], subject: str) -> Way:
        """The fastest for which there is room."""
        room = self._room()
        if ways[0].needed > room:
            self._backend.empty_cache()
            room = self._room()
        way = next((way for way in ways if way.needed <= room), ways[-1])
        if way != ways[0]:
            needed, free = format_bytes(ways[0].needed), format_bytes(max(room, 0))
            logger.info("%s needs about %s, %s are free; it is done %s", subject, needed, free, _spelled(way))
        return way


def activation_bytes(width: int, height: int, *, itemsize: int, tiled: bool) -> int:
    """Bytes that an autoencoder takes for a picture besides its weights, at once or tile by tile."""
    estimate = partial(estimate_activation_bytes, width, height, itemsize=itemsize, unet_channels=0)
    return estimate(decoder_channels=TILED_CHANNELS) if tiled else estimate()


def _spelled(way: Way) -> str:
    return "tile by tile" if way.home is None or way.needed else "tile by tile through main memory"
