"""The monitor: one poller for everybody, whatever they do, and whatever the service does."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any, cast

import anyio
import attrs
import pytest
from canary import CANARY
from fakes import cancelled_at, eager_loop, every_way, on_asyncio, reading
from wire import answer, serve

from decaptcha_async import (
    Alert,
    AuthenticationError,
    BalanceClient,
    BalanceMonitor,
    BalanceReading,
    Call,
    ClientClosedError,
    Coalesce,
    ConfigurationError,
    DecaptchaError,
    Handler,
    LowBalance,
    LowRunway,
    RateLimitedError,
    ServerError,
    Subscription,
    _clock,
)
from decaptcha_async.sandbox import Fault, Sandbox
from decaptcha_async.testing import sandbox_client

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

MINUTE, HOUR = 60.0, 3600.0


class Road:
    """A middleware that sees each request: when it began, and how many are under way."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def __call__(self, call: Call, call_next: Handler) -> BalanceReading:
        """Go on."""
        self.times.append(anyio.current_time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await call_next(call)
        finally:
            self.in_flight -= 1


@asynccontextmanager
async def monitoring(
    sandbox: Sandbox, road: Road | None = None, *, jitter: float = 0.0, **kwargs: Any
) -> AsyncGenerator[BalanceMonitor]:
    """A monitor of the sandbox, without jitter and without retries."""
    async with (
        sandbox_client(sandbox, middleware=[road or Road()]) as client,
        BalanceMonitor(client, jitter=jitter, **kwargs) as monitor,
    ):
        yield monitor


class Bell:
    """A notifier that remembers."""

    def __init__(self) -> None:
        self.rang: list[tuple[float, str]] = []

    async def __call__(self, alert: Alert) -> None:
        """Ring."""
        self.rang.append((anyio.current_time(), alert.kind))


async def listen(
    subscription: Subscription[BalanceReading], heard: list[tuple[float, str]]
) -> None:
    """Hear every reading, and when it came."""
    async for one in subscription:
        heard.append((anyio.current_time(), one.raw))  # noqa: PERF401 - as they come


async def subscribe(monitor: BalanceMonitor, heard: list[tuple[float, str]]) -> None:
    """Be a subscriber until the end."""
    async with monitor.subscribe() as readings:
        await listen(readings, heard)


def status(monitor: BalanceMonitor) -> str:
    """How it stands."""
    return monitor.state.status


async def failure(monitor: BalanceMonitor) -> DecaptchaError:
    """What `get()` raises."""
    try:
        await monitor.get()
    except DecaptchaError as error:
        return error
    raise AssertionError


# Who asks once


async def test_forty_impatient_callers() -> None:
    """M6: 40 callers with 1 s deadlines, the API takes 1.5 s: one request, and it completes."""
    sandbox, road, late = Sandbox(script=[Fault(delay=1.5, times=1000)]), Road(), 0

    async def impatient(monitor: BalanceMonitor) -> None:
        nonlocal late
        with anyio.move_on_after(1) as scope:
            await monitor.get()
        late += scope.cancelled_caught

    async with monitoring(sandbox, road) as monitor:
        async with anyio.create_task_group() as callers:
            for _ in range(40):
                callers.start_soon(impatient, monitor)
        assert (late, road.in_flight) == (40, 1)
        await anyio.sleep(0.6)
        assert road.in_flight == 0
        assert (await monitor.get()).raw == "1250.75"
    assert sandbox.requests == 1


async def test_get_shares_one_poll() -> None:
    """M6: who asks while a poll is in flight gets its answer, whatever age is wanted."""
    sandbox = Sandbox(script=[Fault(delay=1)])
    readings: list[BalanceReading] = []

    async def ask(monitor: BalanceMonitor, after: float) -> None:
        await anyio.sleep(after)
        readings.append(await monitor.get(max_age=0))

    async with monitoring(sandbox) as monitor, anyio.create_task_group() as group:
        for tenth in range(10):
            group.start_soon(ask, monitor, tenth / 10)
    assert sandbox.requests == 1
    assert len({id(reading) for reading in readings}) == 1
    assert anyio.current_time() == 1


@pytest.mark.parametrize(
    ("monitors", "gets", "fresh_until"),
    [(None, None, 90), (30, None, 30), (30, 45, 45), (None, 10, 10), (None, 0, -1)],
)
async def test_fresh(monitors: float | None, gets: float | None, fresh_until: float) -> None:
    """M6: a reading is fresh for 1.5 gaps, or as the monitor or the caller says; then it polls."""
    sandbox = Sandbox()
    async with monitoring(sandbox, max_age=monitors) as monitor:
        first = await monitor.get()
        await anyio.sleep(max(0, fresh_until - 0.5))
        again = await monitor.get(gets)
        assert (again is first) is (fresh_until >= 0)
        await anyio.sleep(1)
        requests = sandbox.requests
        assert await monitor.get(gets) is not first
        assert sandbox.requests == requests + 1


async def test_get_polls_only_when_asked() -> None:
    """M5: without subscribers, rules and `stale_after` it polls when somebody asks, not else."""
    sandbox = Sandbox()
    async with monitoring(sandbox) as monitor:
        await anyio.sleep(HOUR)
        assert sandbox.requests == 0
        await monitor.get()
        await anyio.sleep(HOUR)
        assert sandbox.requests == 1


async def test_get_in_an_outage() -> None:
    """M6: each caller gets the error of the poll as an exception of its own, then the balance."""
    sandbox = Sandbox(script=[Fault(503, times=2)])
    errors: list[DecaptchaError] = []

    async def ask(monitor: BalanceMonitor) -> None:
        errors.append(await failure(monitor))

    async with monitoring(sandbox) as monitor:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(ask, monitor)
            assert status(monitor) == "degraded"
            await anyio.sleep(1)
        assert {type(error) for error in errors} == {ServerError}
        assert len({id(error) for error in errors}) == 40
        assert sandbox.requests == 2
        assert (await monitor.get()).raw == "1250.75"
        assert status(monitor) == "ok"


async def test_get_does_not_hammer_in_an_outage() -> None:
    """M6, W5: a service that fails is asked at most once a second, however many ask."""
    sandbox = Sandbox(script=[Fault(503, times=10_000)])
    async with monitoring(sandbox) as monitor:
        while anyio.current_time() < 60:
            assert isinstance(await failure(monitor), ServerError)
            await anyio.sleep(0.05)
    assert 55 <= sandbox.requests <= 60


async def test_get_minds_retry_after() -> None:
    """M6, R3: what the service asked for is waited, however many ask meanwhile."""
    limited = Fault(429, headers={"retry-after": "120"})
    sandbox = Sandbox(script=[limited])
    async with monitoring(sandbox) as monitor:
        while anyio.current_time() < 120:
            assert isinstance(await failure(monitor), RateLimitedError)
            await anyio.sleep(1)
        assert sandbox.requests == 1
        assert (await monitor.get()).raw == "1250.75"


async def test_get_minds_an_absurd_retry_after_for_an_hour() -> None:
    """M6, W5: a service that asks for a year gets an hour."""
    sandbox = Sandbox(script=[Fault(429, headers={"retry-after": "31536000"})])
    async with monitoring(sandbox) as monitor:
        await failure(monitor)
        await anyio.sleep(HOUR - 1)
        await failure(monitor)
        assert sandbox.requests == 1
        await anyio.sleep(1)
        await monitor.get()


async def test_get_hurries_a_watch_that_goes_on() -> None:
    """M5, M6: a poll that `get()` asked for is every subscriber's, and the interval counts anew."""
    sandbox, road, heard = Sandbox(), Road(), list[tuple[float, str]]()
    async with monitoring(sandbox, road) as monitor, anyio.create_task_group() as group:
        group.start_soon(subscribe, monitor, heard)
        await anyio.sleep(80)
        await monitor.get(max_age=0)
        await anyio.sleep(100)
        group.cancel_scope.cancel()
    assert road.times == [0, 60, 80, 140]
    assert [at for at, _ in heard] == road.times


async def test_not_entered_and_ended() -> None:
    """C6: before it is entered and after it is left, a monitor says which."""
    async with sandbox_client(Sandbox()) as client:
        monitor = BalanceMonitor(client)
        ways: list[Callable[[], Awaitable[object]]] = [
            monitor.get,
            lambda: monitor.wait_for(1),
            lambda: monitor.subscribe().__aenter__(),
            lambda: monitor.alerts().__aenter__(),
        ]
        for way in ways:
            with pytest.raises(ClientClosedError, match="not open: enter it"):
                await way()
        async with monitor:
            pass
        for way in ways:
            with pytest.raises(ClientClosedError, match="has ended: make a new one"):
                await way()
        with pytest.raises(ClientClosedError, match="entered once: make a new one"):
            await monitor.__aenter__()


# Who subscribes


async def test_a_thousand_subscribers() -> None:
    """M5: one poll an interval for 1,000 subscribers, and all of them see the latest value."""
    sandbox, road = Sandbox(balance=1000, spend_per_second="0.01"), Road()
    heard = [list[tuple[float, str]]() for _ in range(1000)]
    async with monitoring(sandbox, road) as monitor, anyio.create_task_group() as group:
        for one in heard:
            group.start_soon(subscribe, monitor, one)
        await anyio.sleep(5 * MINUTE)
        group.cancel_scope.cancel()
    assert road.times[:5] == [0, 60, 120, 180, 240]
    expected = [(60.0 * i, f"{1000 - Decimal('0.6') * i:.2f}") for i in range(5)]
    assert all(one[:5] == expected for one in heard)


async def test_twenty_thousand_subscriptions_leave_nothing_behind() -> None:
    """M5: 20,000 cycles of entering and leaving leave no inbox, task or object, and poll once."""
    sandbox = Sandbox()
    async with monitoring(sandbox) as monitor:

        async def cycles(times: int) -> None:
            for number in range(times):
                async with monitor.subscribe() as readings, monitor.alerts():
                    if number % 100 == 0:
                        await anext(readings)

        await cycles(1000)
        tasks = len(anyio.get_running_tasks())
        gc.collect()
        objects = len(gc.get_objects())
        await cycles(20_000)
        assert len(anyio.get_running_tasks()) == tasks
        assert (monitor._readings, monitor._alerts) == (set(), set())
        gc.collect()
        assert len(gc.get_objects()) - objects < 200
    assert sandbox.requests == 1


async def test_leaving_and_rejoining_cannot_beat_the_interval() -> None:
    """M5: who leaves and comes back each second causes one poll an interval all the same."""
    sandbox, road = Sandbox(), Road()
    async with monitoring(sandbox, road, max_age=0.5) as monitor:
        while anyio.current_time() < 600:
            with anyio.move_on_after(1):
                async with monitor.subscribe() as readings:
                    await anext(readings)
            await anyio.sleep(0.5)
    assert 10 <= len(road.times) <= 11
    assert all(after - before >= 60 for before, after in pairwise(road.times))


async def test_a_late_subscriber() -> None:
    """M5: a late subscriber gets the last reading at once if it is fresh, else waits for one."""
    sandbox = Sandbox(script=[Fault(), Fault(delay=2, times=9)])
    async with monitoring(sandbox) as monitor:
        await monitor.get()
        await anyio.sleep(90)
        async with monitor.subscribe() as readings:
            assert (await anext(readings)).age == pytest.approx(90, abs=1)
        await anyio.sleep(HOUR)
        started = anyio.current_time()
        async with monitor.subscribe() as readings:
            assert (await anext(readings)).age < 1
        assert anyio.current_time() == started + 2


async def test_a_slow_subscriber() -> None:
    """M5: who is slow sees the latest value, never a queue, and slows nobody else."""
    sandbox = Sandbox(balance=1000, spend_per_second=1)
    quick, slow = list[tuple[float, str]](), list[str]()
    async with monitoring(sandbox) as monitor, anyio.create_task_group() as group:
        group.start_soon(subscribe, monitor, quick)
        async with monitor.subscribe() as readings:
            async for reading in readings:
                slow.append(reading.raw)
                if len(slow) == 3:
                    break
                await anyio.sleep(200)
        group.cancel_scope.cancel()
    assert slow == ["1000.00", "820.00", "640.00"]
    assert [at for at, _ in quick] == [0, 60, 120, 180, 240, 300, 360]


async def test_the_last_leaves_while_a_poll_is_in_flight() -> None:
    """M5: leaving stops the sleep, never a poll in flight: it answers who comes next."""
    sandbox, road = Sandbox(script=[Fault(delay=2)]), Road()
    async with monitoring(sandbox, road) as monitor:
        with anyio.move_on_after(1):
            async with monitor.subscribe() as readings:
                await anext(readings)
        assert road.in_flight == 1
        await anyio.sleep(HOUR)
        assert monitor.state.reading is not None
    assert sandbox.requests == 1


async def test_jitter_and_an_interval_that_is_asked() -> None:
    """M5, W11: the interval may be a callable, asked with the rate; freshness follows the gap."""
    heard: list[Decimal | None] = []

    def interval(reading: BalanceReading, burn: Decimal | None) -> float:
        heard.append(burn and round(burn, 1))
        return 100.0 * len(heard)

    sandbox, road = Sandbox(balance=10_000, spend_per_second=1), Road()
    async with monitoring(sandbox, road, interval=interval) as monitor:
        with anyio.move_on_after(650):
            await subscribe(monitor, [])
        assert road.times == [0, 100, 300, 600]
        assert heard == [None, 1, 1, 1]
        await monitor.get()
        await anyio.sleep(549)
        await monitor.get()
        assert len(road.times) == 4
        await anyio.sleep(2)
        await monitor.get()
        assert len(road.times) == 5


# What does not pass by itself


async def test_each_subscriber_hears_a_fatal_error() -> None:
    """M7: each subscriber present gets its own exception, unwrapped; the app's tasks live on."""
    sandbox = Sandbox(script=[Fault(delay=1), Fault(401, times=3)])
    caught: list[AuthenticationError] = []
    lives = anyio.Event()

    async def subscriber(monitor: BalanceMonitor) -> None:
        try:
            await subscribe(monitor, [])
        except AuthenticationError as error:
            caught.append(error)

    async with monitoring(sandbox) as monitor, anyio.create_task_group() as app:
        for _ in range(50):
            app.start_soon(subscriber, monitor)
        app.start_soon(lives.wait)
        await anyio.sleep(10 * MINUTE)
        assert len({id(error) for error in caught}) == 50
        assert len({id(error.__traceback__) for error in caught}) == 50
        assert status(monitor) == "failed"
        assert isinstance(monitor.state.error, AuthenticationError)
        assert sandbox.requests == 4
        lives.set()


async def test_a_refused_key_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """M7: the log names the reason once, however long it lasts, and without a traceback."""
    async with monitoring(Sandbox(script=[Fault(401, times=99)]), stale_after=HOUR) as monitor:
        await anyio.sleep(2 * HOUR)
        assert status(monitor) == "failed"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is None
    assert errors[0].message.startswith("the balance cannot be asked for: ")


@pytest.mark.parametrize("how", ["get", "subscribe"])
async def test_a_rotated_key_heals(how: str) -> None:
    """M7: `failed` is not the end: who comes next begins anew, but not before the interval."""
    key, sandbox = "wrong", Sandbox()

    async def ask() -> BalanceReading:
        if how == "get":
            return await monitor.get()
        async with monitor.subscribe() as readings:
            return await anext(readings)

    async with (
        sandbox_client(sandbox, api_key=lambda: key, middleware=[]) as client,
        BalanceMonitor(client, jitter=0) as monitor,
    ):
        with pytest.raises(AuthenticationError):
            await ask()
        assert not monitor.state.healthy
        for _ in range(10):
            error = await failure(monitor)
            assert isinstance(error, AuthenticationError)
            await anyio.sleep(5)
        assert sandbox.requests == 1
        key = "sandbox"
        await anyio.sleep(10 if how == "get" else 0)
        assert (await ask()).raw == "1250.75"
        assert sandbox.requests == 2
        assert anyio.current_time() == 60
        assert status(monitor) == "ok"
        assert monitor.state.error is None


async def test_still_refused() -> None:
    """M7: a key that stays wrong is tried once an interval while somebody asks, and no more."""
    sandbox, road = Sandbox(), Road()
    async with (
        sandbox_client(sandbox, api_key="wrong", middleware=[road]) as client,
        BalanceMonitor(client, jitter=0) as monitor,
    ):
        while anyio.current_time() < 600:
            with pytest.raises(AuthenticationError):
                await subscribe(monitor, [])
            await failure(monitor)
            await anyio.sleep(1)
    assert all(after - before >= 60 for before, after in pairwise(road.times))
    assert len(road.times) >= 9


async def test_get_joins_the_poll_that_may_heal() -> None:
    """M6, M7: after an interval, who asks while the next poll is in flight waits for it."""
    sandbox = Sandbox(script=[Fault(401), Fault(delay=2)])
    async with monitoring(sandbox) as monitor, anyio.create_task_group() as group:
        await failure(monitor)
        await anyio.sleep(60)
        group.start_soon(monitor.get)
        await anyio.sleep(1)
        assert (await monitor.get()).raw == "1250.75"
    assert sandbox.requests == 2


async def test_rules_go_on_after_a_fatal_error() -> None:
    """M7: with rules it goes on by itself, calmly, and rings when it knows again."""
    sandbox, road, bell = Sandbox(balance=3, script=[Fault(401, times=3)]), Road(), Bell()
    async with monitoring(sandbox, road, rules=[LowBalance(100)], notify=[bell]):
        await anyio.sleep(1000)
    assert road.times == [0, 300, 600, 900, 960]
    assert bell.rang == [(900, "low")]


class OddError(Exception):
    """An error that cannot be copied."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


@pytest.mark.parametrize(
    "bug",
    [KeyError("oops"), OddError("a", "b")],
    ids=["copied", "not-copied"],
)
async def test_a_bug_in_a_middleware(bug: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """M7: an exception that is not ours is as fatal; the log has its traceback, to find the bug."""

    async def buggy(call: Call, call_next: Handler) -> BalanceReading:
        raise bug

    async with (
        sandbox_client(Sandbox(), middleware=[buggy]) as client,
        BalanceMonitor(client) as monitor,
    ):
        with pytest.raises(type(bug)):
            await subscribe(monitor, [])
        with pytest.raises(type(bug)):
            await monitor.get()
        assert status(monitor) == "failed"
        assert type(monitor.state.error) is DecaptchaError
        assert str(monitor.state.error) == f"{type(bug).__name__}, which the log tells more about"
    assert caplog.messages == [f"the balance cannot be asked for: {type(bug).__name__}"]
    assert f"{bug}" in caplog.text
    assert "in buggy" in caplog.text


async def test_a_bug_in_an_interval() -> None:
    """M7: an interval that raises is heard by who is there, and the monitor lives."""

    def interval(reading: BalanceReading, burn: Decimal | None) -> float:
        return 1 / int(reading.amount)

    sandbox = Sandbox(balance=0)
    async with monitoring(sandbox, interval=interval) as monitor:
        with pytest.raises(ZeroDivisionError):
            await monitor.get()
        sandbox.top_up(1)
        await anyio.sleep(60)
        assert (await monitor.get()).raw == "1.00"


async def test_the_client_is_closed_first() -> None:
    """C6: when the client is closed below it, everybody hears of it."""
    async with (
        sandbox_client(Sandbox(script=[Fault(delay=9)])) as client,
        BalanceMonitor(client) as monitor,
        anyio.create_task_group() as group,
    ):

        async def close() -> None:
            await anyio.sleep(1)
            await client.aclose()

        group.start_soon(close)
        with pytest.raises(ClientClosedError, match="closed during the call"):
            await subscribe(monitor, [])
        with pytest.raises(ClientClosedError):
            await monitor.get()


@on_asyncio
async def test_a_cancellation_that_leaks_from_elsewhere() -> None:
    """M7: a middleware that waits for something cancelled elsewhere does not end it silently."""

    async def leaks(call: Call, call_next: Handler) -> BalanceReading:
        task = asyncio.ensure_future(asyncio.sleep(HOUR))
        task.cancel()
        await task
        raise AssertionError

    async with (
        sandbox_client(Sandbox(), middleware=[leaks]) as client,
        BalanceMonitor(client) as monitor,
    ):
        with pytest.raises(RuntimeError, match="what it waited for was cancelled"):
            await subscribe(monitor, [])
        assert status(monitor) == "failed"


@on_asyncio
async def test_its_task_is_cancelled_by_somebody() -> None:
    """M7: when somebody cancels all tasks there are, who waits hears the end, and none hangs."""
    heard: list[str] = []

    async def getter(monitor: BalanceMonitor) -> None:
        with pytest.raises(ClientClosedError):
            await monitor.get()
        heard.append("get")

    async with monitoring(Sandbox(script=[Fault(delay=9)])) as monitor:
        async with anyio.create_task_group() as group:
            group.start_soon(subscribe, monitor, list[tuple[float, str]]())
            group.start_soon(getter, monitor)
            await anyio.sleep(1)
            for task in asyncio.all_tasks():
                if task.get_name() == "balance monitor":
                    task.cancel()
        assert heard == ["get"]
        assert status(monitor) == "idle"


# Rules and alerts


async def test_rules_need_no_subscribers() -> None:
    """M4: with rules it polls from enter to exit, and every listener gets each alert."""
    sandbox = Sandbox(balance=200, spend_per_second=1)
    bell, said = Bell(), list[str]()

    async def hear(monitor: BalanceMonitor) -> None:
        async with monitor.alerts() as alerts:
            said.extend([alert.message async for alert in alerts])

    async with (
        anyio.create_task_group() as group,
        monitoring(
            sandbox, rules=[LowBalance(100), LowRunway(120)], notify=[bell], label="eu-1"
        ) as monitor,
    ):
        assert monitor.label == "eu-1"
        group.start_soon(hear, monitor)
        await anyio.sleep(130)
        sandbox.top_up(5000)
        await anyio.sleep(60)
    assert bell.rang == [(120, "low"), (120, "runway"), (180, "recovered"), (180, "recovered")]
    assert said == [
        "eu-1: Balance 80.00 is below 100. It lasts about 1 min: top up.",
        "eu-1: Balance 80.00 lasts about 1 min, less than 2 min: top up.",
        "eu-1: Balance 5,020.00 is no longer below 100, after 1 min.",
        "eu-1: Balance 5,020.00 lasts more than 2 min again, after 1 min.",
    ]


def _ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith("decaptcha_async")]


async def test_alerts_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """M4: each alert is in the log, even where nobody is notified."""
    sandbox = Sandbox(balance=3)
    with caplog.at_level(logging.INFO, "decaptcha_async"):
        async with monitoring(sandbox, rules=[LowBalance(100)]):
            await anyio.sleep(1)
            sandbox.top_up(1000)
            await anyio.sleep(60)
    assert [(record.levelname, record.message) for record in _ours(caplog)] == [
        ("WARNING", "low: Balance 3.00 is below 100. Top up."),
        ("INFO", "recovered: Balance 1,003.00 is no longer below 100, after 1 min."),
    ]


async def test_a_notifier_delays_no_poll() -> None:
    """M4: a notifier that hangs delays no poll; leaving the monitor takes at most the grace."""

    async def hangs(alert: Alert) -> None:
        await anyio.sleep_forever()

    road, bell = Road(), Bell()
    async with monitoring(Sandbox(balance=3), road, rules=[LowBalance(9)], notify=[hangs, bell]):
        await anyio.sleep(181)
    assert road.times == [0, 60, 120, 180]
    assert bell.rang == [(0, "low")]
    assert anyio.current_time() == 186


async def test_several_monitors_share_their_rules() -> None:
    """M1: one list of rules serves several monitors: each has copies that have seen nothing."""
    rules, bells = [LowBalance(100)], [Bell(), Bell()]
    async with (
        monitoring(Sandbox(balance=3), rules=rules, notify=bells[:1]) as first,
        monitoring(Sandbox(balance=2), rules=iter(rules), notify=bells[1:]),
    ):
        await anyio.sleep(1)
        assert first.rules[0] is not rules[0]
    assert [bell.rang for bell in bells] == [[(0, "low")], [(0, "low")]]
    assert rules[0].feed(reading("1"))


async def test_an_outage_cannot_hide_an_empty_account() -> None:
    """M3: in an outage `stale` rings once; after it `recovered`, and the rule says how it is."""
    sandbox = Sandbox(balance=500, spend_per_second="0.2", script=[Fault(), Fault(503, times=12)])
    bell, stati = Bell(), set[str]()
    async with monitoring(
        sandbox, rules=[LowBalance(100)], stale_after=600, notify=[bell]
    ) as monitor:
        while len(bell.rang) < 3:
            await anyio.sleep(10)
            if len(bell.rang) == 1:
                stati.add(status(monitor))
                assert not monitor.state.healthy
        assert status(monitor) == "ok"
    assert stati == {"stale"}
    assert [kind for _, kind in bell.rang] == ["stale", "low", "recovered"]
    assert bell.rang[0][0] == 600
    assert bell.rang[1][0] == bell.rang[2][0]


async def test_stale_from_the_beginning() -> None:
    """M3: `stale` rings, too, where there never was a reading, and where the key is refused."""
    bells = [Bell(), Bell()]
    async with (
        monitoring(
            Sandbox(script=[Fault(503, times=99)]), stale_after=600, notify=bells[:1]
        ) as down,
        monitoring(
            Sandbox(script=[Fault(401, times=99)]), stale_after=600, notify=bells[1:]
        ) as refused,
        refused.alerts() as alerts,
    ):
        alert = await anext(alerts)
        await anyio.sleep(HOUR)
        assert (down.state.status, refused.state.status) == ("stale", "failed")
    assert alert.message.startswith("No balance for 10 min (")
    assert alert.message.endswith("); there was none yet. Check the account.")
    assert [bell.rang for bell in bells] == [[(600, "stale")]] * 2


async def test_stale_for_a_service_that_is_silent() -> None:
    """M3: `stale` rings while the first poll is still in flight: nobody knows why."""
    async with (
        monitoring(Sandbox(script=[Fault(delay=HOUR)]), stale_after=600) as monitor,
        monitor.alerts() as alerts,
    ):
        message = (await anext(alerts)).message
    assert message == "No balance for 10 min; there was none yet. Check the account."


async def test_never_stale_in_good_times() -> None:
    """M3: while readings come `stale` is silent, and it counts from each of them."""
    road, bell = Road(), Bell()
    async with monitoring(Sandbox(), road, stale_after=61, notify=[bell]):
        await anyio.sleep(HOUR)
    assert len(road.times) == 61 - 1 + (road.times[-1] == HOUR)
    assert bell.rang == []


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"interval": 0}, ConfigurationError, "interval must be"),
        ({"jitter": 1}, ConfigurationError, "jitter must be"),
        ({"stale_after": 0}, ConfigurationError, "stale_after must be"),
        ({"max_age": 0}, ConfigurationError, "max_age must be"),
        ({"rules": ["100"]}, TypeError, "a LowBalance or a LowRunway, not str"),
        ({"rules": [LowBalance]}, TypeError, "a LowBalance or a LowRunway, not type"),
        ({"notify": [print]}, TypeError, "a notifier must be an async callable"),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    """M1, M4: arguments that cannot be are refused when the monitor is made."""
    with pytest.raises(error, match=says):
        BalanceMonitor(BalanceClient("key"), **arguments)


# Who waits


async def test_wait_for_asks_a_fresh_reading_first() -> None:
    """M9: a fresh reading that is good enough answers at once, without a poll or a spread."""
    sandbox = Sandbox()
    async with monitoring(sandbox) as monitor:
        reading = await monitor.get()
        assert await monitor.wait_for("1250.75", spread=HOUR) is reading
        assert await monitor.wait_for(lambda reading: reading.amount > 1000) is reading
    assert sandbox.requests == 1
    assert anyio.current_time() == 0


async def test_wait_for_through_an_outage() -> None:
    """M9: it waits through an outage until the balance is good enough."""
    sandbox = Sandbox(balance=3, script=[Fault(), Fault(503, times=5)])
    async with monitoring(sandbox) as monitor, anyio.create_task_group() as group:

        async def top_up() -> None:
            await anyio.sleep(30)
            sandbox.top_up(97)

        group.start_soon(top_up)
        assert (await monitor.wait_for(100)).raw == "100.00"
    assert sandbox.requests == 7


async def test_wait_for_a_fatal_error_and_the_end() -> None:
    """M9: it raises what does not pass by itself, and when the monitor ends."""
    async with monitoring(Sandbox(script=[Fault(401)])) as monitor:
        with pytest.raises(AuthenticationError):
            await monitor.wait_for(100)
    ended: list[ClientClosedError] = []

    async def wait(monitor: BalanceMonitor) -> None:
        try:
            await monitor.wait_for(10_000)
        except ClientClosedError as error:
            ended.append(error)

    async with anyio.create_task_group() as group, monitoring(Sandbox()) as monitor:
        group.start_soon(wait, monitor)
        await anyio.sleep(100)
    assert len(ended) == 1


async def test_wait_for_spreads() -> None:
    """M9: `spread` lets waiters go at random moments, so a top-up frees no fleet at once."""
    random.seed(4)
    sandbox, freed = Sandbox(balance=3), list[float]()

    async def wait(monitor: BalanceMonitor) -> None:
        await monitor.wait_for(100, spread=100)
        freed.append(anyio.current_time())

    async with monitoring(sandbox) as monitor, anyio.create_task_group() as group:
        for _ in range(500):
            group.start_soon(wait, monitor)
        await anyio.sleep(30)
        sandbox.top_up(100)
    assert len(freed) == 500
    assert 60 <= min(freed) < 62
    assert 158 < max(freed) <= 160
    assert sum(at < 110 for at in freed) == pytest.approx(250, abs=50)


async def test_wait_for_refuses() -> None:
    """M9, A4: an amount that is none, an async condition, a spread that cannot be."""

    async def condition(reading: BalanceReading) -> bool:
        return True

    waits: list[tuple[Any, float, type[Exception], str]] = [
        (100.0, 0, ConfigurationError, "condition: .*float"),
        ("1250,75", 0, ConfigurationError, "condition: "),
        (condition, 0, TypeError, "condition is called, not awaited"),
        (100, -1, ConfigurationError, "spread must be"),
    ]
    async with monitoring(Sandbox()) as monitor:
        for what, spread, error, says in waits:
            with pytest.raises(error, match=says):
                await monitor.wait_for(what, spread=spread)


async def test_a_condition_that_raises() -> None:
    """M9: a condition that raises is the caller's alone, and leaves no subscriber behind."""

    def condition(reading: BalanceReading) -> bool:
        raise LookupError

    async with monitoring(Sandbox()) as monitor:
        with pytest.raises(LookupError):
            await monitor.wait_for(condition)
        assert monitor._readings == set()
        assert status(monitor) == "ok"


# How it stands


async def test_state() -> None:
    """M10: idle, ok, idle again when nobody asks and the reading aged; asking polls nothing."""
    sandbox = Sandbox(balance=1000, spend_per_second=1, script=[Fault(times=4), Fault(503)])
    async with monitoring(sandbox) as monitor:
        first = monitor.state
        assert (first.status, first.reading, first.error) == ("idle", None, None)
        assert (first.burn_per_second, first.runway) == (None, None)
        async with monitor.subscribe() as readings:
            await anext(readings)
            assert status(monitor) == "ok"
            last = await anext(readings)
            state = monitor.state
            assert state.reading is last
            assert round(state.burn_per_second or 0, 6) == 1
            assert state.runway == pytest.approx(940)
            assert state.since > first.since
        await anyio.sleep(89)
        assert status(monitor) == "ok"
        await anyio.sleep(2)
        assert (status(monitor), monitor.state.since) == ("idle", last.taken_at)
        assert sandbox.requests == 2
        await monitor.get()
        assert status(monitor) == "ok"
        await monitor.get(max_age=0)
        await failure_at_any_age(monitor)
        assert (status(monitor), type(monitor.state.error)) == ("degraded", ServerError)
        assert monitor.state.reading is not None
        await anyio.sleep(HOUR)
        assert sandbox.requests == 5
        await monitor.get()
        assert (status(monitor), monitor.state.error) == ("ok", None)


async def failure_at_any_age(monitor: BalanceMonitor) -> None:
    """Have a poll fail that nobody's fresh reading hides."""
    with pytest.raises(ServerError):
        await monitor.get(max_age=0)


async def test_a_status_since_when() -> None:
    """M10: `since` is when the status began, not when the last poll was."""
    sandbox = Sandbox(script=[Fault(times=3), Fault(503, times=3)])
    async with monitoring(sandbox, rules=[LowBalance(1)]) as monitor:
        seen: set[tuple[str, datetime]] = set()
        while sandbox.requests < 7:
            await anyio.sleep(5)
            seen.add((status(monitor), monitor.state.since))
        assert [status for status, _ in sorted(seen, key=lambda one: one[1])] == [
            "ok",
            "degraded",
            "ok",
        ]


def test_state_after_the_loop_has_ended() -> None:
    """M10: a monitor may be made before a loop runs, and be asked how it stands after it."""
    monitor = BalanceMonitor(sandbox_client(Sandbox()), jitter=0)
    assert status(monitor) == "idle"

    async def main() -> None:
        async with monitor._client, monitor:
            await monitor.get()

    anyio.run(main)
    assert status(monitor) == "ok"
    assert monitor.state.reading is not None


# Life


@on_asyncio
async def test_entered_and_left_in_different_tasks() -> None:
    """M8: on asyncio one task may enter it and another leave it."""
    stack, bell = AsyncExitStack(), Bell()
    monitor = await asyncio.create_task(
        stack.enter_async_context(
            monitoring(Sandbox(balance=3), rules=[LowBalance(9)], notify=[bell])
        )
    )
    assert (await monitor.get()).raw == "3.00"
    await asyncio.create_task(stack.aclose())
    assert bell.rang == [(0, "low")]
    with pytest.raises(ClientClosedError):
        await monitor.get()


async def test_left_with_everything_under_way() -> None:
    """M8: left during a poll: it is cancelled, who waits hears of it, iterations end."""
    road, outcomes = Road(), list[str]()

    async def getter(monitor: BalanceMonitor) -> None:
        with pytest.raises(ClientClosedError, match="the monitor has ended"):
            await monitor.get()
        outcomes.append("get")

    async def subscriber(monitor: BalanceMonitor) -> None:
        await subscribe(monitor, [])
        outcomes.append("subscribe")

    async def listener(monitor: BalanceMonitor) -> None:
        async with monitor.alerts() as alerts:
            assert [alert async for alert in alerts] == []
        outcomes.append("alerts")

    tasks = len(anyio.get_running_tasks())
    async with anyio.create_task_group() as group:
        sandbox = Sandbox(script=[Fault(delay=HOUR)])
        async with monitoring(sandbox, road, stale_after=HOUR, notify=[Bell()]) as monitor:
            for one in (getter, subscriber, listener):
                group.start_soon(one, monitor)
            await anyio.sleep(1)
            assert road.in_flight == 1
        assert road.in_flight == 0
        assert anyio.current_time() == 1
    assert sorted(outcomes) == ["alerts", "get", "subscribe"]
    assert len(anyio.get_running_tasks()) == tasks


async def test_no_poll_in_the_grace() -> None:
    """M4: while pending alerts are delivered at the end, nothing is polled any more."""
    sandbox, road = Sandbox(balance=3, script=[Fault(), Fault(delay=9)]), Road()
    in_flight: list[int] = []

    async def slow(alert: Alert) -> None:
        for _ in range(3):
            await anyio.sleep(1)
            in_flight.append(road.in_flight)

    async with monitoring(sandbox, road, interval=0.5, rules=[LowBalance(9)], notify=[slow]):
        await anyio.sleep(1.5)
    assert in_flight == [1, 0, 0]
    assert road.times == [0, 0.5]


async def test_left_at_once() -> None:
    """M8: entered and left at once, it asks nobody and takes no time."""
    sandbox = Sandbox()
    async with monitoring(sandbox, rules=[LowBalance(9)], stale_after=9, notify=[Bell()]):
        pass
    assert anyio.current_time() == 0


async def test_the_apps_error_is_not_wrapped() -> None:
    """M7: what the app raises inside comes out as it is."""

    async def app() -> None:
        async with monitoring(Sandbox(), rules=[LowBalance(9)]):
            await anyio.sleep(1)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await app()


async def test_the_app_is_cancelled() -> None:
    """M4, M8: an app that is cancelled leaves nothing behind, and its last alert is delivered."""
    rang: list[float] = []

    async def slow(alert: Alert) -> None:
        await anyio.sleep(2)
        rang.append(anyio.current_time())

    tasks = len(anyio.get_running_tasks())
    with anyio.move_on_after(1) as scope:
        async with monitoring(Sandbox(balance=3), rules=[LowBalance(9)], notify=[slow]):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert rang == [2]
    assert len(anyio.get_running_tasks()) == tasks


class Direct:
    """A client without a road: what it is asked is answered, or refused by an error of its own."""

    def __init__(self, error: Callable[[], Exception] | None = None) -> None:
        self.error = error

    async def get_balance(self, *, max_attempts: int | None = None) -> BalanceReading:
        """Answer."""
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error()
        return reading()


@pytest.mark.parametrize(
    "error",
    [
        None,
        lambda: ServerError("down", status_code=503),
        lambda: AuthenticationError("refused", status_code=401),
        lambda: OddError("a", "b"),
    ],
    ids=["good", "outage", "refused", "bug"],
)
async def test_nothing_holds_it(error: Callable[[], Exception] | None) -> None:
    """M7: a monitor that is done is gone: no cycle, as by the traceback of an error, holds it."""

    async def use() -> weakref.ref[BalanceMonitor]:
        client = cast("BalanceClient", Direct(error))
        monitor = BalanceMonitor(client, rules=[LowBalance(9)], stale_after=5, notify=[Bell()])
        async with monitor, monitor.alerts():
            await anyio.sleep(10)
        return weakref.ref(monitor)

    with no_collection():
        gone = await use()
        await anyio.wait_all_tasks_blocked()
        assert gone() is None


@contextmanager
def no_collection() -> Generator[None]:
    """No cycle is collected meanwhile, and no log record holds the error that it shows."""
    gc.collect()
    gc.disable()
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


async def test_after_a_suspend(monkeypatch: pytest.MonkeyPatch) -> None:
    """W10, M3: two hours asleep in an hour's pause: it asks soon after, before it is `stale`."""
    boot_time = _clock.boot_time
    monkeypatch.setattr(
        _clock, "boot_time", lambda: boot_time() + (7200 if _clock.now() >= 100 else 0)
    )
    road, bell = Road(), Bell()
    async with monitoring(Sandbox(), road, interval=HOUR, stale_after=1.5 * HOUR, notify=[bell]):
        await anyio.sleep(130)
    assert len(road.times) == 2
    assert bell.rang == []


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": eager_loop})], ids=[""])
async def test_eager_tasks() -> None:
    """M8: where tasks begin at once, it begins and ends as ever."""
    sandbox, bell = Sandbox(balance=3), Bell()
    async with monitoring(sandbox, rules=[LowBalance(9)], stale_after=9, notify=[bell]) as monitor:
        assert (await monitor.get()).raw == "3.00"
    assert [kind for _, kind in bell.rang] == ["low"]


# Cancelled wherever it waits


async def by_get(monitor: BalanceMonitor) -> None:
    """A reading that was not there yet."""
    await monitor.get(max_age=0)


async def by_subscription(monitor: BalanceMonitor) -> None:
    """Two readings, as they come."""
    async with monitor.subscribe() as readings:
        await anext(readings)
        await anext(readings)


async def by_wait_for(monitor: BalanceMonitor) -> None:
    """A reading to come."""
    seen = monitor.state.reading
    await monitor.wait_for(lambda reading: reading is not seen)


@every_way
@pytest.mark.parametrize("use", [by_get, by_subscription, by_wait_for])
async def test_cancelled_wherever_it_waits(
    use: Callable[[BalanceMonitor], Any], *, native: bool
) -> None:
    """M5, M6, M9: cancelled at its k-th suspension, for every k, it leaves nothing behind."""
    road = Road()
    sandbox = Sandbox(script=[Fault(delay=0.002, times=1000)])
    async with monitoring(sandbox, road, interval=0.005) as monitor:
        await monitor.get()
        tasks, moment = len(anyio.get_running_tasks()), 1
        while await cancelled_at(moment, lambda: use(monitor), native=native):
            moment += 1
            assert monitor._readings == set()
            await monitor.get(max_age=0)
        assert moment > 1
        assert len(anyio.get_running_tasks()) == tasks
    assert road.most_in_flight == 1


@pytest.mark.parametrize("seed", range(3))
async def test_hours_of_chaos(seed: int) -> None:
    """M5, M6, M9: whatever everybody does for hours: one poll at a time, none early, no hang."""
    dice = random.Random(seed)
    faults = [Fault(503), Fault(429), Fault(401), Fault(200, body="{}"), Fault(delay=7), Fault()]
    script = [attrs.evolve(dice.choice(faults), times=dice.randint(1, 4)) for _ in range(40)]
    sandbox, road = Sandbox(script=script), Road()

    async def somebody(monitor: BalanceMonitor) -> None:
        while True:
            await anyio.sleep(dice.expovariate(1 / 600))
            with anyio.move_on_after(dice.choice([0, 1, 5, 60, 600])):
                try:
                    match dice.randrange(3):
                        case 0:
                            await monitor.get(dice.choice([None, 0, 10]))
                        case 1:
                            await subscribe(monitor, [])
                        case _:
                            await monitor.wait_for(dice.choice([1, 10_000]), spread=5)
                except DecaptchaError:
                    continue

    async with monitoring(sandbox, road, jitter=0.05) as monitor:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(somebody, monitor)
            await anyio.sleep(6 * HOUR)
            group.cancel_scope.cancel()
        assert monitor._readings == set()
        await anyio.sleep(HOUR)
        requests = sandbox.requests
        assert (await monitor.get()).raw == "1250.75"
        assert sandbox.requests == requests + 1
    assert road.most_in_flight == 1
    assert road.in_flight == 0
    assert requests > 150


# Over a real socket


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_over_a_real_socket() -> None:
    """M5, M7: over real sockets subscribers share readings, hear a refusal, and it heals."""
    good, refused = answer(), answer(b"{}", status="401 Unauthorized")
    async with serve(good, good, refused, refused, refused, good) as server:
        async with (
            BalanceClient(CANARY, base_url=server.base_url, middleware=[]) as client,
            BalanceMonitor(client, interval=0.02, jitter=0) as monitor,
        ):
            with pytest.raises(AuthenticationError):
                await subscribe(monitor, [])
            assert status(monitor) == "failed"
            assert (await monitor.wait_for("1250.75")).raw == "1250.75"
            assert status(monitor) == "ok"
        await server.idle()


async def test_after_a_refusal_no_reading_is_fresh() -> None:
    """M7: who comes to a failed monitor begins anew, however young the last reading is."""
    key = "sandbox"
    async with (
        sandbox_client(Sandbox(), api_key=lambda: key, middleware=[]) as client,
        BalanceMonitor(client, interval=10, jitter=0, max_age=3600) as monitor,
    ):
        await monitor.get()
        key = "wrong"
        async with monitor.subscribe() as readings:
            await anext(readings)
            with pytest.raises(AuthenticationError):
                await anext(readings)
        assert monitor.state.status == "failed"
        with pytest.raises(AuthenticationError):
            await monitor.get(max_age=3600)
        async with monitor.subscribe() as readings:
            with pytest.raises(AuthenticationError):
                await anext(readings)


async def test_a_reading_from_a_cache_teaches_nothing() -> None:
    """M1: one reading that a cache hands out thrice does not confirm itself."""
    sandbox = Sandbox(balance="5")
    rule = LowBalance(10, confirm=3)
    async with (
        sandbox_client(sandbox, middleware=[Coalesce(ttl=35)]) as client,
        BalanceMonitor(client, interval=10, jitter=0, rules=[rule]) as monitor,
        monitor.alerts() as alerts,
    ):
        await anext(alerts)
        assert sandbox.requests == 3
