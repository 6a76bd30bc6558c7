"""Interrupted wherever it waits: each middleware, a whole client, a watch; and long times."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from canary import CANARY
from fakes import Endpoint, Poll, call_of, cancelled_at, every_way, nothing_left, on_asyncio, plan
from wire import SILENT, Reply, answer, serve

from decaptcha_async import (
    BalanceClient,
    BalanceReading,
    Call,
    CircuitBreaker,
    Coalesce,
    Handler,
    Middleware,
    PollFailed,
    Retry,
    ServerError,
    SupportsWait,
    Timeout,
    _clock,
    default_middleware,
)
from decaptcha_async._chain import compose
from decaptcha_async._watch import watch
from decaptcha_async.sandbox import Fault, Sandbox
from decaptcha_async.testing import VirtualTimeLoop, sandbox_client

pytestmark = pytest.mark.anyio

A_LITTLE = 0.002
PATIENCE = 10.0
"""Seconds; real ones, but where a test says otherwise."""

Items = AsyncGenerator[BalanceReading | PollFailed, None] | AsyncGenerator[BalanceReading, None]


async def timed(call: Call, call_next: Handler) -> BalanceReading:
    """A user's own middleware, that waits before and after."""
    await anyio.lowlevel.checkpoint()
    reading = await call_next(call)
    await anyio.lowlevel.checkpoint()
    return reading


async def ask(handler: Handler, account: str = "one") -> BalanceReading:
    """Make a call."""
    return await handler(call_of(account))


# Middleware

LISTS: dict[str, tuple[Callable[[], Sequence[Middleware]], tuple[str | Exception, ...], int]] = {
    "function": (lambda: [timed], ("1",), 3),
    "timeout": (lambda: [Timeout(10), timed], ("1",), 3),
    "retry": (lambda: [Retry(backoff=[A_LITTLE])], (ServerError(), "1"), 3),
    "circuit-breaker": (lambda: [CircuitBreaker(), timed], ("1",), 3),
    "coalesce": (lambda: [Coalesce(ttl=5), timed], ("1",), 3),
    "all": (
        lambda: [
            Timeout(30),
            Coalesce(ttl=5),
            Retry(backoff=[A_LITTLE]),
            CircuitBreaker(),
            Timeout(10),
            timed,
        ],
        (ServerError(), "1"),
        6,
    ),
}
"""How to make each list; what the endpoint answers; how often a call is suspended at least."""


@every_way
@pytest.mark.parametrize(("layers", "script", "fewest"), LISTS.values(), ids=LISTS)
async def test_a_call_is_cancelled_wherever_it_waits(
    layers: Callable[[], Sequence[Middleware]],
    script: tuple[str | Exception, ...],
    fewest: int,
    *,
    native: bool,
) -> None:
    """R1: a call ends by its cancellation alone; nothing is left, and the next is a fresh one."""
    middleware = layers()
    tasks = len(anyio.get_running_tasks())
    for moment in itertools.count(1):
        endpoint = Endpoint(*script)
        call = partial(ask, compose(middleware, endpoint), f"account {moment}")
        if not await cancelled_at(moment, call, native=native):
            assert moment > fewest
            return
        assert endpoint.in_flight == 0
        assert len(anyio.get_running_tasks()) == tasks
        with anyio.fail_after(PATIENCE):
            reading = await call()
        assert (reading.raw, reading.source) == ("1", "network")


@every_way
async def test_a_probe_is_cancelled_wherever_it_waits(*, native: bool) -> None:
    """R9, R1: a cancelled probe of a half-open circuit leaves its place to the next call."""
    breaker = CircuitBreaker(1, cooldown=A_LITTLE)
    probe = partial(ask, compose([breaker, timed], Endpoint("1")))
    for moment in itertools.count(1):
        with pytest.raises(ServerError):
            await ask(compose([breaker], Endpoint(ServerError())))
        await anyio.sleep(5 * A_LITTLE)
        if not await cancelled_at(moment, probe, native=native):
            assert moment > 3
            return
        state = breaker.state
        await probe()
        assert (state, breaker.state) == ("half_open", "closed")


