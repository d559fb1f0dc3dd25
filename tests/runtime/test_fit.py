"""--auto-fit's plans: sums of bytes, no device."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.runtime.assignment import Assignments
from darkroom.runtime.fit import Fit, Manner, Need, Room, fit
from darkroom.runtime.limits import GIBIBYTE, Limits

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
    assert Room("cuda0", 8 * GIB).budget == 8 * GIB - GIB // 2
    assert Room("cuda0", 8 * GIB, limit=True).budget == 8 * GIB


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
        staying = sum(place.need.weights for place in here if place.manner is Manner.RESIDENT)
        visiting = [place.need.alone for place in here if place.manner is Manner.VISITING]
        assert staying + max(visiting, default=0) <= room.budget
