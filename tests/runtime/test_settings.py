from __future__ import annotations

from itertools import permutations

import pytest

from darkroom.runtime.settings import Setting


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_last_holder_has_its_way_and_nothing_is_left(order: tuple[int, ...]) -> None:
    value = [7]
    setting = Setting(lambda: value[0], lambda new: value.__setitem__(0, new))
    releases = {wish: setting.hold(wish) for wish in range(3)}
    left = [0, 1, 2]
    for wish in order:
        assert value == left[-1:]
        releases[wish]()
        left.remove(wish)
    assert value == [7]


def test_a_second_release_does_nothing() -> None:
    value = [7]
    setting = Setting(lambda: value[0], lambda new: value.__setitem__(0, new))
    release = setting.hold(1)
    release()
    value[0] = 8
    release()
    assert value == [8]
