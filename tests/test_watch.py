"""`watch()`: when it polls, what it yields, what ends it, and what it leaves behind: nothing."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import math
import random
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from datetime import timedelta
from decimal import Decimal
from typing import Any

import anyio
import attrs
import pytest
import trio
from fakes import Endpoint, Poll, interrupted, on_asyncio, plan

from decaptcha_async import (
    Adaptive,
    AuthenticationError,
    BalanceClient,
    BalanceReading,
    Call,
    ClientClosedError,
    ConfigurationError,
    Handler,
    InvalidResponseError,
    Middleware,
    PollFailed,
    RateLimitedError,
    Retry,
    ServerError,
    SupportsWait,
    TransportError,
    _clock,
)
from decaptcha_async._watch import watch
from decaptcha_async.sandbox import Fault, Sandbox
from decaptcha_async.testing import sandbox_client

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

Watching = AsyncGenerator[BalanceReading | PollFailed, None]


async def take(watching: Watching, most: int = 1_000_000) -> list[BalanceReading | PollFailed]:
    """What it yields, until it ends or there are enough."""
    items: list[BalanceReading | PollFailed] = []
    async with aclosing(watching):
        async for item in watching:
            items.append(item)
            if len(items) == most:
                break
    return items


def amounts(items: list[BalanceReading | PollFailed]) -> list[str]:
    """The items in short."""
    return [item.raw if isinstance(item, BalanceReading) else "failed" for item in items]


def client_of(endpoint: Endpoint, *middleware: Middleware) -> BalanceClient:
    """A client whose calls end at ``endpoint``."""

    async def instead(call: Call, call_next: Handler) -> BalanceReading:
        return await endpoint(call)

    return sandbox_client(Sandbox(), middleware=[*middleware, instead])


# When it polls


@pytest.mark.parametrize("takes", [0, 0.3, 1])
async def test_a_schedule_without_drift(takes: float) -> None:
    """W2: 12 polls at 1 s without jitter start at exactly 0, 1 ... 11, whatever each takes."""
    poll = Poll("1", takes=takes)
    await take(watch(poll, plan()), 12)
    assert poll.times == list(range(12))


async def test_a_stalling_consumer() -> None:
    """W2: after a stall the next poll starts at once, and the gap counts from there."""
    poll = Poll("1", takes=0.25)
    async with aclosing(watch(poll, plan())) as watching:
        async for _ in watching:
            if len(poll.times) == 3:
                await anyio.sleep(2.5)
            if len(poll.times) == 7:
                break
    assert poll.times == [0, 1, 2, 4.75, 5.75, 6.75, 7.75]


async def test_a_consumer_that_dawdles_within_the_interval() -> None:
    """W2: time that the consumer takes is part of the interval."""
    poll = Poll("1")
    async with aclosing(watch(poll, plan())) as watching:
        async for _ in watching:
            await anyio.sleep(0.9)
            if len(poll.times) == 5:
                break
    assert poll.times == [0, 1, 2, 3, 4]


async def test_a_poll_that_takes_longer_than_the_interval() -> None:
    """W2, W4: the next begins when it is done, and not before."""
    poll = Poll("1", takes=2.5)
    await take(watch(poll, plan()), 4)
    assert poll.times == [0, 2.5, 5, 7.5]
    assert poll.most_in_flight == 1


@pytest.mark.parametrize("late", [0.04, 0.06])
async def test_a_timer_that_is_a_little_late(late: float) -> None:
    """W2: lateness of up to 50 ms, as of a busy loop, does not shift the schedule; more does."""
    poll = Poll("1")
    async with aclosing(watch(poll, plan())) as watching:
        async for _ in watching:
            if len(poll.times) == 1:
                await anyio.sleep(1 + late)
            if len(poll.times) == 3:
                break
    assert poll.times == [0, 1 + late, 2 if late < 0.05 else 2 + late]


@pytest.mark.parametrize("delay", [5, timedelta(seconds=5)], ids=["number", "timedelta"])
async def test_initial_delay(delay: float) -> None:
    """W2: the first poll comes after `initial_delay`, the others by the interval."""
    poll = Poll("1")
    await take(watch(poll, plan(timedelta(seconds=2), initial_delay=delay)), 3)
    assert poll.times == [5, 7, 9]


def test_a_random_initial_delay() -> None:
    """W2: `"random"` puts the first poll anywhere within the interval."""
    random.seed(2)
    delays = [plan(60, initial_delay="random").initial_delay for _ in range(2000)]
    assert 0 <= min(delays) < 1
    assert 59 < max(delays) <= 60
    assert sum(delays) / 2000 == pytest.approx(30, rel=0.05)


async def test_jitter_and_the_first_gap() -> None:
    """W3: gaps stray by at most `jitter`, except the first, which is anywhere in the interval."""
    random.seed(3)
    polls = [Poll("1") for _ in range(400)]
    async with anyio.create_task_group() as group:
        for poll in polls:
            group.start_soon(take, watch(poll, plan(10, jitter=0.1)), 6)
    firsts = [poll.gaps[0] for poll in polls]
    others = [gap for poll in polls for gap in poll.gaps[1:]]
    assert 0 <= min(firsts) < 0.2
    assert 9.8 < max(firsts) <= 10
    assert sum(firsts) / len(firsts) == pytest.approx(5, rel=0.1)
    assert 9 - 1e-6 <= min(others) < 9.02
    assert 10.98 < max(others) <= 11 + 1e-6
    assert sum(others) / len(others) == pytest.approx(10, rel=0.01)


async def test_no_poll_while_the_body_runs() -> None:
    """W4: nothing is in flight while the consumer's body runs; after a stall it asks anew."""
    poll = Poll("1", takes=0.5)
    async with aclosing(watch(poll, plan())) as watching:
        async for item in watching:
            assert isinstance(item, BalanceReading)
            count = len(poll.times)
            for _ in range(24):
                assert (poll.in_flight, len(poll.times)) == (0, count)
                await anyio.sleep(0.125)
            if count == 3:
                break
    assert poll.times == [0, 3.5, 7]
    assert poll.most_in_flight == 1


