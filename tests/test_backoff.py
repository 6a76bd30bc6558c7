"""`Exponential`: what it yields, for how long, and what it refuses."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from decaptcha_async import ConfigurationError, Exponential
from decaptcha_async.middleware.backoff import Jitter

DRAWS = 2000


def first(count: int, backoff: Exponential) -> list[float]:
    """The first delays of one call."""
    return list(itertools.islice(backoff, count))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(6)


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        pytest.param(Exponential(jitter="none"), [0.5, 1, 2, 4, 8, 8, 8], id="default"),
        pytest.param(
            Exponential(1, factor=3, cap=20, jitter="none"), [1, 3, 9, 20, 20], id="factor"
        ),
        pytest.param(Exponential(2, factor=1, jitter="none"), [2, 2, 2], id="constant"),
        pytest.param(Exponential(5, cap=3, jitter="none"), [3, 3], id="base-above-cap"),
        pytest.param(
            Exponential(timedelta(seconds=2), cap=timedelta(seconds=3), jitter="none"),
            [2, 3, 3],
            id="timedelta",
        ),
    ],
)
def test_delays_grow_to_the_cap(backoff: Exponential, delays: list[float]) -> None:
    """R6: before spreading, each delay is the last times `factor`, and at most `cap`."""
    assert first(len(delays), backoff) == delays


@pytest.mark.parametrize(
    ("jitter", "lowest"),
    [pytest.param("full", 0.0, id="full"), pytest.param("equal", 0.5, id="equal")],
)
@pytest.mark.parametrize(("number", "delay"), [(0, 0.5), (2, 2.0), (9, 8.0)])
def test_jitter_spreads_what_was_capped(
    jitter: Jitter, lowest: float, number: int, delay: float
) -> None:
    """R6: the cap comes before the jitter, so that capped delays are spread too."""
    drawn = [first(number + 1, Exponential(jitter=jitter))[number] for _ in range(DRAWS)]
    low, width = delay * lowest, delay * (1 - lowest)
    assert low <= min(drawn) < low + width / 50
    assert delay - width / 50 < max(drawn) <= delay
    assert sum(drawn) / DRAWS == pytest.approx(low + width / 2, rel=0.05)


@pytest.mark.parametrize(
    ("jitter", "least", "most"),
    [pytest.param("full", 1, 400, id="full"), pytest.param("none", 1000, 1000, id="none")],
)
def test_clients_that_failed_together_part(jitter: Jitter, least: int, most: int) -> None:
    """R6: of 1,000 clients failing at once, few come back in any 100 ms; with none, all."""
    backoff = Exponential(jitter=jitter)
    load = Counter[int]()
    for _ in range(1000):
        load.update(int(10 * moment) for moment in itertools.accumulate(first(3, backoff)))
    assert least <= max(load.values()) <= most


def test_delays_have_no_end() -> None:
    """R6: however many there are and however fast they grow, none is above the cap."""
    delays = first(5000, Exponential(factor=1e300))
    assert all(0 <= delay <= 8 for delay in delays)
    assert first(3, Exponential(cap=1e308, factor=1e200, jitter="none"))[-1] == 1e308


def test_each_iteration_begins_anew() -> None:
    """R6: one policy object gives every call its own delays from the first, also interleaved."""
    backoff = Exponential(jitter="none")
    one, other = iter(backoff), iter(backoff)
    assert [next(one), next(one), next(other), next(one), next(other)] == [0.5, 1, 0.5, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param({"base": 0}, "base must be a finite number of seconds > 0", id="base-zero"),
        pytest.param({"base": -1}, "base must be", id="base-negative"),
        pytest.param({"base": math.nan}, "base must be", id="base-nan"),
        pytest.param({"base": "1"}, "base must be a number of seconds or a", id="base-text"),
        pytest.param({"cap": 0}, "cap must be a finite number of seconds > 0", id="cap-zero"),
        pytest.param({"cap": math.inf}, "cap must be", id="cap-infinite"),
        pytest.param({"factor": 0.5}, "factor must be a finite number ≥ 1, not 0.5", id="shrinks"),
        pytest.param({"factor": math.nan}, "factor must be", id="factor-nan"),
        pytest.param({"factor": math.inf}, "factor must be", id="factor-infinite"),
        pytest.param({"factor": True}, "factor must be", id="factor-bool"),
        pytest.param({"factor": "2"}, "factor must be a finite number ≥ 1, not '2'", id="text"),
        pytest.param(
            {"jitter": "some"},
            'jitter must be "full", "equal" or "none", not \'some\'',
            id="jitter-unknown",
        ),
        pytest.param({"jitter": None}, "jitter must be", id="jitter-none"),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], problem: str) -> None:
    """R6: an argument that cannot be is refused at construction, by name."""
    with pytest.raises(ConfigurationError) as caught:
        Exponential(**arguments)
    assert str(caught.value).startswith(problem)
