"""Alerts: when a rule rings, when it is silent, and what it says to people."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from typing import Any

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from decaptcha_async import Alert, BalanceReading, ConfigurationError, LowBalance, LowRunway
from decaptcha_async.alerts import Staleness

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0

Money = Decimal | int | str
Rule = LowBalance | LowRunway | Staleness


def reading(amount: Money, at: float = 0.0) -> BalanceReading:
    """A reading of so many seconds after noon."""
    return BalanceReading(
        amount=Decimal(amount),
        raw=str(amount),
        taken_at=NOON + timedelta(seconds=at),
        latency=0.0,
    )


def alerts(rule: Rule, steps: Iterable[tuple[float, Money]]) -> list[Alert]:
    """What the rule raises at these moments and amounts."""
    raised = (rule.feed(reading(amount, at)) for at, amount in steps)
    return [alert for alert in raised if alert is not None]


def kinds(rule: Rule, *amounts: Money) -> list[str | None]:
    """What the rule says to each of these amounts, one a minute."""
    raised = [rule.feed(reading(amount, MINUTE * i)) for i, amount in enumerate(amounts)]
    return [None if alert is None else alert.kind for alert in raised]


# LowBalance


class AnyReadings(RuleBasedStateMachine):
    """Any readings, fed to any rule of one threshold, beside what the rules promise."""

    now = 0.0
    in_a_row = 0
    is_low = False
    told = 0.0

    @initialize(
        threshold=st.integers(-100, 100),
        more=st.none() | st.integers(0, 50),
        confirm=st.integers(1, 4),
        remind=st.none() | st.integers(1, 600),
    )
    def begin(self, threshold: int, more: int | None, confirm: int, remind: int | None) -> None:
        """A rule that has seen nothing."""
        rearm = None if more is None else threshold + more
        self.rule = LowBalance(threshold, rearm=rearm, confirm=confirm, remind=remind)
        usual = Decimal(threshold) + abs(Decimal(threshold)) / 10
        self.recovers_at = usual if rearm is None else Decimal(rearm)
        self.last: BalanceReading | None = None

    @rule(amount=st.decimals(-150, 200, places=2), pause=st.integers(0, 400))
    def feed(self, amount: Decimal, pause: int) -> None:
        """One more reading, and what may come of it."""
        self.now += pause
        self.in_a_row = self.in_a_row + 1 if amount < self.rule.threshold else 0
        self.last = reading(amount, self.now)
        alert = self.rule.feed(self.last)
        match None if alert is None else alert.kind:
            case "low":
                assert not self.is_low
                assert self.in_a_row == self.rule.confirm
                self.is_low, self.told = True, self.now
            case "recovered":
                assert self.is_low
                assert amount >= self.recovers_at
                self.is_low = False
            case "reminder":
                assert self.is_low
                assert amount < self.rule.threshold
                assert self.rule.remind is not None
                assert self.now - self.told >= self.rule.remind
                self.told = self.now
            case other:
                assert other is None
                overdue = self.rule.remind is not None and self.now - self.told >= self.rule.remind
                assert not (self.is_low and self.in_a_row and overdue)

    @invariant()
    def never_silent_below(self) -> None:
        """Who is below for long enough has been told, and who has recovered, too."""
        if self.in_a_row >= self.rule.confirm:
            assert self.is_low
        if self.last is not None and self.last.amount >= self.recovers_at:
            assert not self.is_low


def test_any_readings() -> None:
    """M1: one `low`, one `recovered`, in turn; never silent below; reminders as asked."""
    run_state_machine_as_test(AnyReadings)


def test_a_noisy_day() -> None:
    """M1: 24 hours around the threshold, a reading a minute: one `low` and one `recovered`."""
    dice = random.Random(1)
    noisy = [(MINUTE * i, f"{100 + dice.uniform(-8, 8):.2f}") for i in range(24 * 60)]
    naive = sum(Decimal(amount) < 100 for _, amount in noisy)
    raised = alerts(LowBalance("100.00"), [*noisy, (DAY, "500.00")])
    assert naive > 600
    assert [alert.kind for alert in raised] == ["low", "recovered"]


def test_levels() -> None:
    """M1: of several levels each rings once, and recovers by itself."""
    levels = [LowBalance(500), LowBalance(100), LowBalance(20)]
    amounts = [600, 480, 110, 90, 25, 10, 15, 300, 600]
    assert [kinds(level, *amounts) for level in levels] == [
        [None, "low", None, None, None, None, None, None, "recovered"],
        [None, None, None, "low", None, None, None, "recovered", None],
        [None, None, None, None, None, "low", None, "recovered", None],
    ]


@pytest.mark.parametrize(
    ("rule", "amounts", "said"),
    [
        pytest.param(LowBalance(100), [99], ["low"], id="starts-below"),
        pytest.param(LowBalance(100), [100], [None], id="not-below"),
        pytest.param(LowBalance(100), ["99.999"], ["low"], id="a-hair-below"),
        pytest.param(
            LowBalance(100), [99, "109.99", 110], ["low", None, "recovered"], id="a-tenth-above"
        ),
        pytest.param(
            LowBalance(100, rearm=100), [99, 100, 99], ["low", "recovered", "low"], id="rearm"
        ),
        pytest.param(
            LowBalance(-100), [-101, "-90.01", -90], ["low", None, "recovered"], id="in-debt"
        ),
        pytest.param(LowBalance(0), [-1, 0], ["low", "recovered"], id="zero"),
        pytest.param(
            LowBalance(100, confirm=3),
            [99, 99, 100, 99, 99, 99],
            [None] * 5 + ["low"],
            id="confirm",
        ),
        pytest.param(
            LowBalance(100, remind=120),
            [99, 99, 99, 99, 105, 105, 99, 99, 99],
            ["low", None, "reminder", None, None, None, "reminder", None, "reminder"],
            id="remind",
        ),
    ],
)
def test_low_balance(rule: LowBalance, amounts: list[Money], said: list[str | None]) -> None:
    """M1: below rings, `rearm` recovers, `confirm` in a row count, reminders only while below."""
    assert kinds(attrs.evolve(rule), *amounts) == said


def test_the_callers_decimal_context() -> None:
    """A1: neither the default `rearm` nor a message is rounded by the caller's context."""
    rule = LowBalance("123456789.10")
    with localcontext(Context(prec=2, traps=[Inexact, InvalidOperation])):
        said = kinds(rule, "123456789.09", "135802468.00", "135802468.01")
    assert said == ["low", None, "recovered"]


