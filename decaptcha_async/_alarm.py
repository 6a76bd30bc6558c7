"""What the command `watch` raises the alarm for: a low balance, and none that is known."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from decimal import Decimal

import attrs

from decaptcha_async import Alert, BalanceReading, LowBalance, _clock
from decaptcha_async.alerts import Staleness


class Alarm:
    """The alerts of one watch; without a threshold there are none."""

    def __init__(self, below: Decimal | None, stale_after: float, label: str) -> None:
        self._low = None if below is None else LowBalance(below)
        self._staleness = Staleness(stale_after)
        self._label = label
        self._latest: BalanceReading | None = None
        self._heard = _clock.now()

    def learned(self, reading: BalanceReading) -> Generator[Alert]:
        """A reading came."""
        self._latest, self._heard = reading, _clock.now()
        if self._low is not None:
            for alert in (self._staleness.feed(reading), self._low.feed(reading)):
                if alert is not None:
                    yield self._named(alert)

    def failed(self, error: Exception, *, at_once: bool = False) -> Generator[Alert]:
        """No reading came; ``at_once`` says that none will."""
        silent = _clock.now() - self._heard
        if self._low is not None and (at_once or silent >= self._staleness.after):
            if at_once:
                self._staleness.after = silent
            alert = self._staleness.overdue(self._latest, str(error), datetime.now(UTC))
            if alert is not None:
                yield self._named(alert)

    def _named(self, alert: Alert) -> Alert:
        if not self._label:
            return alert
        return attrs.evolve(alert, message=f"{self._label}: {alert.message}")