# Outages


async def test_one_attempt_per_probe() -> None:
    """W5: in an outage each probe may make one HTTP attempt; else there is no bound."""
    outage = [ServerError(), TransportError(), ServerError(), RateLimitedError()]
    poll = Poll("1", "2", *outage, "3", "4", "5")
    assert amounts(await take(watch(poll, plan()), 5)) == ["1", "2", "3", "4", "5"]
    assert poll.asked == [None, None, None, 1, 1, 1, 1, None, None]


async def test_recovery_returns_to_the_interval() -> None:
    """W5: the first good poll counts again as the start of an interval."""
    poll = Poll("1", *[ServerError()] * 9, "2", "3", "4", "5", takes=0.25)
    await take(watch(poll, plan()), 5)
    assert poll.gaps[-3:] == pytest.approx([1, 1, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("interval", "ranges"),
    [
        pytest.param(1, [(1, 1.5), (1, 2), (2, 4), (4, 8), (5, 10), (5, 10), (5, 10)], id="1s"),
        pytest.param(60, [(60, 90), (60, 120), (120, 240), (150, 300), (150, 300)], id="1min"),
        pytest.param(
            1800,
            [(60, 90), (60, 120), (120, 240), (240, 480), (480, 960), (900, 1800), (900, 1800)],
            id="30min",
        ),
    ],
)
async def test_probes_come_less_and_less_often(
    interval: float, ranges: list[tuple[float, float]]
) -> None:
    """W5: the first probe after d..1.5d, d = min(interval, 60 s); then d/2..d, doubled, capped."""
    random.seed(5)
    draws: list[list[float]] = []
    for _ in range(60):
        poll = Poll("1", *[ServerError()] * len(ranges), "2")
        await take(watch(poll, plan(interval)), 2)
        draws.append(poll.gaps[1:])
    for (low, high), delays in zip(ranges, zip(*draws, strict=True), strict=True):
        width = high - low
        assert low - 1e-6 <= min(delays) < low + width / 5
        assert high - width / 5 < max(delays) <= high + 1e-6


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [
        pytest.param(100, 100, id="larger"),
        pytest.param(3600, 3600, id="an-hour"),
        pytest.param(86_400, 3600, id="a-day"),
        pytest.param(math.inf, 3600, id="infinite"),
    ],
)
async def test_retry_after_wins_when_larger(retry_after: float, delay: float) -> None:
    """W5: what the service asks for is waited for, up to an hour."""
    poll = Poll("1", RateLimitedError(retry_after=retry_after), "2")
    await take(watch(poll, plan(10)), 2)
    assert poll.gaps == [10, delay]