async def coalesced(*, native: bool, leads: bool, moment: int) -> tuple[bool, list[str], int]:
    """Three callers wait while one leads; one is cancelled, the leading one or a fourth to wait.

    Whether it came to that, where the other readings came from, and the number of requests.
    """
    coalesce = Coalesce()
    endpoint = Endpoint("1")
    under_way = anyio.Event()
    sources: list[str] = []

    async def announced(call: Call, call_next: Handler) -> BalanceReading:
        under_way.set()
        await anyio.sleep(10 * A_LITTLE)
        return await call_next(call)

    call = partial(ask, compose([coalesce, announced], endpoint))

    async def other(*, first: bool) -> None:
        if not first:
            await under_way.wait()
        sources.append((await call()).source)

    came_to_that = False
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(partial(other, first=number == 0 and not leads))
            if not leads:
                await under_way.wait()
            came_to_that = await cancelled_at(moment, call, native=native)
    assert endpoint.in_flight == 0
    assert (await call()).source == "network"
    return came_to_that, sorted(sources), len(endpoint.asked) - 1


@every_way
async def test_a_leader_is_cancelled_wherever_it_waits(*, native: bool) -> None:
    """R10, R1: a cancelled leader ends alone: of those who wait one leads, all get a reading."""
    for moment in itertools.count(1):
        came_to_that, sources, requests = await coalesced(native=native, leads=True, moment=moment)
        if not came_to_that:
            assert (moment, sources, requests) == (3, ["coalesced"] * 3, 1)
            return
        assert sources == ["coalesced", "coalesced", "network"]
        assert requests == moment  # The leader is first suspended on its way to the endpoint.


@every_way
async def test_a_follower_is_cancelled_wherever_it_waits(*, native: bool) -> None:
    """R10, R1: a cancelled follower ends alone: the leader and the others know nothing of it."""
    for moment in itertools.count(1):
        came_to_that, sources, requests = await coalesced(native=native, leads=False, moment=moment)
        assert (sources, requests) == (["coalesced", "coalesced", "network"], 1)
        if not came_to_that:
            assert moment > 1
            return


@every_way
async def test_a_client_is_cancelled_wherever_it_waits(*, native: bool) -> None:
    """R1: a whole client with every middleware, above a service that fails once, is as good."""
    make, _, fewest = LISTS["all"]
    middleware = make()
    tasks = len(anyio.get_running_tasks())
    faults = [Fault(503, delay=A_LITTLE), Fault(delay=A_LITTLE)]
    for moment in itertools.count(1):
        sandbox = Sandbox(api_key=f"{CANARY}-{moment}", script=faults)
        async with sandbox_client(sandbox, middleware=middleware) as client:
            if not await cancelled_at(moment, client.get_balance, native=native):
                assert moment > fewest
                return
            requests = sandbox.requests
            assert len(anyio.get_running_tasks()) == tasks
            reading = await client.get_balance()
            assert (reading.raw, reading.source) == ("1250.75", "network")
            assert sandbox.requests - requests in {1, 2}


async def test_cancelled_as_the_attempt_fails() -> None:
    """R1, R4: an error that comes with the cancellation does not go before it: no time is left."""

    async def endpoint(call: Call) -> BalanceReading:
        scope.cancel()
        raise ServerError

    with anyio.CancelScope() as scope:
        await ask(compose([Retry(backoff=[0])], endpoint))
    assert scope.cancelled_caught


# A watch


with_and_without_stop = pytest.mark.parametrize(
    "make_stop",
    [pytest.param(lambda: None, id="without-stop"), pytest.param(anyio.Event, id="stop")],
)
MakeStop = Callable[[], SupportsWait | None]


async def take(watching: Items, most: int, *, dawdling: float = 0) -> list[float]:
    """The amounts of so many items, with a body that waits too, and then closing."""
    amounts: list[float] = []
    async with aclosing(watching):
        async for item in watching:
            await anyio.sleep(dawdling)
            amounts.append(float(item.amount) if isinstance(item, BalanceReading) else -1)
            if len(amounts) == most:
                break
    return amounts


