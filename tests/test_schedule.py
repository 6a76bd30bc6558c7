"""The arithmetic of polling, checked against its bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decaptcha_async import _schedule

INTERVALS = st.floats(0.001, 10**6)
JITTERS = st.floats(0, 0.99)
FAILURES = st.integers(1, 10**4)


def samples(draw: Callable[[], float]) -> list[float]:
    """Enough draws to see both ends of a range."""
    return [draw() for _ in range(400)]


@given(INTERVALS, JITTERS)
def test_a_gap_strays_by_its_jitter(interval: float, jitter: float) -> None:
    """W3: a gap is the interval times 1 − jitter to 1 + jitter."""
    gap = _schedule.gap(interval, jitter)
    assert interval * (1 - jitter) <= gap <= interval * (1 + jitter)


@given(INTERVALS)
def test_without_jitter_gaps_are_exact(interval: float) -> None:
    """W2: with jitter 0 every gap is the interval itself, so that nothing drifts."""
    assert _schedule.gap(interval, 0) == _schedule.first_gap(interval, 0) == interval


@given(INTERVALS, st.floats(0.001, 0.99))
def test_the_first_gap_is_anywhere_in_the_interval(interval: float, jitter: float) -> None:
    """W3: with any jitter the second poll comes within the interval."""
    assert 0 <= _schedule.first_gap(interval, jitter) <= interval


def test_spreads_fill_their_range() -> None:
    """W3: gaps use the whole range they may, the first one all of the interval."""
    gaps = samples(lambda: _schedule.gap(100, 0.05))
    first = samples(lambda: _schedule.first_gap(100, 0.05))
    assert (min(gaps), max(gaps)) == pytest.approx((95, 105), abs=0.5)
    assert (min(first), max(first)) == pytest.approx((0, 100), abs=5)


@pytest.mark.parametrize(
    ("interval", "failures", "low", "high"),
    [
        pytest.param(60, 1, 60, 90, id="first: d to 1.5 d"),
        pytest.param(60, 2, 60, 120, id="doubled"),
        pytest.param(60, 3, 120, 240, id="doubled again"),
        pytest.param(60, 4, 150, 300, id="capped at five minutes"),
        pytest.param(60, 10**6, 150, 300, id="capped for ever"),
        pytest.param(1, 1, 1, 1.5, id="short: first"),
        pytest.param(1, 4, 4, 8, id="short: doubled"),
        pytest.param(1, 5, 5, 10, id="short: capped at ten intervals"),
        pytest.param(1800, 1, 60, 90, id="long: base of a minute"),
        pytest.param(1800, 2, 60, 120, id="long: doubled"),
        pytest.param(1800, 6, 900, 1800, id="long: capped at the interval"),
    ],
)
def test_probes_back_off(interval: float, failures: int, low: float, high: float) -> None:
    """W5: base min(interval, 60 s), doubled, capped; the whole range is used."""
    delays = samples(lambda: _schedule.probe_delay(failures, interval, None))
    room = (high - low) * 0.05
    assert low <= min(delays) <= low + room
    assert high - room <= max(delays) <= high


@given(INTERVALS, FAILURES)
def test_probes_stay_in_bounds(interval: float, failures: int) -> None:
    """W5: whatever the outage, a delay is positive and at most its cap (the first 1.5 d)."""
    delay = _schedule.probe_delay(failures, interval, None)
    cap = max(interval, min(300, 10 * interval))
    assert 0.5 * min(interval, 60) <= delay <= max(cap, 1.5 * min(interval, 60))


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        pytest.param(1000.0, 1000.0, id="larger wins"),
        pytest.param(3600.0, 3600.0, id="an hour"),
        pytest.param(3601.0, 3600.0, id="more than an hour"),
        pytest.param(math.inf, 3600.0, id="infinite"),
    ],
)
def test_the_service_may_ask_for_more(retry_after: float, expected: float) -> None:
    """W5: a larger Retry-After wins, up to an hour."""
    assert _schedule.probe_delay(3, 60, retry_after) == expected


@given(st.none() | st.floats(0, 60), FAILURES)
def test_the_service_cannot_ask_for_less(retry_after: float | None, failures: int) -> None:
    """W5: a smaller Retry-After, or none, leaves the delay as it was."""
    assert _schedule.probe_delay(failures, 60, retry_after) >= 60