async def test_retry_after_does_not_win_when_smaller() -> None:
    """W5: a short `Retry-After` does not make the probes of an outage come sooner."""
    poll = Poll("1", RateLimitedError(retry_after=0.5), "2")
    await take(watch(poll, plan(10)), 2)
    assert 10 <= poll.gaps[1] <= 15


async def test_a_late_refusal_is_doubted() -> None:
    """W6: a key that worked and is refused is tried again, on the outage schedule, twice."""
    refusals = [AuthenticationError(f"{number}") for number in range(3)]
    poll = Poll("1", *refusals)
    with pytest.raises(AuthenticationError) as caught:
        await take(watch(poll, plan(10)))
    assert caught.value is refusals[-1]
    assert poll.asked == [None, None, 1, 1]
    assert 10 <= poll.gaps[1] <= 15
    assert 10 <= poll.gaps[2] <= 20


@pytest.mark.parametrize(
    ("script", "polls"),
    [
        pytest.param([AuthenticationError()] * 2 + ["2"], 7, id="a-reading-between"),
        pytest.param([AuthenticationError()] * 2 + [ServerError()], 7, id="an-outage-between"),
        pytest.param([ServerError()] * 5, 9, id="after-an-outage"),
    ],
)
async def test_only_refusals_in_a_row_are_believed(
    script: list[str | Exception], polls: int
) -> None:
    """E: what comes between refusals takes back the doubt; three in a row end the watch."""
    poll = Poll("1", *script, AuthenticationError())
    with pytest.raises(AuthenticationError):
        await take(watch(poll, plan()))
    assert len(poll.asked) == polls


async def test_a_first_refusal_is_believed() -> None:
    """W6: before the first reading a refusal is a wrong key: one poll, and the error itself."""
    error = AuthenticationError()
    poll = Poll(error)
    with pytest.raises(AuthenticationError) as caught:
        await take(watch(poll, plan()))
    assert caught.value is error
    assert error.__context__ is None
    assert len(poll.asked) == 1


async def test_an_outage_at_the_start_is_waited_out() -> None:
    """W5: transient errors before the first reading do not end it either, however many."""
    poll = Poll(*[TransportError()] * 1000, "1")
    assert amounts(await take(watch(poll, plan()), 1)) == ["1"]
    assert anyio.current_time() > 5000


async def test_give_up_at_once() -> None:
    """W6: `give_up_after=0` raises the first error, with no wait and no probe."""
    error = ServerError()
    poll = Poll("1", error)
    with pytest.raises(ServerError) as caught:
        await take(watch(poll, plan(give_up_after=0)))
    assert caught.value is error
    assert poll.times == [0, 1]


@pytest.mark.parametrize("seconds", [0.1 + 0.2, 1, 7, 100])
async def test_give_up_after(seconds: float) -> None:
    """W6: the last wait is shortened to fit: the last probe comes once, when the time is over."""
    for _ in range(20):
        poll = Poll("1", ServerError("first"), ServerError("later"))
        with pytest.raises(ServerError, match="later"):
            await take(watch(poll, plan(10, give_up_after=timedelta(seconds=seconds))))
        assert poll.times[-1] - poll.times[1] == pytest.approx(seconds)
        assert min(poll.gaps) > 1e-5


async def test_give_up_after_shortens_even_retry_after() -> None:
    """W6: who gives up in 20 s is told then, though the service asked for a minute."""
    poll = Poll("1", RateLimitedError("wait", retry_after=60))
    with pytest.raises(RateLimitedError):
        await take(watch(poll, plan(5, give_up_after=20)))
    assert poll.times == [0, 5, 25]


async def test_an_outage_that_ends_in_time_is_forgotten() -> None:
    """W6: `give_up_after` counts from the start of each outage."""
    busy = RateLimitedError(retry_after=8)
    poll = Poll("1", busy, busy, "2", busy, busy, "3", busy, busy, "4")
    assert len(await take(watch(poll, plan(5, give_up_after=20)), 4)) == 4


async def test_foreign_errors_end_it() -> None:
    """E: an exception that is not ours passes as it is, at once."""
    error = LookupError("theirs")
    poll = Poll("1", error)
    with pytest.raises(LookupError) as caught:
        await take(watch(poll, plan()))
    assert caught.value is error
    assert error.__context__ is None


@pytest.fixture
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class ForeignError(Exception):
    """An error that is not ours, and can be referred to weakly."""


