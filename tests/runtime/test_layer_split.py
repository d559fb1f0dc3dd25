"""Which block goes where, and what follows it there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from darkroom.runtime.layer_split import contiguous

SIZES = st.lists(st.integers(1, 10**9), min_size=1, max_size=60)
ROOMS = st.lists(st.integers(0, 10**12), min_size=2, max_size=5)


def test_blocks_are_shared_by_room() -> None:
    assert contiguous([1] * 4, [1, 1], 0) == [0, 0, 1, 1]
    assert contiguous([1] * 4, [3, 1], 0) == [0, 0, 0, 1]
    assert contiguous([1] * 6, [1, 1, 1], 0) == [0, 0, 1, 1, 2, 2]


def test_what_is_no_block_counts_as_the_first_device_s() -> None:
    assert contiguous([1] * 4, [1, 1], 2) == [0, 1, 1, 1]


def test_a_device_without_room_gets_none() -> None:
    assert contiguous([1] * 4, [1, 0], 0) == [0] * 4
    assert contiguous([1] * 4, [0, 1], 0) == [1] * 4
    assert contiguous([1] * 4, [0, 0], 0) == [0, 0, 1, 1]


@given(SIZES, ROOMS, st.integers(0, 10**10))
def test_each_device_has_one_run_of_about_its_share(sizes: list[int], rooms: list[int], rest: int) -> None:
    numbers = contiguous(sizes, rooms, rest)
    assert len(numbers) == len(sizes)
    assert numbers == sorted(numbers)
    if any(rooms):
        total = sum(sizes) + rest
        for device, room in enumerate(rooms[1:], 1):
            held = sum(size for size, number in zip(sizes, numbers, strict=True) if number == device)
            assert held <= total * room / sum(rooms) + max(sizes) + 1