# LowRunway


def test_low_runway() -> None:
    """M3: it rings once when the money lasts less than `within`, and recovers a tenth above."""
    rule = LowRunway(600)
    amounts = [2000, 1900, 1000, 900, 800, 9000, 8900]
    assert kinds(rule, *amounts) == [None, None, "runway", None, None, "recovered", None]


def test_runway_while_the_rate_is_unknown() -> None:
    """M3: it is silent until two readings tell, and while nothing is spent."""
    assert kinds(LowRunway(HOUR), 1, 1, 1, 50) == [None] * 4


def test_runway_rearm_and_window() -> None:
    """M3: `rearm` says when it has recovered, `window` how far back the spending counts."""
    amounts = [1000, 900, 800, 700, 600, 1100, 1200, 2000]
    said = kinds(LowRunway(600, rearm=900), *amounts)
    assert said == [None, "runway", *[None] * 5, "recovered"]
    steps = [(0, 1000), (60, 900), *((120.0 + 60 * i, 900) for i in range(5))]
    assert alerts(LowRunway(600, window=60), steps)[-1].kind == "recovered"


# Staleness


def test_staleness() -> None:
    """M3: `stale` rings once however often it is overdue, `recovered` with the next reading."""
    rule = Staleness(600)
    last, later = reading(10), NOON + timedelta(seconds=600)
    assert rule.feed(last) is None
    first = rule.overdue(last, "ServerError", later)
    assert first is not None
    assert (first.kind, first.reading, first.at) == ("stale", last, later)
    assert rule.overdue(last, "ServerError", later) is None
    assert [alert.kind for alert in alerts(rule, [(900, 10), (960, 10)])] == ["recovered"]
    assert rule.overdue(last, "ServerError", later) is not None


# What alerts say


def ringing(rule: Rule, *steps: tuple[float, Money]) -> Alert:
    """The last alert of these moments and amounts."""
    return alerts(rule, steps)[-1]


def overdue(last: BalanceReading | None, reason: str) -> Alert:
    """What is said after ten minutes of silence."""
    alert = Staleness(600).overdue(last, reason, NOON)
    assert alert is not None
    return alert


def back() -> Alert:
    """What is said when the silence ends after an hour."""
    rule = Staleness(600)
    rule.overdue(None, "", NOON + timedelta(seconds=600))
    return ringing(rule, (HOUR, "12.30"))


LOW = LowBalance("100.00", remind=HOUR)
MESSAGES: list[tuple[Alert, str]] = [
    (
        ringing(attrs.evolve(LOW), (0, "99.90")),
        "Balance 99.90 is below 100.00. Top up.",
    ),
    (
        ringing(attrs.evolve(LOW), (0, "101.00"), (100, "96.00")),
        "Balance 96.00 is below 100.00. It lasts about 32 min: top up.",
    ),
    (
        ringing(attrs.evolve(LOW), (0, "99.00"), (2 * HOUR, "99.00")),
        "Balance 99.00 has been below 100.00 for 2 h. Top up.",
    ),
    (
        ringing(attrs.evolve(LOW), (0, "0.00")),
        "Balance 0.00 is below 100.00. Nothing is left: top up now.",
    ),
    (
        ringing(attrs.evolve(LOW), (0, "99.00"), (8000, "1250.75")),
        "Balance 1,250.75 is no longer below 100.00, after 2 h 13 min.",
    ),
    (
        ringing(LowBalance(2500), (0, "-1250.75")),
        "Balance -1,250.75 is below 2,500. Nothing is left: top up now.",
    ),
    (
        ringing(LowRunway(2 * HOUR), (0, 1000), (HOUR, 500)),
        "Balance 500 lasts about 1 h, less than 2 h: top up.",
    ),
    (
        ringing(LowRunway(2 * HOUR), (0, 1000), (HOUR, 0)),
        "Balance 0 does not last any longer: top up now.",
    ),
    (
        ringing(LowRunway(2 * HOUR), (0, 1000), (HOUR, 500), (2 * HOUR, 9000)),
        "Balance 9,000 lasts more than 2 h again, after 1 h.",
    ),
    (
        overdue(None, ""),
        "No balance for 10 min; there was none yet. Check the account.",
    ),
    (
        overdue(reading("1250.75"), "HTTP 503"),
        "No balance for 10 min (HTTP 503); the last was 1,250.75. Check the account.",
    ),
    (back(), "Balance 12.30 is known again, after 1 h."),
]