@every_way
@with_and_without_stop
async def test_a_watch_is_cancelled_wherever_it_waits(make_stop: MakeStop, *, native: bool) -> None:
    """W9, W4: no poll is left in flight, no task, no poll to come; nor were there ever two."""
    tasks = len(anyio.get_running_tasks())
    for moment in itertools.count(1):
        poll = Poll("1", ServerError(), ServerError(), "2")
        watched = watch(poll, plan(3 * A_LITTLE, on_error="yield", stop=make_stop()))
        came_to_that = await cancelled_at(moment, partial(take, watched, 5), native=native)
        assert poll.in_flight == 0
        assert poll.most_in_flight <= 1
        assert len(anyio.get_running_tasks()) == tasks
        polls = len(poll.asked)
        await anyio.sleep(5 * A_LITTLE)
        assert len(poll.asked) == polls
        if not came_to_that:
            assert moment > 12
            return


@every_way
async def test_a_watch_leaves_no_connection(*, native: bool) -> None:
    """W9: on real sockets too, wherever it is cancelled, every connection is closed at once."""
    async with (
        nothing_left(),
        serve() as server,
        BalanceClient(CANARY, base_url=server.base_url, middleware=[]) as client,
    ):
        for moment in itertools.count(1):
            watched = client.watch(A_LITTLE, jitter=0, stop=anyio.Event())
            work = partial(take, watched, 2)
            came_to_that = await cancelled_at(moment, work, native=native, shielded=True)
            await server.idle()
            if not came_to_that:
                assert moment > 12
                assert server.most_open == 1
                return


async def test_a_slow_consumer_of_a_slow_service() -> None:
    """W4: body and answer both longer than the interval: one connection at a time, none between."""
    slow = Reply(answer().data, pause=3 * A_LITTLE)
    async with (
        serve(slow) as server,
        BalanceClient(CANARY, base_url=server.base_url, middleware=[]) as client,
        aclosing(client.watch(A_LITTLE, jitter=0)) as watching,
    ):
        for count in range(1, 5):
            await anext(watching)
            await server.idle()
            await anyio.sleep(3 * A_LITTLE)
            assert (server.connections, len(server.requests)) == (count, count)
        assert server.most_open == 1


@pytest.mark.parametrize("requests", [0, 1, 2], ids=["at-once", "in-a-pause", "in-a-poll"])
async def test_a_stopped_watch_leaves_no_connection(requests: int) -> None:
    """W8, W9: set already, in a pause or in a poll, `stop` ends it and closes the connection."""
    stop = anyio.Event()
    if not requests:
        stop.set()
    async with (
        nothing_left(),
        serve(answer(), SILENT) as server,
        BalanceClient(CANARY, base_url=server.base_url, middleware=[]) as client,
        anyio.create_task_group() as group,
    ):
        interval = A_LITTLE if requests == 2 else 3600
        group.start_soon(take, client.watch(interval, jitter=0, stop=stop), 2)
        await server.asked(requests)
        if requests == 1:
            await server.idle()
            await anyio.wait_all_tasks_blocked()
        stop.set()
        await server.idle()
    assert len(server.requests) == requests


@on_asyncio
async def test_abandoned_in_a_cycle() -> None:
    """W9: left by `break` and forgotten, a watch is closed by the garbage collector."""
    poll = Poll("1")
    tasks = asyncio.all_tasks()
    watching = watch(poll, plan())
    cycle: list[object] = [watching]
    cycle.append(cycle)
    await anext(watching)
    del watching, cycle
    gc.collect()
    await anyio.sleep(100)
    assert asyncio.all_tasks() == tasks
    assert len(poll.asked) == 1