@pytest.mark.usefixtures("_no_garbage_collection")
@pytest.mark.parametrize("kind", [ServerError, ForeignError])
async def test_no_reference_cycle(kind: type[Exception]) -> None:
    """R5: errors that a watch raised are gone at once, without the garbage collector."""
    seen: list[weakref.ref[Exception]] = []

    async def poll(_: int | None) -> BalanceReading:
        raise kind

    for stop in (None, anyio.Event()):
        try:
            await take(watch(poll, plan(give_up_after=5, stop=stop)))
        except kind as error:
            seen.append(weakref.ref(error))
    assert [alive() for alive in seen] == [None, None]


# What it yields


async def test_changes_only() -> None:
    """W8: the first reading always, then whenever the amount differs; 1.5 and 1.50 do not."""
    poll = Poll("1", "1", "1.5", "1.50", "1", ServerError(), "1", "2")
    items = await take(watch(poll, plan(changes_only=True)), 4)
    assert amounts(items) == ["1", "1.5", "1", "2"]
    assert len(poll.asked) == 8


async def test_failures_as_values() -> None:
    """W8: `on_error="yield"` yields each failed poll, with how many and how long until the next."""
    errors = [ServerError("one"), TransportError("two"), ServerError("three")]
    poll = Poll("1", *errors, "2", ServerError("four"), "3")
    items = await take(watch(poll, plan(on_error="yield")), 7)
    assert amounts(items) == ["1", "failed", "failed", "failed", "2", "failed", "3"]
    failures = [item for item in items if isinstance(item, PollFailed)]
    assert [failed.error for failed in failures[:3]] == errors
    assert [failed.failures for failed in failures] == [1, 2, 3, 1]
    assert [failed.next_delay for failed in failures] == pytest.approx(
        [*poll.gaps[1:4], poll.gaps[5]], abs=1e-6
    )


async def test_a_fatal_error_is_raised_not_yielded() -> None:
    """W8, E: with `on_error="yield"` what is fatal is raised all the same."""
    poll = Poll(TransportError(), InvalidResponseError())
    watching = watch(poll, plan(on_error="yield"))
    assert isinstance(await anext(watching), PollFailed)
    with pytest.raises(InvalidResponseError):
        await anext(watching)
    with pytest.raises(StopAsyncIteration):
        await anext(watching)


async def test_one_warning_and_one_info_for_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """W7: one WARNING at its start, DEBUG for each probe, one INFO at its end with the duration."""
    caplog.set_level(logging.DEBUG, "decaptcha_async")
    busy = RateLimitedError("busy", retry_after=30)
    poll = Poll("1", busy, ServerError(), ServerError(), "2", "3")
    await take(watch(poll, plan()), 3)
    lasted = poll.times[4] - poll.times[1]
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG", "INFO"]
    assert {record.name for record in caplog.records} == {"decaptcha_async._watch"}
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "balance poll 1 failed, next in 30.0 s: busy"
    assert messages[3] == f"balance is back after {lasted:.1f} s and 3 failed polls"


async def test_a_healthy_watch_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """W7: as long as all is well there is nothing to say; of each outage the log speaks anew."""
    caplog.set_level(logging.INFO, "decaptcha_async")
    await take(watch(Poll("1"), plan()), 5)
    assert caplog.records == []
    await take(watch(Poll("1", ServerError(), "2", ServerError(), "3"), plan()), 3)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"] * 2


# Stopping


class Gate:
    """What can be waited for and is not an event."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Let through who waits."""
        self._event.set()

    async def wait(self) -> str:
        """Wait until it is set."""
        await self._event.wait()
        return "any value"


async def after(seconds: float, action: Callable[[], object]) -> None:
    """Call ``action`` so many seconds later."""
    await anyio.sleep(seconds)
    action()


async def test_stopped_before_it_began() -> None:
    """W8: with `stop` set already nothing is asked."""
    stop = anyio.Event()
    stop.set()
    poll = Poll("1")
    assert await take(watch(poll, plan(stop=stop))) == []
    assert poll.asked == []