@pytest.mark.parametrize(("alert", "message"), MESSAGES, ids=[text for _, text in MESSAGES])
def test_messages(alert: Alert, message: str) -> None:
    """M1, M3: what is left, against what, for how long; in words for three in the morning."""
    assert alert.message == message


def test_an_alert() -> None:
    """M1: an alert names its rule, the threshold, and the reading and moment that led to it."""
    alert = ringing(LowBalance("100.00"), (60, "99.5"))
    assert attrs.asdict(alert, recurse=False) == {
        "kind": "low",
        "rule": "LowBalance(100.00)",
        "threshold": Decimal("100.00"),
        "reading": reading("99.5", 60),
        "at": NOON + timedelta(minutes=1),
        "message": "Balance 99.5 is below 100.00. Top up.",
    }


@pytest.mark.parametrize(
    ("alert", "rule", "threshold"),
    [
        (ringing(LowBalance("1000"), (0, 1)), "LowBalance(1000)", "1000"),
        (ringing(LowRunway(90), (0, 2), (60, 1)), "LowRunway(90 s)", 90.0),
        (overdue(None, ""), "stale (600 s)", 600.0),
    ],
    ids=["low", "runway", "stale"],
)
def test_an_alert_as_json(alert: Alert, rule: str, threshold: str | float) -> None:
    """M1, M3: `to_dict` goes through JSON unchanged; an amount is text, never a float."""
    as_dict: dict[str, Any] = json.loads(json.dumps(alert.to_dict()))
    assert as_dict == {
        "kind": alert.kind,
        "rule": rule,
        "threshold": threshold,
        "reading": alert.reading and alert.reading.to_dict(),
        "at": alert.at.isoformat(),
        "message": alert.message,
    }


# Arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"threshold": 100.0}, "threshold: .*float"),
        ({"threshold": True}, "threshold: "),
        ({"threshold": Decimal("NaN")}, "threshold: "),
        ({"threshold": "1250,75"}, "threshold: "),
        ({"threshold": 100, "rearm": 110.0}, "rearm: .*float"),
        ({"threshold": 100, "rearm": "99.99"}, "rearm must be at least the threshold"),
        ({"threshold": 100, "confirm": 0}, "confirm must be a whole number"),
        ({"threshold": 100, "confirm": True}, "confirm must be a whole number"),
        ({"threshold": 100, "remind": 0}, "remind must be a finite number"),
    ],
)
def test_refused_low_balance(arguments: dict[str, Any], says: str) -> None:
    """A4, M1: amounts that are none, a `rearm` below the threshold, counts that cannot be."""
    with pytest.raises(ConfigurationError, match=says):
        LowBalance(**arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"within": 0}, "within must be"),
        ({"within": "1h"}, "within must be"),
        ({"within": 60, "rearm": 59}, "rearm must be at least within"),
        ({"within": 60, "rearm": -1}, "rearm must be a finite"),
        ({"within": 60, "window": float("inf")}, "window must be"),
    ],
)
def test_refused_low_runway(arguments: dict[str, Any], says: str) -> None:
    """M3: durations that cannot be, and a `rearm` below `within`."""
    with pytest.raises(ConfigurationError, match=says):
        LowRunway(**arguments)


def test_durations_may_be_timedeltas() -> None:
    """M1, M3: a timedelta is as good as seconds."""
    assert LowBalance(1, remind=timedelta(hours=1)).remind == HOUR
    rule = LowRunway(timedelta(hours=1), rearm=timedelta(hours=2), window=timedelta(minutes=1))
    assert (rule.within, rule.rearm, rule.window) == (HOUR, 2 * HOUR, MINUTE)


def test_a_copy_has_seen_nothing() -> None:
    """M1, M3: `attrs.evolve` gives the same rule, but one that has seen nothing."""
    low, runway = LowBalance(100, rearm=150, confirm=1), LowRunway(600)
    assert kinds(low, 99) == ["low"]
    assert kinds(runway, 100, 1) == [None, "runway"]
    assert kinds(attrs.evolve(low), 99, 120, 150) == ["low", None, "recovered"]
    assert kinds(attrs.evolve(runway), 1) == [None]
    assert repr(attrs.evolve(low)) == repr(low)
    assert low != attrs.evolve(low)
