"""--auto-fit: where a model's modules go so that it runs as fast as this machine's memory allows.

Pure sums of bytes: what each module needs, what each device has. The answer is a list of places, and the
flags that put everything there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from darkroom.api.names import Module
from darkroom.runtime.budget import BUFFERS, blocks_to_stream, format_bytes, resident_bytes
from darkroom.runtime.layer_split import contiguous
from darkroom.runtime.limits import GIBIBYTE
from darkroom.runtime.split import HEADROOM

RESERVE = GIBIBYTE // 2
"""What is left free on a device for which nobody gave a limit; stable-diffusion.cpp leaves as much."""

HUNDREDTH = GIBIBYTE // 100
"""What budgets are multiples of, so that --max-vram says them with two decimals."""

MAIN = "cpu"
DISK = "disk"


class Manner(StrEnum):
    """How a module is on its device, the fastest first."""

    RESIDENT = "stays there"
    SPLIT = "split by layers, stays there"
    VISITING = "there while it runs"
    STREAMED = "some blocks stay, the others come one by one"
    PROCESSOR = "runs on the processor"


@dataclass(frozen=True)
class Need:
    """What a module takes, in bytes. blocks: its weights that can come one by one. work: besides weights."""

    module: Module
    weights: int
    blocks: tuple[int, ...]
    work: int

    @property
    def alone(self) -> int:
        """With nothing else on its device."""
        return self.weights + self.work

    def streamed(self, budget: int) -> int | None:
        """How many blocks stay within a budget while the others come and go; None if that is not enough."""
        room = budget - self.work - (self.weights - sum(self.blocks))
        if not self.blocks or BUFFERS * max(self.blocks) > room:
            return None
        moving = blocks_to_stream(self.blocks, room)
        return len(self.blocks) - len(moving) if resident_bytes(self.blocks, moving) <= room else None


@dataclass(frozen=True)
class Room:
    """A device and the bytes of it that may be used. limit: whether somebody said how many."""

    device: str
    free: int
    limit: bool = False

    @property
    def budget(self) -> int:
        """What weights and work may take."""
        usable = self.free if self.limit else max(self.free - RESERVE, 0)
        return usable // HUNDREDTH * HUNDREDTH

    @property
    def share(self) -> int:
        """What it counts for among cards that one network is split over, as in `split.room_on`."""
        return self.budget if self.limit else max(self.free - HEADROOM, 0)


@dataclass(frozen=True)
class Place:
    """Where one module goes. home: where its weights are when it does not run. staying: of its blocks."""

    need: Need
    devices: tuple[str, ...]
    manner: Manner
    home: str = ""
    staying: int = 0

    def __str__(self) -> str:
        where = " and ".join(self.devices)
        manner = str(self.manner)
        if self.manner is Manner.STREAMED:
            manner = f"{self.staying} of {len(self.need.blocks)} blocks stay, the others come one by one"
        origin = f" from {self.home}" if self.home else ""
        size, work = format_bytes(self.need.weights), format_bytes(self.need.work)
        return f"{self.need.module:<9} {where:<6} {size:>8} and {work:>8} to work: {manner}{origin}"


@dataclass(frozen=True)
class Fit:
    """The places of all modules, and the rooms they are in."""

    places: tuple[Place, ...]
    rooms: tuple[Room, ...]
    main_memory: int

    def lines(self) -> list[str]:
        """The plan for people."""
        rooms = [f"{room.device} {format_bytes(room.budget)}" for room in self.rooms]
        return [
            f"auto-fit: of {', '.join([*rooms, f'{MAIN} {format_bytes(self.main_memory)}'])}",
            *(f"  {place}" for place in self.places),
            f"  the same as {self.flags}",
        ]

    @property
    def backend(self) -> str:
        """For --backend."""
        return ",".join(f"{place.need.module}={'&'.join(place.devices)}" for place in self.places)

    @property
    def params_backend(self) -> str:
        """For --params-backend."""
        return ",".join(f"{place.need.module}={place.home}" for place in self.places if place.home)

    @property
    def max_vram(self) -> str:
        """For --max-vram: the devices on which blocks come and go, and cards with a limit of their own."""
        used = {device for place in self.places for device in place.devices}
        streaming = {place.devices[0] for place in self.places if place.manner is Manner.STREAMED}
        limited = {room.device for room in self.rooms if room.limit} & used
        return ",".join(
            f"{room.device}={room.budget / GIBIBYTE:.2f}"
            for room in (*self.rooms, Room(MAIN, self.main_memory, limit=True))
            if room.device in streaming | limited
        )

    @property
    def flags(self) -> str:
        """What a command line would say."""
        params = f" --params-backend {self.params_backend}" if self.params_backend else ""
        limits = f" --max-vram {self.max_vram}" if self.max_vram else ""
        return f"--backend '{self.backend}'{params}{limits}"


def fit(needs: Sequence[Need], rooms: Sequence[Room], main_memory: int) -> Fit:
    """The fastest plan that fits, for the diffusion network first: it runs once a step.

    needs: of every module. rooms: of the cards, empty where there are none. main_memory: bytes that weights
    and work may take of it. A plan comes out in any case; the last is the processor, reading from the files.
    """
    main_memory = Room(MAIN, main_memory, limit=True).budget
    cards = sorted((room for room in rooms if room.budget > 0), key=lambda room: -room.budget)
    needs = sorted(needs, key=lambda need: need.module is not Module.DIFFUSION)
    places = next(filter(None, _plans(needs, cards, main_memory)))
    order = [Module.TE, Module.DIFFUSION, Module.VAE]
    in_order = sorted(places, key=lambda place: order.index(place.need.module))
    return Fit(tuple(in_order), tuple(rooms), main_memory)


def _plans(needs: Sequence[Need], cards: Sequence[Room], main_memory: int) -> Iterator[list[Place] | None]:
    diffusion, *others = needs
    for card in cards:
        yield _resident(needs, card)
    if len(cards) > 1:
        yield _spread(diffusion, others, cards)
    for card in cards:
        yield _beside(diffusion, others, card, main_memory)
    for card in cards:
        yield _in_turns(needs, card, main_memory)
    if len(cards) > 1:
        yield _split(diffusion, others, cards, main_memory)
    for card in cards:
        yield _streamed(diffusion, others, card, main_memory)
    yield _on_processor(needs, main_memory)


def _resident(needs: Sequence[Need], card: Room) -> list[Place] | None:
    """Everything on one card."""
    if _together(needs) > card.budget:
        return None
    return [Place(need, (card.device,), Manner.RESIDENT) for need in needs]


def _spread(diffusion: Need, others: Sequence[Need], cards: Sequence[Room]) -> list[Place] | None:
    """Whole modules on several cards."""
    first, *rest = cards
    if diffusion.alone > first.budget:
        return None
    there: list[list[Need]] = [[] for _ in rest]
    for need in sorted(others, key=lambda need: -need.weights):
        for card, needs in zip(rest, there, strict=True):
            if _together([*needs, need]) <= card.budget:
                needs.append(need)
                break
        else:
            return None
    placed = [
        (first, diffusion),
        *((card, need) for card, needs in zip(rest, there, strict=True) for need in needs),
    ]
    return [Place(need, (card.device,), Manner.RESIDENT) for card, need in placed]


def _beside(diffusion: Need, others: Sequence[Need], card: Room, main_memory: int) -> list[Place] | None:
    """The diffusion network stays, the others visit."""
    most = max([diffusion.work, *(need.alone for need in others)])
    if diffusion.weights + most > card.budget:
        return None
    home = _home(sum(need.weights for need in others), main_memory)
    return [
        Place(diffusion, (card.device,), Manner.RESIDENT),
        *(Place(need, (card.device,), Manner.VISITING, home) for need in others),
    ]


def _in_turns(needs: Sequence[Need], card: Room, main_memory: int) -> list[Place] | None:
    """Each is there while it runs."""
    if max(need.alone for need in needs) > card.budget:
        return None
    home = _home(sum(need.weights for need in needs), main_memory)
    return [Place(need, (card.device,), Manner.VISITING, home) for need in needs]


def _split(
    diffusion: Need, others: Sequence[Need], cards: Sequence[Room], main_memory: int
) -> list[Place] | None:
    """The diffusion network over as few cards as hold it; the others visit where it has left most room."""
    for count in range(2, len(cards) + 1):
        used = cards[:count]
        left = _left(diffusion, used)
        if diffusion.blocks and all(room >= diffusion.work for room in left.values()):
            break
    else:
        return None
    left |= {card.device: card.budget for card in cards[len(used) :]}
    home = _home(sum(need.weights for need in others), main_memory)
    roomiest = max(left, key=lambda device: left[device])
    devices = tuple(card.device for card in used)
    places = [Place(diffusion, devices, Manner.SPLIT)]
    for need in others:
        if need.alone <= left[roomiest]:
            places.append(Place(need, (roomiest,), Manner.VISITING, home))
        else:
            places.append(Place(need, (MAIN,), Manner.PROCESSOR))
    return places


def _left(need: Need, cards: Sequence[Room]) -> dict[str, int]:
    """Bytes of each card besides its share of a network that is split over them; below 0 is too little."""
    rest = need.weights - sum(need.blocks)
    owners = contiguous(need.blocks, [card.share for card in cards], rest)
    left = {card.device: card.budget for card in cards}
    left[cards[0].device] -= rest
    for owner, size in zip(owners, need.blocks, strict=True):
        left[cards[owner].device] -= size
    return left


def _streamed(diffusion: Need, others: Sequence[Need], card: Room, main_memory: int) -> list[Place] | None:
    """The diffusion network's blocks come and go, those of others that do not fit as well."""
    home = _home(diffusion.weights + sum(need.weights for need in others), main_memory)
    places = []
    for need in (diffusion, *others):
        if need.alone <= card.budget:
            places.append(Place(need, (card.device,), Manner.VISITING, home))
        elif (staying := need.streamed(card.budget)) is not None:
            places.append(Place(need, (card.device,), Manner.STREAMED, home, staying))
        elif need is diffusion:
            return None
        else:
            places.append(Place(need, (MAIN,), Manner.PROCESSOR))
    return places


def _on_processor(needs: Sequence[Need], main_memory: int) -> list[Place]:
    """Without a card: all in main memory, or one after the other from the files, or block by block."""
    if _together(needs) <= main_memory:
        return [Place(need, (MAIN,), Manner.PROCESSOR) for need in needs]
    places = []
    for need in needs:
        staying = None if need.alone <= main_memory else need.streamed(main_memory)
        if staying is None:
            places.append(Place(need, (MAIN,), Manner.PROCESSOR, DISK))
        else:
            places.append(Place(need, (MAIN,), Manner.STREAMED, DISK, staying))
    return places


def _together(needs: Sequence[Need]) -> int:
    """Bytes on a device where all of them stay, one working at a time."""
    return sum(need.weights for need in needs) + max(need.work for need in needs)


def _home(weights: int, main_memory: int) -> str:
    """Where weights wait that are not on a card: in main memory if they fit there."""
    return MAIN if weights <= main_memory else DISK