@pytest.mark.parametrize("make", [anyio.Event, Gate])
@pytest.mark.parametrize(
    ("moment", "readings"),
    [
        pytest.param(0.1, 0, id="in-the-first-poll"),
        pytest.param(0.7, 1, id="in-a-pause"),
        pytest.param(2.1, 2, id="in-a-poll"),
        pytest.param(2.9, 3, id="in-a-later-pause"),
    ],
)
async def test_stopped_in_a_poll_or_a_pause(
    make: type[anyio.Event | Gate], moment: float, readings: int
) -> None:
    """W8: `stop` ends the watch at once, cancels a poll, and leaves no task."""
    poll = Poll("1", takes=0.5)
    tasks = len(anyio.get_running_tasks())
    stop = make()
    async with anyio.create_task_group() as group:
        group.start_soon(after, moment, stop.set)
        items = await take(watch(poll, plan(stop=stop)))
        assert anyio.current_time() == moment
        assert len(items) == readings
    assert poll.in_flight == 0
    assert len(anyio.get_running_tasks()) == tasks


async def test_stopped_in_an_outage() -> None:
    """W8: nor is a probe waited for."""
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(after, 5, stop.set)
        assert await take(watch(Poll(ServerError(retry_after=900)), plan(stop=stop))) == []
    assert anyio.current_time() == 5


@pytest.mark.parametrize("stall", [0, 5])
async def test_stopped_by_the_body(stall: float) -> None:
    """W8: set while the consumer's body runs, it ends the watch there, with no further poll."""
    stop = anyio.Event()
    poll = Poll("1")
    watching = watch(poll, plan(stop=stop))
    async for _ in watching:
        stop.set()
        await anyio.sleep(stall)
    assert poll.times == [0]
    assert anyio.current_time() == stall


async def test_stopped_by_the_backends_own_event(anyio_backend_name: str) -> None:
    """API: an `asyncio.Event` or a `trio.Event` will do for `stop`."""
    stop = asyncio.Event() if anyio_backend_name == "asyncio" else trio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(after, 2.5, stop.set)
        assert len(await take(watch(Poll("1"), plan(stop=stop)))) == 3
    assert anyio.current_time() == 2.5


async def test_one_stop_for_two_watches() -> None:
    """W8: a stop is only listened to; it may end several watches."""
    stop = anyio.Event()
    ended: list[int] = []

    async def one(interval: float) -> None:
        ended.append(len(await take(watch(Poll("1"), plan(interval, stop=stop)))))

    async with anyio.create_task_group() as group:
        group.start_soon(one, 1)
        group.start_soon(one, 2)
        group.start_soon(after, 4.5, stop.set)
    assert sorted(ended) == [3, 5]


@attrs.frozen
class Broken:
    """A stop whose waiting fails after some time."""

    seconds: float
    error: Exception

    async def wait(self) -> None:
        """Fail."""
        await anyio.sleep(self.seconds)
        raise self.error


@pytest.mark.parametrize("takes", [0.5, 0], ids=["in-a-poll", "in-a-pause"])
async def test_a_stop_that_raises(takes: float) -> None:
    """W8: what `wait()` raises ends the watch as it is, in no ExceptionGroup; nothing is left."""
    poll = Poll("1", takes=takes)
    error = LookupError("theirs")
    with pytest.raises(LookupError) as caught:
        await take(watch(poll, plan(stop=Broken(0.2, error))))
    assert caught.value is error
    assert error.__context__ is None
    assert poll.in_flight == 0
    assert anyio.current_time() == 0.2


@pytest.mark.parametrize("error", [LookupError("theirs"), ConfigurationError()])
async def test_errors_of_a_poll_beside_a_stop(error: Exception) -> None:
    """E: with a `stop` too, errors come as they are, in no ExceptionGroup."""
    with pytest.raises(type(error)) as caught:
        await take(watch(Poll(error, takes=0.5), plan(stop=anyio.Event())))
    assert caught.value is error
    assert error.__context__ is None


