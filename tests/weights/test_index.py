from __future__ import annotations

import pytest

from darkroom.weights.index import TensorIndex, TensorInfo


def test_under_strips_the_prefix_and_keeps_order_and_metadata() -> None:
    infos = [TensorInfo("b.x", (2,), "f32"), TensorInfo("a.y", (3, 4), "f16"), TensorInfo("b.w", (), "bf16")]
    index = TensorIndex(infos, {"format": "pt"})
    under = index.under("b.")
    assert list(under.items()) == [
        ("x", TensorInfo("x", (2,), "f32")),
        ("w", TensorInfo("w", (), "bf16")),
    ]
    assert under.metadata == {"format": "pt"}
    assert index.shapes() == {"b.x": (2,), "a.y": (3, 4), "b.w": ()}


@pytest.mark.parametrize(
    ("shape", "dtype", "nbytes"),
    [((3, 5), "f16", 30), ((), "f64", 8), ((2, 64), "q8_0", 136), ((256,), "q4_k", 144), ((4,), "c64", 0)],
)
def test_nbytes_counts_what_the_file_holds(shape: tuple[int, ...], dtype: str, nbytes: int) -> None:
    assert TensorInfo("x", shape, dtype).nbytes == nbytes