def test_abandoned_until_the_loop_ends() -> None:
    """W9: a watch that is still referred to when `asyncio.run` ends is closed by it, in silence."""
    poll = Poll("1")
    watching = watch(poll, plan(stop=asyncio.Event()))

    async def main() -> None:
        await anext(watching)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
    with pytest.raises(StopAsyncIteration):
        watching.asend(None).send(None)
    assert (len(poll.asked), poll.in_flight) == (1, 0)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_abandoned_on_trio() -> None:
    """W9: trio closes it too, and says by a ResourceWarning of its own that it had to."""
    poll = Poll("1")
    watching = [watch(poll, plan(A_LITTLE))]
    await anext(watching[0])
    with pytest.warns(ResourceWarning, match="garbage collected"):
        watching.clear()
    await anyio.sleep(5 * A_LITTLE)
    assert (len(poll.asked), poll.in_flight) == (1, 0)


# Long times

DAY = 86_400
OUTAGE = range(2 * 3600, 2 * 3600 + 1800)


def noting(times: list[float], fails: Callable[[float], bool]) -> Middleware:
    """Innermost, it notes when the endpoint is asked, and fails when it is told to."""

    async def endpoint(call: Call, call_next: Handler) -> BalanceReading:
        times.append(anyio.current_time())
        if fails(times[-1]):
            raise ServerError
        return await call_next(call)

    return endpoint


async def watch_for(seconds: float, middleware: Sequence[Middleware], interval: float) -> None:
    """A client and a watch without jitter, for so many seconds."""
    async with sandbox_client(Sandbox(), middleware=middleware) as client:
        with anyio.move_on_after(seconds):
            await take(client.watch(interval, jitter=0), DAY)


def astray(times: list[float], interval: float) -> float:
    """The most seconds by which one of them is off ``interval``, as counted from the first."""
    return max(abs(now - times[0] - interval * number) for number, now in enumerate(times))


@pytest.mark.virtual_time
async def test_a_day_with_an_outage() -> None:
    """W2, W3, W5: asked each minute, but from 02:00 to 02:30, when it fails, as W5 has it."""
    times: list[float] = []
    noted = noting(times, lambda now: OUTAGE.start <= now < OUTAGE.stop)
    began = time.monotonic()
    await watch_for(DAY, [*default_middleware(), noted], 60)
    assert time.monotonic() - began < 30

    before = [moment for moment in times if moment < OUTAGE.start]
    failed = [moment for moment in times if OUTAGE.start <= moment < OUTAGE.stop]
    after = [moment for moment in times if moment >= OUTAGE.stop]
    assert (before[0], len(before)) == (0, 120)
    assert failed[0] == pytest.approx(OUTAGE.start)
    # The first poll that failed made four attempts; each probe makes one.
    assert failed[3] - failed[0] <= 0.5 + 1 + 2
    gaps = itertools.pairwise([*failed[3:], after[0]])
    by_rule = itertools.chain([(60, 90), (60, 120), (120, 240)], itertools.repeat((150, 300)))
    for (earlier, later), (least, most) in zip(gaps, by_rule, strict=False):
        assert least - 1e-6 <= later - earlier <= most + 1e-6
    assert max(astray(before, 60), astray(after, 60)) < 1e-6
    assert DAY - 60 <= after[-1] <= DAY


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "service_fails", [False, True], ids=["in-a-pause", "between-two-probes-of-an-outage"]
)
async def test_suspended_for_a_night(
    monkeypatch: pytest.MonkeyPatch, *, service_fails: bool
) -> None:
    """W10: eight hours asleep: the next poll comes within 30 s of waking, and as ever after it."""
    times: list[float] = []
    falls_asleep = 1905
    monkeypatch.setattr(
        _clock,
        "boot_time",
        lambda: time.monotonic() + (8 * 3600 if _clock.now() >= falls_asleep else 0),
    )
    noted = noting(times, lambda now: service_fails and 0 < now < falls_asleep)
    await watch_for(5 * 3600, [noted], 900)
    woken = [moment for moment in times if moment > falls_asleep]
    assert woken[0] - falls_asleep <= 30
    assert astray(woken, 900) < 1e-6
    assert len(woken) == 18