# What it is


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param({"interval": 0}, "interval must be", id="interval-zero"),
        pytest.param({"interval": -1}, "interval must be", id="interval-negative"),
        pytest.param({"interval": math.nan}, "interval must be", id="interval-nan"),
        pytest.param({"interval": math.inf}, "interval must be", id="interval-infinite"),
        pytest.param({"interval": "60"}, "interval must be a number", id="interval-text"),
        pytest.param({"interval": True}, "interval must be a number", id="interval-bool"),
        pytest.param({"jitter": 1}, "jitter must be a number from 0 to below 1", id="jitter-one"),
        pytest.param({"jitter": -0.1}, "jitter must be", id="jitter-negative"),
        pytest.param({"jitter": None}, "jitter must be", id="jitter-none"),
        pytest.param({"initial_delay": -1}, "initial_delay must be", id="initial-delay"),
        pytest.param({"initial_delay": "soon"}, "initial_delay must be", id="initial-delay-text"),
        pytest.param(
            {"on_error": "ignore"},
            'on_error must be "retry" or "yield", not \'ignore\'',
            id="on-error",
        ),
        pytest.param({"on_error": []}, "on_error must be", id="on-error-list"),
        pytest.param({"give_up_after": -1}, "give_up_after must be", id="give-up-after"),
        pytest.param({"give_up_after": math.inf}, "give_up_after must be", id="give-up-never"),
        pytest.param(
            {"stop": threading.Event()},
            "stop needs an async wait(), as an asyncio.Event() has, not <threading.Event",
            id="stop-of-a-thread",
        ),
        pytest.param({"stop": True}, "stop needs an async wait()", id="stop-bool"),
        pytest.param({"stop": anyio.Event}, "stop needs an async wait()", id="stop-class"),
    ],
)
async def test_arguments_are_checked_at_the_call(arguments: dict[str, Any], problem: str) -> None:
    """W1, W8: what cannot be is refused when `watch()` is called, before anything is iterated."""
    client = client_of(Endpoint("1"))
    with pytest.raises(ConfigurationError) as caught:
        client.watch(**arguments)
    assert str(caught.value).startswith(problem)


async def test_it_is_a_real_async_generator() -> None:
    """W1: `watch` is a plain function that returns an async generator, and has begun nothing."""
    endpoint = Endpoint("1")
    client = client_of(endpoint)
    assert not inspect.iscoroutinefunction(client.watch)
    assert inspect.isasyncgen(client.watch())
    watching = client.watch()
    await anyio.sleep(100)
    assert endpoint.asked == []
    await anext(watching)
    await watching.aclose()
    assert len(endpoint.asked) == 1


async def test_defaults() -> None:
    """API: unless told otherwise it asks at once, then about each minute, and bears an outage."""
    endpoint = Endpoint("1", "1", ServerError(), "1")
    await take(client_of(endpoint).watch(), 3)
    first, second, probe = endpoint.gaps
    assert endpoint.times[0] == 0
    assert 0 <= first <= 60
    assert 57 <= second <= 63
    assert 60 <= probe <= 90


async def test_each_probe_is_one_request_of_the_client() -> None:
    """W5: the bound of a probe reaches the client's Retry: 4 requests, then 1 for each probe."""
    endpoint = Endpoint("1", *[ServerError()] * 7, "2")
    client = client_of(endpoint, Retry(4, backoff=[0, 0, 0]))
    items = await take(client.watch(1, jitter=0, on_error="yield"), 6)
    assert amounts(items) == ["1", *["failed"] * 4, "2"]
    assert [asked.max_attempts for asked in endpoint.asked] == [None] * 5 + [1] * 4


async def test_two_watches_of_one_client() -> None:
    """W4: each keeps its own schedule; the end of one leaves the other, that of the client both."""
    endpoint = Endpoint("1", takes=0.25)
    client = client_of(endpoint)
    async with anyio.create_task_group() as group:
        group.start_soon(take, client.watch(1, jitter=0), 4)
        group.start_soon(take, client.watch(3, jitter=0), 4)
    assert endpoint.times == [0, 0, 1, 2, 3, 3, 6, 9]
    watching = client.watch(1)
    await anext(watching)
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await anext(watching)


# What it leaves behind


with_and_without_stop = pytest.mark.parametrize(
    "make", [pytest.param(lambda: None, id="without-stop"), pytest.param(anyio.Event, id="stop")]
)


async def consume(poll: Poll, stop: SupportsWait | None) -> None:
    """A watch through good polls, failures and values, with a body that waits too."""
    async with aclosing(watch(poll, plan(on_error="yield", stop=stop))) as watching:
        while True:
            await anext(watching)
            await anyio.sleep(0.25)


@with_and_without_stop
@pytest.mark.parametrize("moment", range(1, 16))
async def test_cancelled_at_any_moment(moment: int, make: Callable[[], anyio.Event | None]) -> None:
    """W9: cancelled wherever it is suspended, it leaves no request in flight and no task."""
    poll = Poll("1", ServerError(), ServerError(), "2", takes=0.5)
    tasks = len(anyio.get_running_tasks())
    work = consume(poll, make())
    with anyio.CancelScope() as scope:
        await interrupted(work, moment, scope.cancel)
    assert scope.cancelled_caught
    assert poll.in_flight == 0
    assert len(anyio.get_running_tasks()) == tasks
    count = len(poll.asked)
    await anyio.sleep(100)
    assert len(poll.asked) == count


