"""What a watch looks like: in a terminal, in a pipe, and to a program."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import click
import pyte
import pytest
from canary import CANARY
from rich.text import Text
from terminal import CTRL_C, Terminal, served, showing

from decaptcha_async import (
    Alert,
    AuthenticationError,
    BalanceReading,
    LowBalance,
    PollFailed,
    ServerError,
)
from decaptcha_async._screen import (
    JsonLines,
    Lines,
    LiveView,
    complain,
    echo,
    is_live,
    low_mark,
)
from decaptcha_async.sandbox import Fault

BROKEN = ServerError("500 from the balance API", status_code=500)


class Tty(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns that knows colours."""
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "80"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tty() -> Tty:
    """A terminal for a live view."""
    return Tty()


def shown(tty: Tty, columns: int = 80) -> pyte.Screen:
    """What a terminal shows of what was written to it."""
    screen = pyte.Screen(columns, 24)
    pyte.Stream(screen).feed(tty.getvalue().replace("\n", "\r\n"))
    return screen


def lines(tty: Tty, columns: int = 80) -> list[str]:
    """The lines of a terminal that are not empty."""
    return [line.rstrip() for line in shown(tty, columns).display if line.strip()]


def colour_of(text: str, tty: Tty, *, at: int = 0) -> str:
    """The colour in which a terminal shows a text, or what comes so much later."""
    screen = shown(tty)
    [(row, column)] = [
        (row, line.index(text)) for row, line in enumerate(screen.display) if text in line
    ]
    return screen.buffer[row][column + at].fg


def reading(amount: str, *, ago: float = 0.0) -> BalanceReading:
    """A reading taken so many seconds ago."""
    taken_at = datetime.now(UTC) - timedelta(seconds=ago)
    return BalanceReading(amount=Decimal(amount), raw=amount, taken_at=taken_at, latency=0.05)


def alerts(*amounts: str) -> list[Alert | None]:
    """What a threshold of 100 says of each of these amounts."""
    rule = LowBalance(100, rearm=100)
    return [rule.feed(reading(amount)) for amount in amounts]


@contextmanager
def live(tty: Tty, below: Decimal | None = None) -> Generator[LiveView]:
    """A live view of an account, on a terminal."""
    with redirect_stdout(tty), LiveView("https://example.com", below) as view:
        yield view


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a reading: local time, amount, change; low ones marked; alerts in between."""
    noon = datetime(2026, 1, 2, 12, 0, 5)  # noqa: DTZ001 - of the local zone, whichever it is
    low, recovered = alerts("99.00", "1234.50")
    with Lines("watch", Decimal(100)) as screen:
        for amount, alert in (("100.00", None), ("99.00", low), ("1234.50", recovered)):
            taken_at = noon.astimezone()
            screen.show(
                BalanceReading(amount=Decimal(amount), raw=amount, taken_at=taken_at, latency=0.0)
            )
            if alert is not None:
                screen.tell(alert)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "12:00:05        100.00",
        "12:00:05         99.00        -1.00   LOW: below 100",
        "LOW: Balance 99.00 is below 100. Top up.",
        "12:00:05      1,234.50    +1,135.50",
        "RECOVERED: Balance 1,234.50 is no longer below 100, after 0 s.",
    ]
    assert printed.err == ""


def test_lines_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """A failure is a line on stderr: what it was, and when it is tried again."""
    Lines("watch", None).fail(PollFailed(BROKEN, 1, 12.345))
    assert capsys.readouterr() == ("", "watch: 500 from the balance API. Next try in 12.3 s.\n")


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """For programs: readings by `to_dict()` on stdout, alerts and errors as objects on stderr."""
    [low] = alerts("99.00")
    assert low is not None
    assert low.reading is not None
    with JsonLines() as screen:
        screen.show(low.reading)
        screen.tell(low)
        screen.fail(PollFailed(BROKEN, 1, 1.0))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == low.reading.to_dict()
    assert [json.loads(line) for line in printed.err.splitlines()] == [
        {"alert": "low", "message": "Balance 99.00 is below 100. Top up."},
        {"error": "ServerError", "message": "500 from the balance API"},
    ]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (click.BadParameter("no"), "Invalid value: no"),
        (FileNotFoundError(2, "No such file"), "No such file"),
        (AuthenticationError("Is it the right key?", status_code=401), "Is it the right key"),
    ],
)
def test_complain(error: Exception, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An error is a line on stderr, without its own full stop before the advice."""
    complain("balance", error, "Look", as_json=False)
    assert capsys.readouterr() == ("", f"balance: {text}. Look.\n")


