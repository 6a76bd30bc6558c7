"""What the page remembers: readings, top-ups and alerts, each of them bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

import anyio
import attrs

from decaptcha_async import Alert, BalanceReading, LowBalance, LowRunway

_MOST_POINTS: Final = 600
_MOST_TOP_UPS: Final = 50
_MOST_ALERTS: Final = 20
_MOST_LATEST: Final = 10


@attrs.frozen
class TopUp:
    """A rise from one reading to the next: the latter, and by how much."""

    reading: BalanceReading
    rise: Decimal


class History:
    """Readings as points of a chart, evenly thinned once there are too many; and what they mean.

    ``low`` and ``short`` are the alerts in force, by rules of its own that follow the amount as
    closely as the page does: no confirmation, and over as soon as the threshold is reached.
    """

    def __init__(self, rules: Iterable[LowBalance | LowRunway], span: float) -> None:
        self._untold = [attrs.evolve(rule) for rule in rules]
        self._rules = [_for_the_page(rule) for rule in self._untold]
        self._span = span
        self._apart = 0.0
        self._in_force: dict[int, Alert] = {}
        self.points: list[BalanceReading] = []
        self.latest: deque[BalanceReading] = deque(maxlen=_MOST_LATEST)
        self.top_ups: deque[TopUp] = deque(maxlen=_MOST_TOP_UPS)
        self.alerts: deque[Alert] = deque(maxlen=_MOST_ALERTS)
        self.news = anyio.Event()

    def add(self, reading: BalanceReading) -> None:
        """Remember a reading; one that was added before is not news."""
        before = self.latest[-1] if self.latest else None
        if before is reading:
            return
        if before is not None and reading.amount > before.amount:
            self.top_ups.append(TopUp(reading, reading.amount - before.amount))
        self.latest.append(reading)
        self._add_point(reading)
        for place, rule in enumerate(self._rules):
            alert = rule.feed(reading)
            if alert is None:
                continue
            if alert.kind == "recovered":
                del self._in_force[place]
            else:
                self._in_force[place] = alert
        # What the monitor said before this was there to hear it.
        for rule in self._untold:
            if alert := rule.feed(reading):
                self.note(alert)
        self._untold.clear()
        self._tell()

    def note(self, alert: Alert) -> None:
        """Remember an alert of the monitor's, once."""
        if not any(_is_same(alert, noted) for noted in self.alerts):
            self.alerts.append(alert)
            self._tell()

    @property
    def thresholds(self) -> list[Decimal]:
        """The amounts that the balance must not fall below, lowest first."""
        return sorted({rule.threshold for rule in self._rules if isinstance(rule, LowBalance)})

    @property
    def low(self) -> Alert | None:
        """The alert of the lowest threshold that the balance is below."""
        low = [alert for alert in self._in_force.values() if alert.kind != "runway"]
        return min(low, key=lambda alert: alert.threshold, default=None)

    @property
    def short(self) -> Alert | None:
        """The alert of the shortest runway that is not reached."""
        short = [alert for alert in self._in_force.values() if alert.kind == "runway"]
        return min(short, key=lambda alert: alert.threshold, default=None)

    def _add_point(self, reading: BalanceReading) -> None:
        points = self.points
        if len(points) > 1 and points[-1].seconds_since(points[-2]) < self._apart:
            points.pop()
        points.append(reading)
        while reading.seconds_since(points[0]) > self._span:
            del points[0]
        while self.top_ups and reading.seconds_since(self.top_ups[0].reading) > self._span:
            self.top_ups.popleft()
        if len(points) > _MOST_POINTS:
            self._apart = reading.seconds_since(points[0]) * 2 / _MOST_POINTS
            self.points = _thinned(points, self._apart)

    def _tell(self) -> None:
        told, self.news = self.news, anyio.Event()
        told.set()


def _is_same(one: Alert, other: Alert) -> bool:
    return (one.kind, one.rule, one.at) == (other.kind, other.rule, other.at)


def _for_the_page(rule: LowBalance | LowRunway) -> LowBalance | LowRunway:
    if isinstance(rule, LowBalance):
        return attrs.evolve(rule, rearm=rule.threshold, confirm=1, remind=None)
    return attrs.evolve(rule)


def _thinned(points: list[BalanceReading], apart: float) -> list[BalanceReading]:
    """The first, the last, and between them only points that are far enough from each other."""
    kept = [points[0]]
    for point in points[1:-1]:
        if point.seconds_since(kept[-1]) >= apart:
            kept.append(point)
    return [*kept, points[-1]]
