from __future__ import annotations

import math

import pytest

from darkroom.sampling.beta_distribution import beta_cdf, beta_quantile

# scipy.stats.beta.ppf, scipy 1.17.
SCIPY = [
    (0.01, 0.6, 0.6, 0.0008612388215429059),
    (0.3, 0.6, 0.6, 0.23401700387523572),
    (0.5, 0.6, 0.6, 0.5000000000000001),
    (0.95, 0.6, 0.6, 0.9874455431263885),
    (0.2, 0.8, 0.5, 0.2640091105089275),
    (0.9, 0.3, 2.0, 0.40822369358398575),
    (0.4, 5.0, 1.5, 0.7547030229520956),
]


@pytest.mark.parametrize(("p", "a", "b", "x"), SCIPY)
def test_quantiles_equal_scipys(p: float, a: float, b: float, x: float) -> None:
    assert beta_quantile(p, a, b) == pytest.approx(x, rel=1e-9)


def test_arcsine_law_in_closed_form() -> None:
    for x in (0.001, 0.2, 0.5, 0.77, 0.999):
        assert beta_cdf(x, 0.5, 0.5) == pytest.approx(2 / math.pi * math.asin(math.sqrt(x)), abs=1e-12)


def test_ends() -> None:
    assert [beta_quantile(p, 0.6, 0.6) for p in (0.0, 1.0)] == [0.0, 1.0]
