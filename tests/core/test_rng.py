"""Golden numbers: tests/data/golden/sampling/README.md (stable-diffusion.cpp's generators, compiled)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from darkroom.api.names import RngType
from darkroom.core.rng import MinstdRng, make_rng, philox4x32

GOLDEN = json.loads((Path(__file__).parents[1] / "data/golden/sampling/sd_cpp.json").read_text())["noise"]

# Known answers published with Random123 (kat_vectors, philox4x32 10): counter, key, output.
RANDOM123 = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), RANDOM123)
def test_philox_gives_random123s_known_answers(counter: str, key: str, expected: str) -> None:
    first, second = words(key)
    output = philox4x32(np.array(words(counter), dtype=np.uint64)[:, None], (first, second))
    assert output[:, 0].tolist() == words(expected)


def test_cuda_gives_the_numbers_in_a1111s_documentation() -> None:
    expected = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    torch.testing.assert_close(
        make_rng(RngType.CUDA, 0).randn((3, 4)), torch.tensor(expected), rtol=2e-6, atol=2e-7
    )


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: f"{golden['rng']}-{golden['seed']}")
def test_numbers_equal_stable_diffusion_cpps(golden: dict[str, object]) -> None:
    rng = make_rng(RngType(golden["rng"]), golden["seed"])
    for call in golden["calls"]:
        torch.testing.assert_close(rng.randn((len(call),)), torch.tensor(call), rtol=1e-6, atol=1e-7)


def test_cpu_is_torchs_generator() -> None:
    rng = make_rng(RngType.CPU, 7)
    generator = torch.Generator().manual_seed(7)
    for shape in ((4, 8, 8), (3,), (2, 9)):
        assert torch.equal(rng.randn(shape), torch.randn(shape, generator=generator))


def test_cpu_takes_the_low_32_bits_of_a_seed() -> None:
    assert torch.equal(
        make_rng(RngType.CPU, 5 + (7 << 32)).randn((20,)), make_rng(RngType.CPU, 5).randn((20,))
    )


def test_cuda_takes_64_bits_of_a_seed() -> None:
    assert not torch.equal(
        make_rng(RngType.CUDA, 5 + (7 << 32)).randn((20,)), make_rng(RngType.CUDA, 5).randn((20,))
    )


@pytest.mark.parametrize("kind", RngType)
def test_numbers_are_standard_normal(kind: RngType) -> None:
    numbers = make_rng(kind, 3).randn((200_000,)).double()
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.std() - 1) < 0.01
    assert abs((numbers**4).mean() - 3) < 0.1


@pytest.mark.parametrize("kind", RngType)
def test_seeding_again_starts_over(kind: RngType) -> None:
    rng = make_rng(kind, 11)
    first = rng.randn((5,))
    rng.randn((9,))
    rng.seed(11)
    assert torch.equal(rng.randn((5,)), first)


@pytest.mark.parametrize("kind", RngType)
def test_shape_only_folds_the_numbers(kind: RngType) -> None:
    folded = make_rng(kind, 2).randn((2, 3, 4))
    assert folded.shape == (2, 3, 4)
    assert torch.equal(folded.flatten(), make_rng(kind, 2).randn((24,)))


def test_a_long_std_default_call_crosses_its_blocks_without_a_seam() -> None:
    # One call of 80000 numbers takes more states than a block holds; even calls draw the same pairs.
    whole = make_rng(RngType.STD_DEFAULT, 9).randn((80_000,))
    rng = make_rng(RngType.STD_DEFAULT, 9)
    assert torch.equal(whole, torch.cat([rng.randn((1_000,)) for _ in range(80)]))


def test_a_std_default_seed_of_zero_counts_as_one() -> None:
    zero, one = MinstdRng(), MinstdRng()
    one.seed(1)
    assert torch.equal(zero.randn((4,)), one.randn((4,)))
