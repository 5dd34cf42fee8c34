"""What an answer of a model costs."""

from __future__ import annotations

import pytest

from events.agents import Price


@pytest.mark.parametrize(
    ("price", "cost_usd"),
    [
        (Price(), 0.0),
        (Price(input_usd=3.0, output_usd=15.0), 1000 * 3e-6 + 100 * 15e-6),
        (
            Price(input_usd=3.0, output_usd=15.0, cached_input_usd=0.3, cache_write_usd=3.75),
            200 * 3e-6 + 600 * 0.3e-6 + 200 * 3.75e-6 + 100 * 15e-6,
        ),
        (Price(input_usd=3.0, cached_input_usd=0.0), 400 * 3e-6),
    ],
)
def test_input_from_the_cache_has_its_own_price(price: Price, cost_usd: float) -> None:
    """Where it has one, be it nothing; else it costs what all input costs."""
    assert price.cost_usd(input=1000, output=100, cache_read=600, cache_write=200) == pytest.approx(cost_usd)
