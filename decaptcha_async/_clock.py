"""The only clock: schedules, deadlines, ages and budgets all read it.

Inside an event loop time is the loop's own, so a virtual clock moves everything together. Beside
it, the time that the machine spent suspended is known, which an event loop's clock does not count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import anyio
import anyio.lowlevel
import attrs

Seconds = float | timedelta
"""A duration: a number of seconds, or a :class:`~datetime.timedelta`.

.. versionadded:: 0.1.0
"""

INSTANT: Final = 1e-6
"""Seconds too few to wait for: a loop may fire a timer so much early, time standing still."""

_SLICE: Final = 20.0
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_NOTICEABLE: Final = 1.0


def now() -> float:
    """Seconds on the clock of the running event loop."""
    return anyio.current_time()


def _find_boot_clock() -> Callable[[], float]:
    # Linux counts suspend in CLOCK_BOOTTIME; elsewhere the monotonic clock is the best there is.
    if hasattr(time, "CLOCK_BOOTTIME"):
        return lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic


boot_time: Callable[[], float] = _find_boot_clock()
"""Seconds since the machine started, those it spent suspended included."""


def suspended() -> float:
    """Seconds this machine has spent suspended since it started (to within microseconds)."""
    return boot_time() - time.monotonic()


def in_words(seconds: float) -> str:
    """A duration for people, in its one or two largest units: ``"2 h 10 min"``."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min"
    unit, small, names = (_HOUR, _MINUTE, "h min") if seconds < _DAY else (_DAY, _HOUR, "d h")
    large, rest = divmod(seconds, unit)
    return " ".join(
        f"{number:.0f} {name}"
        for number, name in zip((large, rest // small), names.split(), strict=True)
        if number
    )


async def sleep_until(deadline: float) -> None:
    """Sleep until ``now()`` is ``deadline``, or what that meant when the call began.

    Time that the machine spends suspended counts as slept: the wait ends at most 20 s after waking.
    """
    asleep = suspended()
    while (left := deadline - now()) > INSTANT:
        overslept = suspended() - asleep
        if overslept > _NOTICEABLE:
            left -= overslept
            if left <= 0:
                return
        await anyio.sleep(min(left, _SLICE))


@attrs.frozen
class Stamp:
    """A moment, to be asked later how long ago it was."""

    _loop_time: float
    _boot_time: float
    _token: object

    @classmethod
    def take(cls) -> Stamp:
        """The present moment of the running event loop."""
        return cls(now(), boot_time(), anyio.lowlevel.current_token())

    def age(self) -> float:
        """Seconds since then, suspend included; in its own event loop, by that loop's clock too."""
        awake_and_asleep = boot_time() - self._boot_time
        try:
            same_loop = anyio.lowlevel.current_token() == self._token
        except RuntimeError:  # no event loop runs here
            same_loop = False
        return max(0.0, awake_and_asleep, now() - self._loop_time if same_loop else 0.0)

    def seconds_since(self, earlier: Stamp) -> float:
        """Seconds from ``earlier`` to this moment: suspend included, and virtual time."""
        same_loop = self._token == earlier._token
        by_loop = self._loop_time - earlier._loop_time if same_loop else -math.inf
        return max(self._boot_time - earlier._boot_time, by_loop)

    def __deepcopy__(self, memo: object) -> Stamp:
        return self

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        # Clocks of one process mean nothing to another: a stamp travels as None.
        return _no_stamp, ()


def _no_stamp() -> None:
    return None