def test_before_the_first_reading(tty: Tty) -> None:
    """A live view says whom it asks."""
    with live(tty):
        pass
    assert lines(tty) == ["https://example.com", "asking ..."]


def test_live_view(tty: Tty) -> None:
    """Amount, change, curve, what is spent, state: drawn over and over in the same place."""
    with live(tty) as view:
        for amount, ago in (("1300.00", 2000), ("1290.00", 1100), ("1280.50", 200)):
            view.show(reading(amount, ago=ago))
    assert lines(tty) == [
        "https://example.com",
        "1,280.50  -9.50",
        "█▄▁",
        "39.00 an hour, lasts 1 d 8 h",
        "ok, 3 min ago",
    ]
    assert tty.getvalue().count("\x1b[1A") >= 4


@pytest.mark.parametrize(
    ("amounts", "change", "colour"),
    [
        (("10.00", "10.00"), "10.00  0", "default"),
        (("10.00", "1234.5"), "1,234.5  +1,224.50", "green"),
        (("1234.50", "0.25"), "0.25  -1,234.25", "default"),
    ],
)
def test_change(amounts: tuple[str, ...], change: str, colour: str, tty: Tty) -> None:
    """The change is signed, and green where money came in."""
    with live(tty) as view:
        for amount in amounts:
            view.show(reading(amount))
    assert lines(tty)[1] == change
    assert colour_of(change, tty, at=change.index("  ") + 2) == colour


def test_curve(tty: Tty) -> None:
    """The curve goes from the least to the most, and is flat where nothing changed."""
    with live(tty) as view:
        view.show(reading("5.00"))
        view.show(reading("5.00"))
        assert lines(tty)[2] == "▁▁"
        view.show(reading("12.00"))
        view.show(reading("8.00"))
    assert lines(tty)[2] == "▁▁█▄"
    assert colour_of("▁▁█▄", tty) == "cyan"


def test_curve_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, tty: Tty) -> None:
    """The curve shows the last readings that fit, on one line."""
    monkeypatch.setenv("COLUMNS", "12")
    with live(tty) as view:
        for amount in range(30, 0, -1):
            view.show(reading(str(amount)))
    curves = [line for line in lines(tty, 12) if "█" in line]
    assert [len(line) for line in curves] == [11]


@pytest.mark.parametrize(
    ("amounts", "outlook"),
    [
        (("10.00",), "spending not known yet"),
        (("10.00", "10.00", "10.00", "10.00"), "nothing is spent"),
        (("10.00", "20.00", "19.00", "18.00"), "36.00 an hour, lasts 30 min"),
    ],
)
def test_outlook(amounts: tuple[str, ...], outlook: str, tty: Tty) -> None:
    """M2: what is spent an hour, and how long the rest lasts; a top-up does not count."""
    with live(tty) as view:
        for number, amount in enumerate(amounts):
            view.show(reading(amount, ago=100 * (len(amounts) - number)))
    assert lines(tty)[3] == outlook


def test_alert(tty: Tty) -> None:
    """An alert stands below, red, until the next; recovery is green. A low amount is marked."""
    low, recovered = alerts("99.00", "150.00")
    with live(tty, Decimal(100)) as view:
        for amount, alert, colour in (("99.00", low, "red"), ("150.00", recovered, "green")):
            assert alert is not None
            view.show(reading(amount))
            view.tell(alert)
            assert lines(tty)[-1] == f"{alert.kind.upper()}: {alert.message}"
            assert colour_of(f"{alert.kind.upper()}: B", tty) == colour
            assert ("LOW: below 100" in lines(tty)[1]) == (alert is low)


