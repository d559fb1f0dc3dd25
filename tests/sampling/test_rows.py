"""Images that leave a batch, and conditionings that are stretched, joined and cut."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from darkroom.api.names import PredictionType
from darkroom.sampling.conditions import alike, expand, join, rows_of
from darkroom.sampling.guidance import Guidance, make_denoiser
from darkroom.sampling.prediction import make_prediction
from darkroom.sampling.rows import LiveRows

SIGMAS = torch.tensor([10.0, 5.0, 0.0])


@dataclass(frozen=True)
class Words:
    """A conditioning: context (b, l, D), a flag, and latents that may not be there."""

    context: Tensor
    flag: bool = False
    others: tuple[Tensor, ...] = ()
    extra: Tensor | None = None


def words(*values: float, length: int = 1) -> Words:
    return Words(torch.tensor(values)[:, None, None].expand(-1, length, 2))


def live(cond: Words, n: int, calls: list[int]) -> LiveRows:
    def predict(x: Tensor, t: Tensor, c: Words) -> Tensor:
        calls.append(len(x))
        return x * 0 + c.context.mean((1, 2))[:, None, None, None]

    prediction = make_prediction(PredictionType.EPS)
    uncond = words(0.0)
    return LiveRows(make_denoiser(predict, prediction, cond, uncond, Guidance(2.0), SIGMAS, batched=False), n)


def test_who_left_is_not_computed_and_the_others_are_as_before() -> None:
    calls: list[int] = []
    rows = live(words(1.0, 2.0, 3.0), 3, calls)
    x = torch.randn(3, 1, 2, 2)
    whole = rows(x, 5.0).x0
    rows.leave([1])
    assert rows.rows == [0, 2]
    after = rows(x, 5.0).x0
    torch.testing.assert_close(after[[0, 2]], whole[[0, 2]])
    assert not after[1].any()
    rows.leave([0, 1])
    torch.testing.assert_close(rows(x, 5.0).x0[2], whole[2])
    assert calls == [3, 3, 2, 2, 1, 1]


def test_a_conditioning_for_everyone_stays_that() -> None:
    calls: list[int] = []
    rows = live(words(1.0), 3, calls)
    x = torch.randn(3, 1, 2, 2)
    whole = rows(x, 5.0).x0
    rows.leave({0})
    torch.testing.assert_close(rows(x, 5.0).x0[1:], whole[1:])


def test_conditionings_become_batches() -> None:
    cond = Words(torch.ones(1, 2, 3), others=(torch.ones(1, 4),))
    both = join(expand(cond, 2), cond)
    assert both is not None
    assert (both.context.shape, both.others[0].shape) == ((3, 2, 3), (3, 4))
    assert rows_of(both, [2]).context.shape == (1, 2, 3)
    assert rows_of(cond, [2, 1]) == cond


@pytest.mark.parametrize(
    "other",
    [
        words(1.0, length=2),
        Words(torch.ones(1, 1, 2), flag=True),
        Words(torch.ones(1, 1, 2), others=(torch.ones(1, 2),)),
        Words(torch.ones(1, 1, 2), extra=torch.ones(1)),
    ],
    ids=("length", "flag", "count", "presence"),
)
def test_what_differs_in_form_is_no_batch(other: Words) -> None:
    assert not alike(words(1.0), other)
    assert join(words(1.0), other) is None
    assert alike(words(1.0), words(2.0, 3.0))
