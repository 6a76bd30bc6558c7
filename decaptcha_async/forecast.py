"""How fast the money goes, how long it lasts, and how often to look."""

from __future__ import annotations

from collections import deque
from decimal import Context, Decimal
from math import inf
from typing import Final

import attrs

from decaptcha_async._clock import Seconds
from decaptcha_async._readings import BalanceReading
from decaptcha_async._settings import duration, threshold, whole
from decaptcha_async.errors import ConfigurationError

__all__ = ["Adaptive", "BurnRate"]

_STEPS_THAT_COUNT: Final = 4

# The caller's decimal context may round or trap; amounts have at most 33 digits.
_EXACT: Final = Context(prec=60, traps=[])


@attrs.frozen
class _Step:
    ends: float
    seconds: float
    drop: Decimal


def _window(value: Seconds) -> float:
    return duration(value, "window")


@attrs.define(eq=False)
class BurnRate:
    """How fast an account is spent: what was spent, by the time in which it was.

    Feed it readings as they come. From one to the next the balance falls, stays or rises. A rise is
    a top-up, and nobody knows what was spent meanwhile, so that step is left out. Of the others,
    those within ``window`` count, and always the last four, so that it knows something at half an
    hour from reading to reading, too. It is never negative.

    Args:
        window: seconds back from the latest reading that count (default 900).

    Raises:
        ConfigurationError: not a finite duration greater than 0.

    .. versionadded:: 0.1.0
    """

    window: float = attrs.field(default=900.0, converter=_window)
    _latest: BalanceReading | None = attrs.field(default=None, init=False, repr=False)
    _now: float = attrs.field(default=0.0, init=False, repr=False)
    _steps: deque[_Step] = attrs.field(factory=deque[_Step], init=False, repr=False)

    def feed(self, reading: BalanceReading) -> None:
        """Learn from the next reading; one that was fed before teaches nothing.

        .. versionadded:: 0.1.0
        """
        before, self._latest = self._latest, reading
        if before is None:
            return
        # Below 0 where a wall clock was set back: then the reading is a new beginning.
        seconds = max(0.0, reading.seconds_since(before))
        self._now += seconds
        drop = _EXACT.subtract(before.amount, reading.amount)
        if seconds and drop >= 0:
            self._steps.append(_Step(self._now, seconds, drop))
        while (
            len(self._steps) > _STEPS_THAT_COUNT and self._steps[0].ends < self._now - self.window
        ):
            self._steps.popleft()

    @property
    def per_second(self) -> Decimal | None:
        """Money spent in a second, at least 0; ``None`` until two readings tell.

        .. versionadded:: 0.1.0
        """
        if not self._steps:
            return None
        drops, seconds = Decimal(0), 0.0
        for step in self._steps:
            drops = _EXACT.add(drops, step.drop)
            seconds += step.seconds
        return _EXACT.divide(drops, _EXACT.create_decimal_from_float(seconds))

    def runway(self, amount: Decimal | int | str, down_to: Decimal | int | str = 0) -> float | None:
        """Seconds until ``amount`` has fallen to ``down_to`` (default 0) at this rate.

        ``None`` while the rate is unknown, ``math.inf`` while nothing is spent, 0 if it is as low
        already.

        Raises:
            ConfigurationError: a float, a bool, NaN, or a text that is not an amount.

        .. versionadded:: 0.1.0
        """
        left = _EXACT.subtract(threshold(amount, "amount"), threshold(down_to, "down_to"))
        return seconds_to_spend(left, self.per_second)


def seconds_to_spend(money: Decimal, per_second: Decimal | None) -> float | None:
    """Seconds that ``money`` lasts: None if the rate is unknown, infinite if nothing is spent."""
    if per_second is None:
        return None
    if money <= 0:
        return 0.0
    return float(_EXACT.divide(money, per_second)) if per_second else inf


def _fastest(value: Seconds) -> float:
    return duration(value, "fastest")


def _slowest(value: Seconds) -> float:
    return duration(value, "slowest")


def _not_below_fastest(adaptive: Adaptive, _: object, slowest: float) -> None:
    if slowest < adaptive.fastest:
        message = f"slowest must be at least fastest ({adaptive.fastest:g} s), not {slowest:g} s"
        raise ConfigurationError(message)


def _parts(value: int) -> int:
    return whole(value, "parts", least=1)


@attrs.frozen
class Adaptive:
    """An interval for ``watch()``: slow while rich, fast near the threshold.

    From one poll to the next goes one of ``parts`` of the time that the balance needs to fall to
    ``threshold``, but not less than ``fastest`` and not more than ``slowest``. While the rate is
    unknown, or the balance is below the threshold already, it is ``fastest``.

    Args:
        threshold: the amount of interest: a Decimal, an int, or a text such as ``"100.00"``.
        fastest: shortest interval, in seconds (default 15).
        slowest: longest interval, in seconds (default 1800).
        parts: polls on the way to the threshold at a steady rate, about (default 10).

    Raises:
        ConfigurationError: a threshold, duration or number that cannot be; or ``fastest`` above
            ``slowest``.

    .. versionadded:: 0.1.0
    """

    threshold: Decimal = attrs.field(converter=threshold)
    fastest: float = attrs.field(default=15.0, kw_only=True, converter=_fastest)
    slowest: float = attrs.field(
        default=1800.0, kw_only=True, converter=_slowest, validator=_not_below_fastest
    )
    parts: int = attrs.field(default=10, kw_only=True, converter=_parts)

    def __call__(self, reading: BalanceReading, burn_per_second: Decimal | None) -> float:
        """Seconds to the next poll."""
        left = _EXACT.subtract(reading.amount, self.threshold)
        lasts = seconds_to_spend(left, burn_per_second)
        if lasts is None:
            return self.fastest
        return min(max(lasts / self.parts, self.fastest), self.slowest)
