"""--auto-fit's plans: sums of bytes, and that they are what then happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import FakeProvider, Processor, fake

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.runtime.assignment import Assignments
from darkroom.runtime.backends import Backend, BackendManager, Placement
from darkroom.runtime.blocks import Block
from darkroom.runtime.devices import Devices
from darkroom.runtime.fit import Fit, Manner, Need, Room, fit
from darkroom.runtime.layer_split import contiguous
from darkroom.runtime.limits import GIBIBYTE, Limits
from darkroom.runtime.residency import SPARE, Components, apply_limits

GIB = GIBIBYTE

FLUX = (
    Need(Module.TE, 9 * GIB, (GIB // 3,) * 24, GIB // 4),
    Need(Module.DIFFUSION, 22 * GIB, (GIB // 3,) * 57, GIB),
    Need(Module.VAE, GIB // 6, (), GIB // 2),
)


def manners(plan: Fit) -> list[Manner]:
    return [place.manner for place in plan.places]


def cards(*gibibytes: float) -> list[Room]:
    return [Room(f"cuda{i}", int(size * GIB), limit=True) for i, size in enumerate(gibibytes)]


@pytest.mark.parametrize(
    ("rooms", "expected"),
    [
        (cards(40), [Manner.RESIDENT] * 3),
        (cards(12, 24), [Manner.RESIDENT] * 3),
        (cards(24), [Manner.VISITING] * 3),
        (cards(33), [Manner.RESIDENT] * 3),
        (cards(32), [Manner.VISITING, Manner.RESIDENT, Manner.VISITING]),
        (cards(16, 16), [Manner.PROCESSOR, Manner.SPLIT, Manner.VISITING]),
        (cards(16, 16, 16), [Manner.VISITING, Manner.SPLIT, Manner.VISITING]),
        (cards(12), [Manner.VISITING, Manner.STREAMED, Manner.VISITING]),
        (cards(6), [Manner.STREAMED, Manner.STREAMED, Manner.VISITING]),
        (cards(0.2), [Manner.PROCESSOR] * 3),
        ([], [Manner.PROCESSOR] * 3),
    ],
)
def test_the_fastest_manner_that_fits(rooms: Sequence[Room], expected: list[Manner]) -> None:
    assert manners(fit(FLUX, rooms, 64 * GIB)) == expected


def test_the_roomiest_card_takes_the_diffusion_network() -> None:
    plan = fit(FLUX, cards(12, 24), 64 * GIB)
    assert plan.backend == "te=cuda0,diffusion=cuda1,vae=cuda0"


def test_what_main_memory_cannot_hold_waits_on_disk() -> None:
    assert fit(FLUX, cards(12), 64 * GIB).params_backend == "te=cpu,diffusion=cpu,vae=cpu"
    assert fit(FLUX, cards(12), 16 * GIB).params_backend == "te=disk,diffusion=disk,vae=disk"


def test_the_processor_alone_reads_from_the_files_what_does_not_fit() -> None:
    plan = fit(FLUX, [], 8 * GIB)
    assert manners(plan) == [Manner.STREAMED, Manner.STREAMED, Manner.PROCESSOR]
    assert plan.params_backend == "te=disk,diffusion=disk,vae=disk"
    assert plan.max_vram == "cpu=8.00"


def test_a_reserve_is_left_where_nobody_gave_a_limit() -> None:
    hundredth = GIB // 100
    assert 0 <= 8 * GIB - GIB // 2 - Room("cuda0", 8 * GIB).budget < hundredth
    assert 0 <= 8 * GIB - Room("cuda0", 8 * GIB, limit=True).budget < hundredth


def test_the_plan_says_bytes_places_and_flags() -> None:
    lines = fit(FLUX, cards(12), 64 * GIB).lines()
    assert lines[0] == "auto-fit: of cuda0 12.9 GB, cpu 68.7 GB"
    assert "diffusion cuda0   23.6 GB" in lines[2]
    assert "of 57 blocks stay, the others come one by one from cpu" in lines[2]
    assert lines[-1].startswith(
        "  the same as --backend 'te=cuda0,diffusion=cuda0,vae=cuda0' --params-backend te="
    )
    assert lines[-1].endswith("--max-vram cuda0=12.00")


sizes = st.integers(min_value=0, max_value=64 * GIB)


@given(
    weights=st.tuples(sizes, sizes, sizes),
    work=st.tuples(sizes, sizes, sizes),
    rooms=st.lists(sizes, max_size=4),
    blocks=st.integers(min_value=0, max_value=60),
    main=sizes,
)
def test_every_plan_is_whole_and_can_be_written_as_flags(
    weights: tuple[int, ...], work: tuple[int, ...], rooms: list[int], blocks: int, main: int
) -> None:
    needs = [
        Need(module, size, (size // blocks,) * blocks if blocks else (), more)
        for module, size, more in zip((Module.TE, Module.DIFFUSION, Module.VAE), weights, work, strict=True)
    ]
    plan = fit(needs, [Room(f"cuda{i}", size) for i, size in enumerate(rooms)], main)
    assert [place.need.module for place in plan.places] == [Module.TE, Module.DIFFUSION, Module.VAE]
    config = EngineConfig(
        backend=plan.backend, params_backend=plan.params_backend, max_vram=plan.max_vram or "0"
    )
    Assignments.of(config)
    Limits.of(config)
    for room in plan.rooms:
        here = [place for place in plan.places if place.devices == (room.device,)]
        resident = [place.need for place in here if place.manner is Manner.RESIDENT]
        staying = sum(need.weights for need in resident)
        visiting = [place.need.alone for place in here if place.manner is Manner.VISITING]
        working = [need.work for need in resident]
        assert staying + max([*visiting, *working], default=0) <= room.budget


class OfBytes:
    """Stands in for a component: what it weighs, and what is decided for it."""

    def __init__(self, need: Need, manager: BackendManager) -> None:
        self._need = need
        self.runtime, self.params = manager.runtime(need.module), manager.params(need.module)
        self.backends = manager.spread(need.module)
        self.is_split = len(self.backends) > 1
        self.streamed_blocks = 0

    @property
    def is_streamed(self) -> bool:
        return self.streamed_blocks > 0

    def weigh(self) -> tuple[int, list[Block]]:
        blocks = [Block(str(n), (), frozenset(), size) for n, size in enumerate(self._need.blocks)]
        return self._need.weights, blocks

    def stream(self, blocks: Sequence[Block], home: Backend | None) -> None:
        assert home is self.params
        self.streamed_blocks = len(blocks)


@given(
    blocks=st.tuples(*[st.lists(st.integers(1, GIB // 2), max_size=24)] * 3),
    rest=st.tuples(*[st.integers(0, 2 * GIB)] * 3),
    work=st.tuples(*[st.integers(0, 2 * GIB)] * 3),
    rooms=st.lists(st.integers(0, 16 * GIB), max_size=3),
    is_limit=st.booleans(),
    main=st.integers(0, 24 * GIB),
)
def test_what_is_planned_is_what_components_do(
    blocks: tuple[list[int], ...],
    rest: tuple[int, ...],
    work: tuple[int, ...],
    rooms: list[int],
    is_limit: bool,
    main: int,
) -> None:
    modules = Module.TE, Module.DIFFUSION, Module.VAE
    needs = {
        module: Need(
            module, sum(sizes) + more, () if module is Module.VAE else tuple(sizes), int(SPARE * busy)
        )
        for module, sizes, more, busy in zip(modules, blocks, rest, work, strict=True)
    }
    cards = [fake(f"vulkan{i}") for i in range(len(rooms))]
    # A fake card has half of its memory free.
    provider = FakeProvider(
        *(replace(card, memory=2 * size) for card, size in zip(cards, rooms, strict=True))
    )
    plan = fit(
        list(needs.values()),
        [Room(card.name, size, is_limit) for card, size in zip(cards, rooms, strict=True)],
        main,
    )
    config = EngineConfig(
        backend=plan.backend, params_backend=plan.params_backend, max_vram=plan.max_vram or "0"
    )
    devices = Devices([Processor(), provider])
    with BackendManager(Placement.parse(config, devices), threads=1) as manager:
        parts = {module: OfBytes(need, manager) for module, need in needs.items()}
        apply_limits(cast("Components", parts), manager, lambda module: work[modules.index(module)])
        for place in plan.places:
            part = parts[place.need.module]
            assert tuple(backend.name for backend in part.backends) == place.devices
            home = "disk" if part.params is None else part.params.name
            assert home == (place.home or part.runtime.name)
            staying = len(place.need.blocks) - part.streamed_blocks
            if place.manner is Manner.STREAMED:
                assert staying == place.staying
            elif place.manner is not Manner.PROCESSOR:  # where nothing fits, all blocks come one by one
                assert not part.is_streamed


@pytest.mark.parametrize("is_limit", [False, True])
def test_a_split_leaves_each_card_room_for_its_work(is_limit: bool) -> None:
    diffusion = Need(Module.DIFFUSION, 14 * GIB, (GIB // 2,) * 28, GIB)
    others = Need(Module.TE, GIB, (), 0), Need(Module.VAE, GIB, (), 0)
    cards = [Room("cuda0", 10 * GIB, is_limit), Room("cuda1", 9 * GIB, is_limit), Room("cuda2", 4 * GIB)]
    plan = fit((diffusion, *others), cards, 64 * GIB)
    assert manners(plan)[1] is Manner.SPLIT
    used = [card for card in cards if card.device in plan.places[1].devices]
    owners = contiguous(diffusion.blocks, [card.share for card in used], 0)
    for number, card in enumerate(used):
        assert owners.count(number) * GIB // 2 + diffusion.work <= card.budget