@on_asyncio
@with_and_without_stop
@pytest.mark.parametrize("moment", [0.1, 0.6, 0.8, 1.1, 1.6, 2.2, 3.0, 3.1])
async def test_task_cancel_at_any_moment(
    moment: float, make: Callable[[], anyio.Event | None]
) -> None:
    """W9: nor does asyncio's own `Task.cancel()` leave anything."""
    poll = Poll("1", ServerError(), "2", takes=0.5)
    tasks = asyncio.all_tasks()
    task = asyncio.ensure_future(consume(poll, make()))
    await asyncio.sleep(moment)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert anyio.current_time() == moment
    assert poll.in_flight == 0
    assert asyncio.all_tasks() == tasks


@with_and_without_stop
async def test_left_by_break_and_closed(make: Callable[[], anyio.Event | None]) -> None:
    """W9: after `break` and `aclose()` there is no request, no task and no further poll."""
    poll = Poll("1", takes=0.5)
    tasks = len(anyio.get_running_tasks())
    watching = watch(poll, plan(stop=make()))
    await take(watching, 1)
    assert len(anyio.get_running_tasks()) == tasks
    await anyio.sleep(100)
    assert (len(poll.asked), poll.in_flight) == (1, 0)
    with pytest.raises(StopAsyncIteration):
        await anext(watching)


@on_asyncio
@pytest.mark.usefixtures("_no_garbage_collection")
async def test_abandoned() -> None:
    """W9: on asyncio a watch that was only broken out of ends when it is let go."""
    poll = Poll("1")
    tasks = asyncio.all_tasks()
    watching = watch(poll, plan())
    gone = weakref.ref(watching)
    await anext(watching)
    del watching
    await anyio.sleep(100)
    assert gone() is None
    assert asyncio.all_tasks() == tasks
    assert len(poll.asked) == 1


async def test_an_error_in_the_body() -> None:
    """W9: an exception of the consumer's leaves the watch closed behind it, unchanged."""
    poll = Poll("1")

    async def stumble() -> None:
        async with aclosing(watch(poll, plan())) as watching:
            await anext(watching)
            raise LookupError

    with pytest.raises(LookupError):
        await stumble()
    await anyio.sleep(100)
    assert len(poll.asked) == 1


@with_and_without_stop
async def test_each_step_by_another_task(make: Callable[[], anyio.Event | None]) -> None:
    """W1: nothing is open across a `yield`: any task may take a step; closing never waits."""
    watching = watch(Poll("1", ServerError(), "2"), plan(on_error="yield", stop=make()))
    items: list[BalanceReading | PollFailed] = []

    async def step() -> None:
        items.append(await anext(watching))

    for _ in range(3):
        async with anyio.create_task_group() as group:
            group.start_soon(step)
    assert amounts(items) == ["1", "failed", "2"]
    with pytest.raises(StopIteration):
        watching.aclose().send(None)


# Suspended


async def test_after_a_suspend(monkeypatch: pytest.MonkeyPatch) -> None:
    """W10, W2: two hours asleep in an hour's pause: it asks soon after waking, then each hour."""
    boot_time = time.monotonic
    monkeypatch.setattr(
        _clock, "boot_time", lambda: boot_time() + (7200 if _clock.now() >= 100 else 0)
    )
    poll = Poll("1")
    await take(watch(poll, plan(3600)), 3)
    assert 100 <= poll.times[1] <= 130
    assert poll.gaps[1] == pytest.approx(3600)


# An interval that is asked


async def test_the_interval_is_asked() -> None:
    """W11: a callable decides after each good reading, and hears the rate that the watch saw."""
    heard: list[tuple[Decimal, Decimal | None]] = []

    def decide(reading: BalanceReading, burn: Decimal | None) -> float:
        heard.append((reading.amount, burn and round(burn, 3)))
        return 10.0 * len(heard)

    sandbox = Sandbox(balance="1000", spend_per_second=2, script=[Fault(times=2), Fault(500)])
    async with sandbox_client(sandbox, middleware=[]) as client:
        items = await take(client.watch(decide, jitter=0, on_error="yield"), 4)
    assert amounts(items)[2] == "failed"
    assert [amount for amount, _ in heard[:2]] == [1000, 980]
    assert [burn for _, burn in heard] == [None, 2, 2]
    assert isinstance(items[2], PollFailed)
    assert 20 <= items[2].next_delay <= 30


