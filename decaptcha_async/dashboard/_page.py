"""What the page says: the state of a monitor and its history, as the parts of the page by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Context, Decimal
from html import escape
from importlib.resources import files
from itertools import pairwise
from math import inf
from string import Template
from typing import Final

import attrs

from decaptcha_async import Alert, BalanceReading, MonitorState
from decaptcha_async._clock import in_words
from decaptcha_async.dashboard._chart import chart, summary
from decaptcha_async.dashboard._history import History
from decaptcha_async.dashboard._nodes import Json, Node, Nodes, node, to_html, to_json

_CENT: Final = Decimal("0.01")
_HOUR: Final = 3600
_DAY: Final = 86400
_EXACT: Final = Context(prec=60, traps=[])
_FILES: Final = files("decaptcha_async.dashboard")
_PAGE: Final = Template(_FILES.joinpath("page.html").read_text("utf-8"))

# How large an amount can be shown follows from its length, in characters.
_SIZES: Final = ((10, "short"), (15, "long"), (inf, "longest"))

_STATES: Final = {
    "ok": ("✓", "OK"),
    "idle": ("–", "Idle"),
    "degraded": ("!", "Degraded"),
    "stale": ("!", "Stale"),
    "failed": ("✕", "Failed"),
}
_KINDS: Final = {
    "low": ("▼", "Low"),
    "reminder": ("▼", "Still low"),
    "runway": ("▼", "Short"),
    "stale": ("!", "Stale"),
    "recovered": ("✓", "Recovered"),
}


@attrs.frozen
class View:
    """The page at one moment.

    ``parts`` are what is inside the elements of these ids; ``age`` is that of the reading, in
    seconds; ``spoken`` is for those who listen to the page: what is left, and how things stand.
    """

    title: str
    parts: Mapping[str, Nodes]
    age: float | None
    spoken: tuple[str, str]

    def to_json(self) -> dict[str, str | float | list[str] | dict[str, Json] | None]:
        """For the script."""
        parts = {name: to_json(nodes) for name, nodes in self.parts.items()}
        spoken = list(self.spoken)
        return {"title": self.title, "parts": parts, "age": self.age, "spoken": spoken}

    def to_html(self) -> str:
        """The whole page, complete without the script."""
        parts = {name.replace("-", "_"): to_html(nodes) for name, nodes in self.parts.items()}
        age = "–" if self.age is None else f"{in_words(self.age)} ago"
        return _PAGE.substitute(parts, title=escape(self.title), age=age)


def asset(name: str) -> bytes:
    """A file that goes with the page."""
    return _FILES.joinpath(name).read_bytes()


def view(state: MonitorState, history: History, label: str) -> View:
    """The page as it should look now, for the account that people call ``label``."""
    reading = state.reading
    shown = "–" if reading is None else f"{_cents(reading.amount):,f}"
    points, top_ups, latest = history.points, history.top_ups, list(history.latest)
    parts: dict[str, Nodes] = {
        "banners": _banners(state, history),
        "label": [label],
        "current-balance": _balance(reading),
        "change": _change(latest),
        "state": _state(state),
        "runway": _runway(state, history.thresholds),
        "burn": _burn(state.burn_per_second),
        "summary": [summary(points, top_ups)],
        "chart": chart(points, history.thresholds, top_ups),
        "alerts": [_alert(alert) for alert in reversed(history.alerts)] or [_no_alert()],
        "readings": _readings(latest),
    }
    title = f"{'⚠ ' * (history.low is not None)}{shown} · {label or 'DeCaptcha balance'}"
    spoken = f"Balance {shown}.", _standing(state, history)
    return View(title, parts, None if reading is None else reading.age, spoken)


def _banners(state: MonitorState, history: History) -> Nodes:
    banners: list[Node] = []
    # A banner is spoken whenever its words change: the amount is not among them.
    if low := history.low:
        words: Nodes = ["Nothing is left: top up now."]
        if not _is_spent(state):
            words = [f"Below {low.threshold:,f} since ", _since(low), ": top up."]
        banners.append(_banner("danger", "alert", "Low balance", *words))
    if short := history.short:
        words = [f"Fell below {in_words(float(short.threshold))} at ", _since(short), ": top up."]
        banners.append(_banner("warning", "status", "Runs out soon", *words))
    if state.status in {"stale", "failed"}:
        why = "no reading for too long" if state.error is None else str(state.error)
        known = "There was none yet" if state.reading is None else "The amount is old"
        banners.append(_banner("warning", "status", "No balance", f"{known}: {why}"))
    return banners


def _banner(kind: str, role: str, heading: str, *words: Node | str) -> Node:
    inside = node("strong", {}, heading), " ", node("span", {}, *words)
    return node("div", {"class": f"alert alert-{kind}", "role": role}, *inside)


def _since(alert: Alert) -> Node:
    return _moment(alert.at, "%d %b %H:%M")


def _is_spent(state: MonitorState) -> bool:
    return state.reading is not None and state.reading.amount <= 0


def _standing(state: MonitorState, history: History) -> str:
    standing: list[str] = []
    if low := history.low:
        left = "nothing is left" if _is_spent(state) else f"below {low.threshold:,f}"
        standing.append(f"Low: {left}.")
    if history.short:
        standing.append("Runs out soon.")
    if state.status != "ok" or not standing:
        standing.append(f"{_STATES[state.status][1]}.")
    return " ".join(standing)


def _balance(reading: BalanceReading | None) -> Nodes:
    if reading is None:
        return ["–"]
    # Digits apart in threes to the eye; to scripts that read the element, one plain number.
    amount = f"{_cents(reading.amount):,f}"
    first, *groups = amount.split(",")
    digits = (node("span", {"class": "group"}, group) for group in groups)
    size = next(name for most, name in _SIZES if len(amount) <= most)
    return [node("span", {"title": f"{reading.amount:f}", "class": size}, first, *digits)]


def _change(latest: Sequence[BalanceReading]) -> Nodes:
    if len(latest) < 2:  # noqa: PLR2004
        return ["first reading" if latest else "waiting for the first reading"]
    before, last = latest[-2:]
    within = f" in {in_words(last.seconds_since(before))}"
    return [_difference(before, last), within]


def _difference(before: BalanceReading, after: BalanceReading) -> Node:
    difference = _EXACT.subtract(after.amount, before.amount)
    if not difference:
        return node("span", {"class": "same"}, "± 0")
    kind, arrow, sign = ("rise", "▲", "+") if difference > 0 else ("fall", "▼", "−")
    return node("span", {"class": kind}, f"{arrow} {sign}{abs(difference):,f}")


def _state(state: MonitorState) -> Nodes:
    sign, word = _STATES[state.status]
    since: Nodes = ["since ", _moment(state.since, "%H:%M")]
    detail: Nodes = since if state.error is None else [str(state.error)]
    return [
        node("strong", {"class": state.status}, node("i", {"aria-hidden": "true"}, sign), word),
        node("small", {}, *detail),
    ]


def _runway(state: MonitorState, thresholds: Sequence[Decimal]) -> Nodes:
    if state.runway is None or state.reading is None or state.burn_per_second is None:
        return _fact("–", "not known yet")
    if state.runway == inf:
        return _fact("∞", "nothing is spent")
    amount = state.reading.amount
    above = [threshold for threshold in thresholds if threshold < amount]
    if not above:
        return _fact(in_words(state.runway), "until nothing is left")
    until = float(_EXACT.divide(_EXACT.subtract(amount, above[-1]), state.burn_per_second))
    return _fact(in_words(state.runway), f"{in_words(until)} until {above[-1]:,f}")


def _burn(per_second: Decimal | None) -> Nodes:
    if per_second is None:
        return _fact("–", "not known yet")
    return _fact(
        f"{per_second * _HOUR:,.2f}\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}h",
        f"{per_second * _DAY:,.2f} a day",
    )


def _fact(value: str, detail: str) -> Nodes:
    return [node("strong", {}, value), node("small", {}, detail)]


def _alert(alert: Alert) -> Node:
    sign, word = _KINDS[alert.kind]
    moment = _moment(alert.at, "%d %b %H:%M:%S")
    kind = node("strong", {}, node("i", {"aria-hidden": "true"}, sign), word)
    return node("li", {"class": alert.kind}, kind, node("span", {}, alert.message), moment)


def _no_alert() -> Node:
    return node("li", {"class": "none"}, "None so far.")


def _readings(latest: Sequence[BalanceReading]) -> Nodes:
    changes: Nodes = ["", *(_difference(before, after) for before, after in pairwise(latest))]
    return [_row(reading, change) for reading, change in zip(latest, changes, strict=False)][::-1]


def _row(reading: BalanceReading, change: Node | str) -> Node:
    cells = (_moment(reading.taken_at, "%d %b %H:%M:%S"), f"{reading.amount:,f}", change)
    return node("tr", {}, *(node("td", {}, cell) for cell in cells))


def _moment(at: datetime, form: str) -> Node:
    # The script writes it anew for the clock on the wall beside the page.
    return node("time", {"datetime": at.isoformat()}, f"{at.astimezone(UTC):{form}} UTC")


def _cents(amount: Decimal) -> Decimal:
    # Never more than there is: 99.999 is below a threshold of 100, and looks it.
    return amount.quantize(_CENT, ROUND_FLOOR, _EXACT)