def test_outage(tty: Tty) -> None:
    """W5: while it fails the state is the error and the next try; the last amount stays."""
    with live(tty) as view:
        view.fail(PollFailed(BROKEN, 1, 90.0))
        assert lines(tty)[1:] == ["500 from the balance API; next try in 1 min"]
        view.show(reading("10.00"))
        assert lines(tty)[-1] == "ok, 0 s ago"
        view.fail(PollFailed(BROKEN, 1, 0.0))
        assert lines(tty)[1] == "10.00"
        assert lines(tty)[-1] == "500 from the balance API; next try in 0 s"
        assert colour_of("500", tty) == "brown"  # pyte's name for ANSI yellow


@pytest.mark.parametrize("to_terminal", [True, False])
def test_errors_beside_the_view(
    to_terminal: bool,  # noqa: FBT001
    tty: Tty,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What goes to stderr stands above the view, or in the file that stderr leads to."""
    errors = tty if to_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    with live(tty) as view:
        view.show(reading("10.00"))
        complain("watch", BROKEN, "Look", as_json=False)
        view.show(reading("11.00"))
    told = "watch: 500 from the balance API. Look."
    above = [told] if to_terminal else []
    assert lines(tty)[:-3] == [*above, "https://example.com", "11.00  +1.00"]
    assert told in errors.getvalue()


def test_low_mark() -> None:
    """Only what is below is low."""
    assert low_mark(Decimal(1), None) == ("", "")
    assert low_mark(Decimal(1), Decimal(1)) == ("", "")
    assert low_mark(Decimal("0.99"), Decimal(1000)) == ("   LOW: below 1,000", "bold red")


@pytest.mark.parametrize(
    ("stdout", "term", "expected"),
    [(Tty(), "xterm", True), (Tty(), "dumb", False), (io.StringIO(), "xterm", False)],
)
def test_is_live(
    stdout: io.StringIO,
    term: str,
    expected: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A view can be drawn on a terminal, unless that is a dumb one."""
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setenv("TERM", term)
    assert is_live() is expected


def test_no_color(tty: Tty, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR: no colour, no bold; set to nothing it means nothing."""
    monkeypatch.setenv("NO_COLOR", "1")
    with live(tty) as view:
        view.show(reading("10.00"))
    assert re.search(r"\x1b\[[\d;]*m", tty.getvalue()) is None
    assert lines(tty)[1] == "10.00"
    monkeypatch.setenv("NO_COLOR", "")
    with live(tty) as view:
        view.show(reading("11.00"))
    assert re.search(r"\x1b\[36m▁\x1b\[0m", tty.getvalue())


def test_echo_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A line in a pipe is as long as it is."""
    echo(text := Text("x" * 300))
    assert capsys.readouterr().out == f"{text.plain}\n"


def test_terminal_watched_and_left() -> None:
    """In a terminal a live view; Ctrl-C ends with 130, the last view stays, the cursor is back."""
    with Terminal("watch", "--sandbox", "--interval", "0.1", "--below", "1250.70") as terminal:
        terminal.until("Sandbox: an invented account", "LOW: below 1,250.70", "ok, 0 s ago", "LOW:")
        hidden_meanwhile = terminal.screen.cursor.hidden
        terminal.type(CTRL_C)
        assert terminal.end() == 130
        title, amount, curve, outlook, state, alert = terminal.lines
    assert title == "Sandbox: an invented account"
    assert re.fullmatch(r"1,2\d\d\.\d\d  -\d\.\d\d   LOW: below 1,250\.70", amount)
    assert re.fullmatch(r"█[▁-█]+", curve)
    assert re.fullmatch(r"spending not known yet|[\d,.]+ an hour, lasts \d+ min", outlook)
    assert state == "ok, 0 s ago"
    assert re.match(r"LOW: Balance 1,2\d\d\.\d\d is below 1,250\.70\. ", alert)
    assert hidden_meanwhile
    assert not terminal.screen.cursor.hidden
    assert (terminal.screen.cursor.x, terminal.screen.cursor.y) == (0, 7)
    assert "\n".join(terminal.lines).count("Sandbox") == 1


def test_terminal_resized() -> None:
    """It fits a narrow terminal while it runs: amounts keep their decimals, texts are wrapped."""
    with Terminal("watch", "--sandbox", "--interval", "0.1", "--below", "1250.70") as terminal:
        terminal.until("LOW: below 1,250.70", "ok", "top up.")
        terminal.resize(30, 24)
        terminal.until("LOW: below", "1,250.70", "ok", "LOW: Balance", "top up.")
        narrow = "\n".join(terminal.lines)
        terminal.resize(100, 24)
        terminal.until("LOW: below 1,250.70", "ok", "top up.")
        wide = terminal.lines
    assert re.search(r"^1,2\d\d\.\d\d  -\d\.\d\d   LOW: below\n1,250\.70$", narrow, re.MULTILINE)
    assert re.search(r"^LOW: Balance 1,2\d\d\.\d\d is below$", narrow, re.MULTILINE)
    assert re.fullmatch(r"LOW: Balance 1,2\d\d\.\d\d is below 1,250\.70\. It.+up\.", wide[-1])


def test_terminal_that_is_narrow() -> None:
    """An amount as large as they come is shown whole."""
    amount = "-123456789012345.123456789012345678"
    with served(showing(amount)) as base_url:
        args = "--base-url", base_url, "--count", "1"
        with Terminal("watch", *args, columns=30, DECAPTCHA_API_KEY=CANARY) as terminal:
            assert terminal.end() == 0
    assert f"{Decimal(amount):,}" in "".join(terminal.lines)


def test_terminal_through_an_outage() -> None:
    """An outage shows the error and the next try; it goes on; recovery is announced."""
    sandbox = showing("150.00", "99.00", then=(Fault(302), Fault(302)))
    with served(sandbox) as base_url:
        args = "--base-url", base_url, "--interval", "0.5", "--below", "100", "--count", "3"
        with Terminal("watch", *args, DECAPTCHA_API_KEY=CANARY) as terminal:
            terminal.until(base_url, "99.00", "next try in", "LOW: Balance 99.00 is below 100.")
            assert any(line.startswith("the answer is a redirect") for line in terminal.lines)
            assert terminal.end() == 0
    assert terminal.lines[1].startswith("1,250.75  +1,151.75")
    assert terminal.lines[-2].startswith("ok")
    assert terminal.lines[-1].startswith("RECOVERED: Balance 1,250.75 is no longer below 100")
    row = len(terminal.lines) - 1
    assert terminal.screen.buffer[row][0].fg == "green"
    assert CANARY.encode() not in terminal.written


def test_terminal_without_colour() -> None:
    """NO_COLOR keeps the view, without any colour."""
    args = "--sandbox", "--interval", "0.1", "--count", "2", "--below", "2000"
    with Terminal("watch", *args, NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    assert terminal.lines[1].endswith("LOW: below 2,000")
    assert re.search(rb"\x1b\[[\d;]*m", terminal.written) is None


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}])
def test_terminal_that_is_dumb(environment: dict[str, Any]) -> None:
    """A terminal that is dumb, or knows no curves, gets lines; a dumb one no control code."""
    args = "--sandbox", "--interval", "0.1", "--count", "2"
    with Terminal("watch", *args, **environment) as terminal:
        assert terminal.end() == 0
    note, first, second = terminal.lines
    assert note == "Sandbox: an invented account, spent as you watch. Ctrl-C ends."
    assert re.fullmatch(r"\d\d:\d\d:\d\d      1,250\.75", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d      1,250\.\d\d        -0\.\d\d", second)
    assert b"\x1b[?25l" not in terminal.written
    assert "TERM" not in environment or b"\x1b" not in terminal.written
