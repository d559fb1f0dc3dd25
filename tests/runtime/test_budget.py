"""How much memory a picture takes, and sizes that no machine could draw."""

from __future__ import annotations

import pytest

from darkroom.api.errors import RequestError
from darkroom.runtime.budget import check_size, estimate_activation_bytes, format_bytes


def test_estimate_grows_with_the_area() -> None:
    small = estimate_activation_bytes(512, 512, itemsize=2)
    assert estimate_activation_bytes(1024, 512, itemsize=2) == 2 * small
    assert estimate_activation_bytes(512, 512, itemsize=4) == 2 * small


def test_ordinary_sizes_pass() -> None:
    check_size(1024, 1024, estimate_activation_bytes(1024, 1024, itemsize=4), 8 * 10**9, "cpu")


def test_absurd_size_is_refused_with_the_memory_it_needs() -> None:
    needed = estimate_activation_bytes(100_000, 100_000, itemsize=2)
    with pytest.raises(RequestError) as error:
        check_size(100_000, 100_000, needed, 24 * 10**9, "cuda0")
    assert str(error.value) == (
        "size: 100000x100000 needs about 15.4 TB of memory, cuda0 has 24.0 GB; "
        "a smaller --width or --height fits"
    )


def test_unknown_memory_refuses_nothing() -> None:
    check_size(100_000, 100_000, 10**15, 0, "metal")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_700_000_000, "1.7 GB"), (2_345, "2.3 kB"), (5 * 10**15, "5000.0 TB")],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
