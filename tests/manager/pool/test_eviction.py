"""Which models make room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from darkroom.manager.pool.eviction import Room, Running, Target, evict_for

GB = 10**9


def model(name: str, used: float, gigabytes: float = 4, **more: object) -> Running:
    return Running(name, used, {"cuda0": int(gigabytes * GB)}, **more)  # type: ignore[arg-type]


def test_there_is_room() -> None:
    assert evict_for(Target("x"), [model("a", 1)], Room(2)) == ()


def test_the_least_recently_used_goes() -> None:
    running = [model("a", 2), model("b", 1), model("c", 3)]
    assert evict_for(Target("x"), running, Room(3)) == ("b",)


def test_never_a_busy_or_a_pinned_one() -> None:
    running = [model("a", 1, busy=True), model("b", 2, pinned=True), model("c", 3)]
    assert evict_for(Target("x"), running, Room(3)) == ("c",)
    assert evict_for(Target("x"), running[:2], Room(2)) is None


def test_memory_counts_by_device() -> None:
    running = [model("a", 1, 6), Running("b", 0, {"ram": 6 * GB})]
    room = Room(20, {"cuda0": 10 * GB, "ram": 64 * GB})
    assert evict_for(Target("x", {"cuda0": 4 * GB}), running, room) == ()
    assert evict_for(Target("x", {"cuda0": 5 * GB}), running, room) == ("a",)


def test_one_that_need_not_go_after_all_stays() -> None:
    running = [model("small", 1, 1), model("large", 2, 8)]
    assert evict_for(Target("x", {"cuda0": 8 * GB}), running, Room(9, {"cuda0": 10 * GB})) == ("large",)


def test_alone_a_model_may_try_whatever_the_estimate() -> None:
    target = Target("x", {"cuda0": 20 * GB})
    assert evict_for(target, [], Room(1, {"cuda0": 10 * GB})) == ()
    assert evict_for(target, [model("a", 1)], Room(9, {"cuda0": 10 * GB})) == ("a",)


def test_the_dear_one_stays_when_cost_counts() -> None:
    cheap = model("cheap", 2, 4, load_seconds=2)
    dear = model("dear", 1, 4, load_seconds=60)
    assert evict_for(Target("x"), [cheap, dear], Room(2), "lru", 10) == ("dear",)
    assert evict_for(Target("x"), [cheap, dear], Room(2), "cost", 10) == ("cheap",)
    assert evict_for(Target("x"), [cheap, dear], Room(2), "cost", 2000) == ("cheap",)
    often = model("often", 1, 4, load_seconds=2, uses=50)
    assert evict_for(Target("x"), [cheap, often], Room(2), "cost", 10) == ("cheap",)


models = st.builds(
    Running,
    st.text("abcdefgh", min_size=1, max_size=3),
    st.floats(0, 100),
    st.dictionaries(st.sampled_from(["ram", "cuda0"]), st.integers(0, 10)),
    st.booleans(),
    st.booleans(),
)
rooms = st.builds(
    Room, st.integers(1, 6), st.dictionaries(st.sampled_from(["ram", "cuda0"]), st.integers(0, 20))
)


@given(
    st.lists(models, max_size=6, unique_by=lambda model: model.name),
    st.dictionaries(st.sampled_from(["ram", "cuda0"]), st.integers(0, 10)),
    rooms,
    st.sampled_from(["lru", "cost"]),
)
def test_what_goes_is_idle_enough_and_no_more(
    running: list[Running], need: dict[str, int], room: Room, policy: str
) -> None:
    target = Target("target", need)
    names = evict_for(target, running, room, policy, 100.0)  # type: ignore[arg-type]
    idle = [model for model in running if not model.busy and not model.pinned]
    if names is None:
        rest = [model for model in running if model not in idle]
        assert evict_for(target, rest, room) != ()
        return
    assert set(names) <= {model.name for model in idle}
    assert evict_for(target, [model for model in running if model.name not in names], room) == ()
    for kept in names[:-1]:
        fewer = [model for model in running if model.name not in names or model.name == kept]
        assert evict_for(target, fewer, room) != ()