async def test_each_watch_has_its_own_rate() -> None:
    """W11: one callable may serve two watches; the rate of each is of its own readings."""
    adaptive = Adaptive(0, fastest=1, slowest=1000)
    intervals: dict[str, float] = {}

    async def one(spend: str) -> None:
        def decide(reading: BalanceReading, burn: Decimal | None) -> float:
            intervals[spend] = adaptive(reading, burn)
            return intervals[spend]

        sandbox = Sandbox(balance="10000", spend_per_second=spend)
        async with sandbox_client(sandbox) as client:
            await take(client.watch(decide, jitter=0), 2)

    async with anyio.create_task_group() as group:
        group.start_soon(one, "2")
        group.start_soon(one, "10")
    assert intervals["2"] == pytest.approx((10_000 - 2) / 2 / 10)
    assert intervals["10"] == pytest.approx((10_000 - 10) / 10 / 10)


def zero(reading: BalanceReading, burn: Decimal | None) -> float:
    """No interval at all."""
    return 0.0


async def soon(reading: BalanceReading, burn: Decimal | None) -> float:
    """An interval that would have to be awaited."""
    return 1.0


async def test_an_interval_that_cannot_be() -> None:
    """W11: what the callable returns is checked when it does; that it is not async, at the call."""
    client = client_of(Endpoint("1"))
    with pytest.raises(ConfigurationError, match="the interval that the callable returned must"):
        await take(client.watch(zero))
    with pytest.raises(TypeError, match="interval is called, not awaited"):
        client.watch(soon)  # type: ignore[arg-type]


async def test_a_random_initial_delay_of_a_callable() -> None:
    """W11: before the first reading a minute stands for the interval."""
    random.seed(11)
    times: list[float] = []
    for _ in range(200):
        poll, began = Endpoint("1"), anyio.current_time()
        await take(client_of(poll).watch(Adaptive(0), initial_delay="random"), 1)
        times.append(poll.times[0] - began)
    assert 0 <= min(times) < 5
    assert 55 < max(times) <= 60


async def test_an_outage_before_the_callable_was_asked() -> None:
    """W11, W5: the probes of an outage count by the interval in force, at first by a minute."""
    poll = Endpoint(ServerError(), "1", ServerError(), "1")
    await take(client_of(poll).watch(lambda _, __: 2.0, jitter=0), 2)
    assert 60 <= poll.gaps[0] <= 90
    assert poll.gaps[1] == pytest.approx(2)
    assert 2 <= poll.gaps[2] <= 3


async def test_jitter_of_an_interval_that_is_asked() -> None:
    """W11, W3: what a callable returns is spread like a number: the first gap, then by jitter."""
    random.seed(11)
    polls = [Endpoint("1") for _ in range(100)]
    for poll in polls:
        await take(client_of(poll).watch(lambda _, __: 10.0, jitter=0.1), 4)
    firsts = [poll.gaps[0] for poll in polls]
    others = [gap for poll in polls for gap in poll.gaps[1:]]
    assert 0 <= min(firsts) < 1
    assert 9 < max(firsts) <= 10
    assert 9 - 1e-6 <= min(others) < 9.1
    assert 10.9 < max(others) <= 11 + 1e-6


@pytest.mark.parametrize("returned", [-1, math.inf, math.nan, "60", None, True])
async def test_a_callable_that_returns_no_interval(returned: Any) -> None:
    """W11: a return that is no interval ends the watch at once, in words that name the callable."""
    poll = Endpoint("1")
    with pytest.raises(ConfigurationError) as caught:
        await take(client_of(poll).watch(lambda _, __: returned))
    assert str(caught.value).startswith("the interval that the callable returned must be ")
    assert len(poll.asked) == 1


class Stopped:
    """Has stopped, and knows no `is_set`."""

    async def wait(self) -> None:
        """Return at once."""


async def test_stopped_from_the_beginning_without_is_set() -> None:
    """W8: `wait()` alone is enough to stop a watch before it asks."""
    poll = Poll("1")
    assert [reading async for reading in watch(poll, plan(stop=Stopped()))] == []
    assert poll.asked == []
