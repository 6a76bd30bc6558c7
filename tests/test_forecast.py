"""Forecast: what readings tell about the spending, and how often to look."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, FloatOperation, Inexact, InvalidOperation, localcontext
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decaptcha_async._clock import Stamp
from decaptcha_async._readings import BalanceReading
from decaptcha_async._schedule import first_gap, gap
from decaptcha_async._watch import Interval
from decaptcha_async.errors import ConfigurationError
from decaptcha_async.forecast import Adaptive, BurnRate

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
AMOUNTS = st.decimals(-(10**15) + 1, 10**15 - 1, places=18)
MOMENTS = st.floats(-(10**6), 10**6)
HOUR, DAY = 3600.0, 86_400.0

Money = Decimal | int | str


def reading(amount: Money, at: float = 0.0, *, stamp: Stamp | None = None) -> BalanceReading:
    """A reading of so many seconds after noon."""
    return BalanceReading(
        amount=Decimal(amount),
        raw=str(amount),
        taken_at=NOON + timedelta(seconds=at),
        latency=0.0,
        stamp=stamp,
    )


def fed(*steps: tuple[float, Money], window: float = 900.0) -> BurnRate:
    """A burn rate that has seen these amounts at these moments."""
    rate = BurnRate(window)
    for at, amount in steps:
        rate.feed(reading(amount, at))
    return rate


# The burn rate


@pytest.mark.parametrize(
    ("steps", "per_second"),
    [
        pytest.param([], None, id="nothing-seen"),
        pytest.param([(0, 100)], None, id="one-reading"),
        pytest.param([(0, 100), (60, 70)], "0.5", id="two-readings"),
        pytest.param([(0, 100), (60, 100)], "0", id="nothing-spent"),
        pytest.param([(0, 100), (60, 200)], None, id="only-a-top-up"),
        pytest.param([(0, 100), (60, 70), (120, 570), (180, 540)], "0.5", id="a-top-up-between"),
        pytest.param([(0, 100), (10, 90), (50, 90)], "0.2", id="a-quiet-step-counts"),
        pytest.param([(0, 0), (60, -30)], "0.5", id="in-debt"),
        pytest.param([(0, "1.00"), (8, "0.99")], "0.00125", id="exact"),
    ],
)
def test_the_burn_rate(steps: list[tuple[float, Money]], per_second: str | None) -> None:
    """M2: drops by the time of the steps that did not rise; None until two readings tell."""
    assert fed(*steps).per_second == (None if per_second is None else Decimal(per_second))


def test_what_the_window_holds() -> None:
    """M2: steps that ended in the window count, older ones do not."""
    slow = [(60.0 * minute, 1000 - minute) for minute in range(11)]
    fast = [(600 + 60.0 * minute, 990 - 60 * minute) for minute in range(1, 11)]
    assert round(fed(*slow, *fast, window=600).per_second or 0, 6) == Decimal("0.910606")
    assert fed(*slow, *fast, window=599).per_second == 1


def test_the_last_four_steps_always_count() -> None:
    """M2: polls half an hour apart tell a rate, too: the last four steps count at any age."""
    drops = [900, 1800, 1800, 3600, 1800]
    amounts = itertools.accumulate(drops, lambda left, drop: left - drop, initial=20_000)
    steps = [(1800.0 * number, amount) for number, amount in enumerate(amounts)]
    assert fed(*steps[:5]).per_second == Decimal(8100) / 7200
    assert fed(*steps).per_second == Decimal(9000) / 7200


def test_top_ups_do_not_push_steps_out() -> None:
    """M2: while the balance only rises, what was known of the spending stays known."""
    steps = [(0.0, 100), (60, 40)]
    rises = [(1800.0 * number, 100 * number) for number in range(1, 50)]
    assert fed(*steps, *rises).per_second == 1


def test_a_reading_fed_twice() -> None:
    """M2: one reading, from a cache for instance, teaches once."""
    once, twice = BurnRate(), BurnRate()
    for one in [reading(100), reading(70, 60), reading(70, 120), reading(10, 180)]:
        once.feed(one)
        twice.feed(one)
        twice.feed(one)
    assert twice.per_second == once.per_second == Decimal("0.5")


def test_a_wall_clock_that_was_set_back() -> None:
    """M2: a step back in time counts for nothing; the next reading goes on from there."""
    steps = [(0.0, 100), (60, 70), (-HOUR, 60), (60 - HOUR, 30)]
    assert fed(*steps[:3]).per_second == Decimal("0.5")
    assert fed(*steps).per_second == Decimal("0.5")
    assert fed((0, 100), (-HOUR, 60)).per_second is None


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_stamps_go_before_the_wall_clock() -> None:
    """M2, R13: readings of this process are timed by its clock, which virtual time moves."""
    rate = BurnRate()
    for amount, wall in [(100, 0.0), (70, -HOUR), (40, DAY)]:
        rate.feed(reading(amount, wall, stamp=Stamp.take()))
        await anyio.sleep(60)
    assert rate.per_second is not None
    assert float(rate.per_second) == pytest.approx(0.5)


@given(st.lists(st.tuples(MOMENTS, AMOUNTS), max_size=12), st.floats(0.001, 10**6))
def test_it_is_never_negative(steps: list[tuple[float, Decimal]], window: float) -> None:
    """M2: whatever the readings, the rate is finite and not below 0."""
    per_second = fed(*steps, window=window).per_second
    assert per_second is None or (per_second >= 0 and per_second.is_finite())


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 100)), min_size=1, max_size=50))
def test_a_steady_rate_is_found_exactly(steps: list[tuple[int, int]]) -> None:
    """M2: at a steady rate gaps and top-ups of any size change nothing."""
    rate = BurnRate()
    now, left = 0, 0
    for seconds, top_up in steps:
        rate.feed(reading(left + top_up * 10**6, now))
        now, left = now + seconds, left + top_up * 10**6 - 3 * seconds
    rate.feed(reading(left, now))
    assert rate.per_second == 3


def test_within_five_percent_of_the_truth() -> None:
    """M2: jobs at random moments, top-ups at random: the median error of 400 accounts is ≤ 5 %."""
    truth, price = 0.5, Decimal("0.02")
    errors: list[float] = []
    for seed in range(400):
        rng = random.Random(seed)
        rate = BurnRate()
        now, left = 0.0, Decimal(1000)
        for _ in range(40):
            rate.feed(reading(left, now))
            seconds = rng.uniform(57, 63)
            expected = seconds * truth / float(price)
            jobs = round(rng.gauss(expected, math.sqrt(expected)))
            now, left = now + seconds, left - jobs * price
            if rng.random() < 0.05:
                left += 500
        assert rate.per_second is not None
        errors.append(float(rate.per_second) / truth - 1)
    assert statistics.median(map(abs, errors)) < 0.05
    assert abs(statistics.median(errors)) < 0.005


@pytest.mark.parametrize("window", [0, -1, math.inf, math.nan, "900", True, None])
def test_windows_that_cannot_be(window: Any) -> None:
    """API: a window is a finite duration greater than 0, and the message names it."""
    with pytest.raises(ConfigurationError, match=r"^window must be "):
        BurnRate(window)


def test_the_window() -> None:
    """API: a quarter of an hour unless told otherwise; a timedelta will do."""
    assert BurnRate().window == 900
    assert BurnRate(timedelta(minutes=2)).window == 120


# The runway


@pytest.mark.parametrize(
    ("amount", "down_to", "seconds"),
    [
        pytest.param("60", 0, 120, id="to-zero"),
        pytest.param(Decimal("1E+3"), "1,000", 0, id="as-low-already"),
        pytest.param("5", "5.01", 0, id="lower-already"),
        pytest.param("-5", "-10", 10, id="in-debt"),
        pytest.param("0.000000000000000001", 0, 2e-18, id="the-least"),
        pytest.param(10**15 - 1, "-999999999999999", 4 * 10**15, id="the-most"),
    ],
)
def test_the_runway(amount: Money, down_to: Money, seconds: float) -> None:
    """M2: seconds until the amount has fallen to another at half a unit a second."""
    assert fed((0, 100), (60, 70)).runway(amount, down_to) == pytest.approx(seconds)


def test_a_runway_that_is_unknown_or_without_end() -> None:
    """M2: None while the rate is unknown, infinite while nothing is spent, 0 at the end of it."""
    assert fed((0, 100)).runway(100) is None
    assert fed((0, 100)).runway(0) is None
    assert fed((0, 100), (60, 100)).runway(100) == math.inf
    assert fed((0, 100), (60, 100)).runway(100, 100) == 0
    assert isinstance(fed((0, 100), (60, 70)).runway(0), float)


BAD_AMOUNTS = [
    pytest.param(12.5, "a float cannot hold an amount exactly", id="float"),
    pytest.param(True, "an amount is a Decimal, an int or a str, not bool", id="bool"),
    pytest.param(None, "an amount is a Decimal", id="none"),
    pytest.param(Decimal("nan"), "an amount must be finite", id="nan"),
    pytest.param(Decimal("-inf"), "an amount must be finite", id="infinite"),
    pytest.param("1250,75", 'not an amount: "1250,75"', id="decimal-comma"),
    pytest.param("1e3", "not an amount", id="exponent"),
    pytest.param("", "not an amount", id="empty"),
]


@pytest.mark.parametrize(("value", "problem"), BAD_AMOUNTS)
def test_amounts_that_cannot_be(value: Any, problem: str) -> None:
    """A4: amounts and thresholds are exact by one grammar; the message names the argument."""
    calls: dict[str, Callable[[], object]] = {
        "amount": lambda: BurnRate().runway(value),
        "down_to": lambda: BurnRate().runway(0, value),
        "threshold": lambda: Adaptive(value),
    }
    for name, call in calls.items():
        with pytest.raises(ConfigurationError) as caught:
            call()
        assert str(caught.value).startswith(f"{name}: {problem}")


# The adaptive interval


@pytest.mark.parametrize(
    ("amount", "burn", "seconds"),
    [
        pytest.param("1000", None, 15, id="unknown"),
        pytest.param("1000", "0", 1800, id="nothing-spent"),
        pytest.param("1000", "0.9", 100, id="a-tenth-of-the-way"),
        pytest.param("1000", "0.01", 1800, id="slowest"),
        pytest.param("1000", "90", 15, id="fastest"),
        pytest.param("100", "0.9", 15, id="at-the-threshold"),
        pytest.param("99", "0", 15, id="below-the-threshold"),
    ],
)
def test_the_adaptive_interval(amount: str, burn: str | None, seconds: float) -> None:
    """W11: a part of the time to the threshold, in its bounds; `fastest` while unknown."""
    per_second = None if burn is None else Decimal(burn)
    assert Adaptive("100.00")(reading(amount), per_second) == pytest.approx(seconds)


def test_its_arguments() -> None:
    """API: bounds are numbers or timedeltas; parts are as many polls as said."""
    adaptive = Adaptive(0, fastest=timedelta(seconds=5), slowest=timedelta(minutes=20), parts=4)
    assert adaptive(reading(1000), None) == 5
    assert adaptive(reading(1000), Decimal(0)) == 1200
    assert adaptive(reading(1000), Decimal(1)) == 250
    assert adaptive == Adaptive("0", fastest=5, slowest=1200, parts=4)
    assert Adaptive(0, fastest=60, slowest=60)(reading(1000), Decimal(1)) == 60


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param({"fastest": 0}, "fastest must be", id="fastest-zero"),
        pytest.param({"fastest": "15"}, "fastest must be a number", id="fastest-text"),
        pytest.param({"slowest": math.inf}, "slowest must be", id="slowest-infinite"),
        pytest.param({"slowest": math.nan}, "slowest must be", id="slowest-nan"),
        pytest.param(
            {"fastest": 60, "slowest": 59.5},
            "slowest must be at least fastest (60 s), not 59.5 s",
            id="slowest-below-fastest",
        ),
        pytest.param({"parts": 0}, "parts must be a whole number ≥ 1, not 0", id="parts-zero"),
        pytest.param({"parts": 2.5}, "parts must be a whole number", id="parts-broken"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], problem: str) -> None:
    """API: what cannot be is refused when it is made, by name."""
    with pytest.raises(ConfigurationError) as caught:
        Adaptive(100, **arguments)
    assert str(caught.value).startswith(problem)


@given(AMOUNTS, st.none() | st.decimals(0, 10**15, places=18))
def test_it_stays_in_its_bounds(amount: Decimal, burn: Decimal | None) -> None:
    """W11: whatever the balance and the rate, never below `fastest` nor above `slowest`."""
    assert 15 <= Adaptive(100)(reading(amount), burn) <= 1800


def looks(left: Callable[[float], float], interval: float | Interval) -> Iterator[float]:
    """When a watch looks at an account of which so much is left at each moment."""
    rate = BurnRate()
    now, spread = 0.0, first_gap
    while True:
        yield now
        seen = reading(Decimal(round(left(now) * 100)).scaleb(-2), now)
        rate.feed(seen)
        every = interval(seen, rate.per_second) if callable(interval) else interval
        now, spread = now + spread(every, 0.05), gap


def polls_and_delay(interval: float | Interval, jump: float) -> tuple[int, float]:
    """Polls until 100 is crossed, which 20 times the spending hastens, and how late that is."""

    def left(now: float) -> float:
        return 2000 - 0.01 * (now + 19 * max(0.0, now - jump))

    crossed = jump + (1900 - 0.01 * jump) / 0.2
    seen = enumerate(looks(left, interval), start=1)
    return next((polls, now - crossed) for polls, now in seen if now > crossed)


def test_a_jump_of_the_spending_is_found_with_few_polls() -> None:
    """W11: a twentyfold jump: under a tenth of the polls of a fixed minute, and found no later."""
    random.seed(11)
    jumps = [random.uniform(2 * HOUR, 20 * HOUR) for _ in range(60)]
    fixed = [polls_and_delay(60, jump) for jump in jumps]
    adaptive = [polls_and_delay(Adaptive(100), jump) for jump in jumps]
    assert sum(polls for polls, _ in adaptive) < sum(polls for polls, _ in fixed) / 10
    assert max(delay for _, delay in adaptive) < 60


# Exactness


@pytest.mark.parametrize(
    "context",
    [
        pytest.param(Context(prec=2), id="low-precision"),
        pytest.param(Context(prec=2, traps=[Inexact]), id="inexact-trapped"),
        pytest.param(Context(traps=[FloatOperation]), id="floats-trapped"),
        pytest.param(Context(Emax=3, Emin=-3, traps=[InvalidOperation]), id="small-exponents"),
    ],
)
def test_the_callers_decimal_context_changes_nothing(context: Context) -> None:
    """A4, M2: rounding or trapping in the caller's context alters no rate, runway or interval."""

    def results() -> list[object]:
        rate = BurnRate()
        for at, amount in [(0, "98765.4321"), (7.3, "98764.1234"), (61.1, "98700.0001")]:
            rate.feed(reading(amount, at))
        runway = rate.runway("98700.0001", "12345.6789")
        return [rate.per_second, runway, Adaptive("9876.54321")(reading("98700"), rate.per_second)]

    expected = results()
    with localcontext(context):
        assert results() == expected
