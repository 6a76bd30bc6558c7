"""What a person, or a program, sees of a watch: a live view, lines, or JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import deque
from datetime import UTC, datetime
from decimal import Decimal
from math import inf
from typing import Final, Protocol, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from decaptcha_async import Alert, BalanceReading, BurnRate, PollFailed
from decaptcha_async._clock import in_words

_BARS: Final = "▁▂▃▄▅▆▇█"
_MOST_SHOWN: Final = 500


def complain(name: str, error: Exception, advice: str, *, as_json: bool) -> None:
    """Tell an error on stderr: what it is, and what can be done."""
    match error:
        case click.ClickException():
            text = error.format_message()
        case OSError(strerror=str(text)):
            pass
        case _:
            text = str(error)
    if as_json:
        line = json.dumps({"error": type(error).__name__, "message": text})
    else:
        line = f"{name}: {text.rstrip('.?')}. {advice}."
    click.echo(line, err=True)


class Screen(Protocol):
    """Where a watch is shown; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, reading: BalanceReading) -> None:
        """A reading."""

    def tell(self, alert: Alert) -> None:
        """An alert."""

    def fail(self, failed: PollFailed) -> None:
        """A poll that failed for a passing reason."""


class _Plain:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class JsonLines(_Plain):
    """JSON, one object per line: readings on stdout, the rest on stderr."""

    def show(self, reading: BalanceReading) -> None:
        """A reading, by its ``to_dict()``."""
        click.echo(json.dumps(reading.to_dict()))

    def tell(self, alert: Alert) -> None:
        """An alert: its kind and its message."""
        click.echo(json.dumps({"alert": alert.kind, "message": alert.message}), err=True)

    def fail(self, failed: PollFailed) -> None:
        """An error: its class and its message."""
        complain("", failed.error, "", as_json=True)


class Lines(_Plain):
    """A line each: time, amount, change; alerts and failures in between."""

    def __init__(self, name: str, below: Decimal | None) -> None:
        self._name = name
        self._below = below
        self._last: Decimal | None = None

    def show(self, reading: BalanceReading) -> None:
        """A reading: time, amount, change since the last."""
        line = Text.assemble((f"{reading.taken_at.astimezone():%H:%M:%S}", "dim"))
        line.append(f"{reading.amount:>14,f}", "bold")
        line.append(*_change(self._last, reading.amount, width=13))
        line.append(*low_mark(reading.amount, self._below))
        self._last = reading.amount
        echo(line)

    def tell(self, alert: Alert) -> None:
        """An alert, in its colour."""
        echo(_in_colour(alert))

    def fail(self, failed: PollFailed) -> None:
        """What went wrong, and when it is tried again."""
        complain(self._name, failed.error, f"Next try in {failed.next_delay:.3g} s", as_json=False)


class LiveView:
    """A few lines of a terminal that are drawn again and again; they adapt to its width."""

    def __init__(self, title: str, below: Decimal | None) -> None:
        self._title = title
        self._below = below
        self._rate = BurnRate()
        self._shown: deque[BalanceReading] = deque(maxlen=_MOST_SHOWN)
        self._alert: Alert | None = None
        self._failed: tuple[PollFailed, datetime] | None = None
        # What is shown grows in one thread, and is drawn again by another as time goes by.
        self._lock = threading.Lock()
        self._live = Live(
            get_renderable=self.draw,
            console=console(),
            refresh_per_second=2,
            redirect_stderr=sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, reading: BalanceReading) -> None:
        """A reading: it is the new amount, and the new end of the curve."""
        with self._lock:
            self._failed = None
            self._rate.feed(reading)
            self._shown.append(reading)
        self._live.refresh()

    def tell(self, alert: Alert) -> None:
        """An alert stays until the next."""
        self._alert = alert
        self._live.refresh()

    def fail(self, failed: PollFailed) -> None:
        """The state says so until the next reading."""
        self._failed = failed, datetime.now(UTC)
        self._live.refresh()

    def draw(self) -> RenderableType:
        """The view as it is now."""
        with self._lock:
            return Group(*self._lines())

    def _lines(self) -> list[Text]:
        lines = [Text(self._title, "dim", no_wrap=True, overflow="ellipsis")]
        if not self._shown:
            return [*lines, self._state()]
        reading = self._shown[-1]
        before = self._shown[-2].amount if len(self._shown) > 1 else None
        amount = Text(f"{reading.amount:,f}", "bold")
        amount.append(*_change(before, reading.amount, width=0))
        amount.append(*low_mark(reading.amount, self._below))
        lines += [amount, self._curve(), self._outlook(reading), self._state()]
        if self._alert is not None:
            lines.append(_in_colour(self._alert))
        return lines

    def _curve(self) -> Text:
        width = max(1, self._live.console.width - 1)
        amounts = [reading.amount for reading in self._shown][-width:]
        least, most = min(amounts), max(amounts)
        height = most - least
        levels = (
            int((amount - least) / height * (len(_BARS) - 1)) if height else 0 for amount in amounts
        )
        return Text("".join(_BARS[level] for level in levels), "cyan", no_wrap=True)

    def _outlook(self, reading: BalanceReading) -> Text:
        burn = self._rate.per_second
        lasts = self._rate.runway(reading.amount)
        if burn is None or lasts is None:
            return Text("spending not known yet", "dim")
        if lasts == inf:
            return Text("nothing is spent")
        return Text(f"{burn * 3600:,.2f} an hour, lasts {in_words(lasts)}")

    def _state(self) -> Text:
        if self._failed is not None:
            failed, at = self._failed
            wait = max(0.0, failed.next_delay - (datetime.now(UTC) - at).total_seconds())
            return Text(f"{failed.error}; next try in {in_words(wait)}", "yellow")
        if not self._shown:
            return Text("asking ...", "dim")
        return Text(f"ok, {in_words(self._shown[-1].age)} ago", "dim")


def low_mark(amount: Decimal, below: Decimal | None) -> tuple[str, str]:
    """What is put behind an amount that is low, and its style."""
    if below is None or amount >= below:
        return "", ""
    return f"   LOW: below {below:,f}", "bold red"


def _in_colour(alert: Alert) -> Text:
    style = "bold green" if alert.kind == "recovered" else "bold red"
    return Text(f"{alert.kind.upper()}: {alert.message}", style)


def _change(before: Decimal | None, now: Decimal, *, width: int) -> tuple[str, str]:
    if before is None:
        return "", ""
    change = now - before
    text = f"{change:+,f}" if change else "0"
    return f"{text:>{width}}" if width else f"  {text}", "green" if change > 0 else ""


def console() -> Console:
    """Where text with colours goes; without them where nobody sees them, or wants to."""
    return Console(color_system=None if os.environ.get("NO_COLOR") else "auto")


def echo(text: Text) -> None:
    """Print a line on stdout, in one write."""
    shown = console()
    with shown.capture() as styled:
        shown.print(text, soft_wrap=True)
    click.echo(styled.get(), nl=False)


def is_live() -> bool:
    """Whether stdout is a terminal that can be drawn on, curves too."""
    screen = console()
    ascii_only = screen.options.ascii_only
    return sys.stdout.isatty() and not (screen.is_dumb_terminal or ascii_only)
