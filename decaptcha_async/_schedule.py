"""When to poll next: pure arithmetic, all durations in seconds."""

from __future__ import annotations

from random import uniform
from typing import Final

_CALM_BASE: Final = 60.0
_CALM_CAP: Final = 300.0
_LONGEST_ASKED: Final = 3600.0


def gap(interval: float, jitter: float) -> float:
    """From the start of one poll to the start of the next: the interval, spread by ``jitter``."""
    return interval * uniform(1 - jitter, 1 + jitter)


def first_gap(interval: float, jitter: float) -> float:
    """From the first good poll to the second: anywhere in the interval.

    Processes that were started together, by a deployment say, part here for good.
    """
    return uniform(0, interval) if jitter else interval


def probe_delay(failures: int, interval: float, retry_after: float | None) -> float:
    """From a failed poll to the next probe, after ``failures`` (≥ 1) failed polls in a row.

    The base is the interval, at most a minute, and doubles up to a cap of five minutes or ten
    intervals, whichever is less, but never below the interval. The first delay is 1 to 1.5 times
    the base, later ones half to all of theirs. What the service asked for wins if larger, up to an
    hour.
    """
    base = min(interval, _CALM_BASE)
    if failures == 1:
        delay = uniform(base, 1.5 * base)
    else:
        cap = max(interval, min(_CALM_CAP, 10 * interval))
        doubled = min(cap, base * 2.0 ** min(failures - 1, 64))
        delay = uniform(doubled / 2, doubled)
    return max(delay, min(retry_after or 0.0, _LONGEST_ASKED))
