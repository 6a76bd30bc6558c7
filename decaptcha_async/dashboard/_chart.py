"""The chart: readings, thresholds and top-ups as SVG that fits every width without measuring.

The line is drawn in a box of 1000 by 1000 that is stretched. All else, whose shape matters, is
placed by per cent of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from itertools import takewhile
from math import ceil, floor, log10
from typing import Final

import attrs

from decaptcha_async import BalanceReading
from decaptcha_async._clock import in_words
from decaptcha_async.dashboard._history import TopUp
from decaptcha_async.dashboard._nodes import Node, node

_BOX: Final = 1000
_LEAST_SPAN: Final = 1.0
_STEPS: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10800, 21600, 43200),
)
_DAY: Final = 86400
_Unit = tuple[float, str]
_UNITS: Final = tuple(
    (size, f"\N{NO-BREAK SPACE}{sign}")
    for size, sign in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
)
_PLAIN: Final = 1e5
_ROOM: Final = 12
_MOST_NAMED: Final = 3
_MIDDLE: Final = 0.5


@attrs.frozen
class _Frame:
    """Where a reading lies, from 0 to 1, and 0 is left and top."""

    first: BalanceReading
    seconds: float
    bottom: float
    top: float
    step: float
    unit: _Unit

    @classmethod
    def around(cls, points: Sequence[BalanceReading], thresholds: Iterable[Decimal]) -> _Frame:
        amounts = [float(point.amount) for point in points]
        amounts += [float(threshold) for threshold in thresholds]
        low, high = min(amounts), max(amounts)
        # Cents must not look like a landslide.
        span = max(high - low, abs(high) / 100, _LEAST_SPAN)
        step = _nice(span / 4)
        bottom = floor((low - span / 50) / step) * step
        if low >= 0:
            bottom = max(0.0, bottom)
        top = ceil((high + span / 50) / step) * step
        unit = _unit_of(max(top, -bottom))
        return cls(points[0], points[-1].seconds_since(points[0]), bottom, top, step, unit)

    def x(self, reading: BalanceReading) -> float:
        since = reading.seconds_since(self.first)
        return min(max(0.0, since / self.seconds), 1.0) if self.seconds > 0 else 1.0

    def y(self, amount: Decimal | float) -> float:
        return (self.top - float(amount)) / (self.top - self.bottom)


def chart(
    points: Sequence[BalanceReading], thresholds: Sequence[Decimal], top_ups: Iterable[TopUp]
) -> list[Node]:
    """The inside of an ``<svg>`` of any size; nothing while there is no reading."""
    if not points:
        return []
    frame = _Frame.around(points, thresholds)
    last = {"cx": "100%", "cy": _per_cent(frame.y(points[-1].amount)), "r": "4"}
    return [
        *_amounts(frame),
        *_times(frame),
        _line(frame, points),
        *(_threshold(frame, threshold) for threshold in thresholds),
        *_top_ups(frame, list(top_ups)),
        node("circle", {"class": "last", **last}),
    ]


def summary(points: Sequence[BalanceReading], top_ups: Collection[TopUp]) -> str:
    """The chart in a sentence."""
    if not points:
        return "No reading yet"
    first, last = points[0], points[-1]
    seconds = last.seconds_since(first)
    if seconds <= 0:
        return f"One reading: {last.amount:,f}"
    least = min(point.amount for point in points)
    text = f"Last {in_words(seconds)}: from {first.amount:,f} to {last.amount:,f}"
    if least < min(first.amount, last.amount):
        text += f", lowest {least:,f}"
    if top_ups:
        text += f", {len(top_ups)} top-up{'s' * (len(top_ups) > 1)}"
    return text


def _line(frame: _Frame, points: Iterable[BalanceReading]) -> Node:
    corners = " L".join(
        f"{_BOX * frame.x(point):.1f} {_BOX * frame.y(point.amount):.1f}" for point in points
    )
    start = corners.partition(" ")[0]
    box = {
        "width": "100%",
        "height": "100%",
        "viewBox": f"0 0 {_BOX} {_BOX}",
        "preserveAspectRatio": "none",
    }
    area = f"M{start} {_BOX} L{corners} L{_BOX} {_BOX} Z"
    return node(
        "svg",
        box,
        node("path", {"class": "area", "d": area}),
        node("path", {"class": "line", "d": f"M{corners}"}),
    )


def _amounts(frame: _Frame) -> Iterable[Node]:
    size, sign = frame.unit
    decimals = max(0, -floor(log10(frame.step / size)))
    for number in range(round((frame.top - frame.bottom) / frame.step) + 1):
        amount = frame.bottom + number * frame.step
        y = _per_cent(frame.y(amount))
        yield node("line", {"class": "grid", "x1": "0", "x2": "100%", "y1": y, "y2": y})
        where = {"class": "amount", "x": "0", "y": y, "dx": "-8", "dy": "4"}
        yield node("text", where, f"{amount / size:,.{decimals}f}{sign}")


def _times(frame: _Frame) -> Iterable[Node]:
    step = next((step for step in _STEPS if frame.seconds / step <= 4), 0)  # noqa: PLR2004
    step = step or ceil(frame.seconds / 4 / _DAY) * _DAY
    for ago in takewhile(lambda ago: ago <= frame.seconds, range(0, 5 * step, step)):
        x = 1 - ago / frame.seconds if ago else 1.0
        # On a narrow screen there is room for every other one.
        where = {"class": "time" + " extra" * (ago // step % 2), "x": _per_cent(x), "y": "100%"}
        yield node("text", {**where, "dy": "22"}, f"−{in_words(ago)}" if ago else "now")


def _threshold(frame: _Frame, threshold: Decimal) -> Node:
    y = _per_cent(frame.y(threshold))
    return node(
        "g",
        {"class": "threshold"},
        node("line", {"x1": "0", "x2": "100%", "y1": y, "y2": y}),
        node("text", {"x": "0", "y": y, "dx": "6", "dy": "-6"}, f"threshold {_brief(threshold)}"),
    )


def _top_ups(frame: _Frame, top_ups: Sequence[TopUp]) -> Iterable[Node]:
    for number, top_up in enumerate(top_ups):
        x, y = frame.x(top_up.reading), frame.y(top_up.reading.amount)
        where = {"x": _per_cent(x), "y": _per_cent(y)}
        marks = [node("text", {**where, "dy": "-6", "class": "mark"}, "▲")]
        if number >= len(top_ups) - _MOST_NAMED:
            side = {"dx": "12", "class": "right"} if x < _MIDDLE else {"dx": "-12", "class": "left"}
            marks.append(node("text", {**where, **side, "dy": "-6"}, f"+{_brief(top_up.rise)}"))
        yield node("g", {"class": "top-up"}, *marks)


def _brief(amount: Decimal) -> str:
    """The amount as it is, or rounded if it is long."""
    exact = f"{amount:,f}"
    if len(exact) <= _ROOM:
        return exact
    size, sign = _unit_of(abs(float(amount)))
    return f"{float(amount) / size:,.2f}{sign}"


def _unit_of(amount: float) -> _Unit:
    """In what an amount is told in few digits: its size, and the sign of it."""
    if amount < _PLAIN:
        return 1.0, ""
    return next(unit for unit in _UNITS if amount >= unit[0])


def _per_cent(part: float) -> str:
    return f"{100 * part:.2f}%"


def _nice(step: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 ..."""
    power = 10.0 ** floor(log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step)
