"""`Coalesce`: one request for many callers, whose deadlines and errors stay their own."""

from __future__ import annotations

import asyncio
import functools
import gc
import math
import weakref
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs
import pytest
from fakes import Endpoint, call_of, interrupted, on_asyncio

from decaptcha_async import (
    AuthenticationError,
    BalanceReading,
    Call,
    ClientClosedError,
    Coalesce,
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    Handler,
    Middleware,
    RateLimitedError,
    Retry,
    ServerError,
    Timeout,
    TransportError,
    _clock,
)
from decaptcha_async._chain import compose
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client, virtual_backend

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@pytest.fixture(autouse=True)
def _boot_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would count the real microseconds of the test.
    monkeypatch.setattr(_clock, "boot_time", lambda: 0.0)


@pytest.fixture
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@attrs.define
class Callers:
    """Callers of one handler, and what each of them got, in the order in which they got it."""

    handler: Handler
    readings: list[BalanceReading] = attrs.field(factory=list[BalanceReading])
    errors: list[DecaptchaError] = attrs.field(factory=list[DecaptchaError])
    times: list[float] = attrs.field(factory=list[float])

    async def ask(
        self,
        account: str = "one",
        *,
        within: float = math.inf,
        max_attempts: int | None = None,
    ) -> None:
        """One call, whose caller allows it so many seconds."""
        call = call_of(account, max_attempts=max_attempts)
        try:
            with anyio.fail_after(within):
                self.readings.append(await self.handler(call))
        except DecaptchaError as error:
            self.errors.append(error)
        except TimeoutError:
            self.errors.append(DeadlineExceededError("the caller's own"))
        self.times.append(anyio.current_time())

    async def ask_together(self, count: int, *, apart: float = 0.0, within: float = 0.0) -> None:
        """So many calls at once, each next of which has a little more time than the one before."""
        async with anyio.create_task_group() as group:
            for number in range(count):
                limit = within + number * apart if within else math.inf
                group.start_soon(functools.partial(self.ask, within=limit))

    @property
    def sources(self) -> Counter[str]:
        """Where the readings came from."""
        return Counter(reading.source for reading in self.readings)


async def fail(call: Call) -> NoReturn:
    """Fail after a second, each time with an error of its own."""
    await anyio.sleep(1)
    raise ServerError


@pytest.mark.parametrize("count", [1, 2, 100])
async def test_calls_at_the_same_time_share_a_request(count: int) -> None:
    """R10: n concurrent calls of one account make 1 request and have one reading."""
    endpoint = Endpoint("3.20", takes=2)
    callers = Callers(compose([Coalesce()], endpoint))
    await callers.ask_together(count)
    assert len(endpoint.asked) == 1
    assert callers.times == [2] * count
    assert callers.sources == Counter(network=1, coalesced=count - 1)
    assert all(reading == callers.readings[0] for reading in callers.readings)


async def test_who_comes_late_joins() -> None:
    """R10: a call joins the one under way at any moment until it has landed."""
    endpoint = Endpoint("1", takes=5)
    callers = Callers(compose([Coalesce()], endpoint))
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(callers.ask)
            await anyio.sleep(1)
    assert len(endpoint.asked) == 1
    assert callers.times == [5] * 5


async def test_calls_one_after_another_share_nothing() -> None:
    """R10: without a `ttl` a reading is not handed out again, and nothing is kept."""
    coalesce, endpoint = Coalesce(), Endpoint("1", "2")
    first, second = [await coalesce(call_of(), endpoint) for _ in range(2)]
    assert (first.raw, second.raw) == ("1", "2")
    assert (first.source, second.source) == ("network", "network")
    assert not coalesce._flights
    assert not coalesce._kept


async def test_accounts_are_kept_apart() -> None:
    """R10: calls of two accounts at the same time are two requests."""
    endpoint = Endpoint("1", "2", takes=2)
    callers = Callers(compose([Coalesce(ttl=60)], endpoint))
    async with anyio.create_task_group() as group:
        for account in ("poor", "rich", "poor", "rich"):
            group.start_soon(callers.ask, account)
    assert sorted(asked.account for asked in endpoint.asked) == ["poor", "rich"]
    assert Counter(reading.raw for reading in callers.readings) == {"1": 2, "2": 2}


async def test_the_leader_asks_in_its_own_task() -> None:
    """R10: nothing is spawned, so context, cancellation and traceback are the caller's."""
    tasks: list[tuple[int, int]] = []

    async def endpoint(call: Call) -> BalanceReading:
        await anyio.sleep(1)
        tasks.append((anyio.get_current_task().id, len(anyio.get_running_tasks())))
        return await Endpoint("1")(call)

    here = anyio.get_current_task().id, len(anyio.get_running_tasks())
    call = call_of()
    await Coalesce()(call, endpoint)
    assert tasks == [here]


async def test_fifty_followers_of_a_cancelled_leader() -> None:
    """R10: exactly 1 more request, 50 readings, and none of them is cancelled."""
    endpoint = Endpoint("1", takes=5)
    callers, leader = Callers(compose([Coalesce()], endpoint)), anyio.CancelScope()

    async def lead() -> None:
        with leader:
            await callers.ask()

    async with anyio.create_task_group() as group:
        group.start_soon(lead)
        await anyio.sleep(1)
        for _ in range(50):
            group.start_soon(callers.ask)
        await anyio.sleep(1)
        leader.cancel()
    assert leader.cancelled_caught
    assert endpoint.times == [0, 2]
    assert callers.times == [7] * 50
    assert callers.sources == Counter(network=1, coalesced=49)


@on_asyncio
async def test_fifty_followers_of_a_task_that_asyncio_cancels() -> None:
    """R10, R1: `Task.cancel()` and `asyncio.timeout` of a leader end its call alone."""
    endpoint = Endpoint("1", takes=5)
    callers = Callers(compose([Coalesce()], endpoint))

    async def hurried() -> None:
        async with asyncio.timeout(3):
            await callers.ask()

    first = asyncio.create_task(callers.ask())
    await anyio.sleep(1)
    second = asyncio.create_task(hurried())
    await anyio.lowlevel.checkpoint()
    followers = [asyncio.create_task(callers.ask()) for _ in range(50)]
    await anyio.sleep(1)
    first.cancel()
    await asyncio.gather(*followers)
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(TimeoutError):
        await second
    assert endpoint.times == [0, 2, 4]
    assert callers.sources == Counter(network=1, coalesced=49)


async def test_leaders_cancelled_one_after_another() -> None:
    """R10: each time one follower leads, until one has a reading for all who are left."""
    scopes: dict[int, anyio.CancelScope] = {}
    asked = 0

    async def endpoint(call: Call) -> BalanceReading:
        nonlocal asked
        asked += 1
        if asked <= 5:
            scopes[anyio.get_current_task().id].cancel()
        return await Endpoint("1", takes=1)(call)

    callers = Callers(compose([Coalesce()], endpoint))

    async def ask() -> None:
        with anyio.CancelScope() as scope:
            scopes[anyio.get_current_task().id] = scope
            await callers.ask()

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(ask)
    assert asked == 6
    assert sum(scope.cancelled_caught for scope in scopes.values()) == 5
    assert callers.sources == Counter(network=1, coalesced=14)
    assert callers.times == [1] * 15


async def test_a_follower_that_leaves_takes_nothing_along() -> None:
    """R10: a follower's own deadline and cancellation end its waiting and nothing else."""
    endpoint = Endpoint("1", takes=5)
    callers = Callers(compose([Coalesce()], endpoint))
    hurried = Callers(compose([Timeout(2)], callers.handler))
    async with anyio.create_task_group() as group:
        group.start_soon(callers.ask)
        await anyio.sleep(1)
        group.start_soon(hurried.ask)
        group.start_soon(callers.ask)
    assert [type(error) for error in hurried.errors] == [DeadlineExceededError]
    assert hurried.times == [3]
    assert len(endpoint.asked) == 1
    assert callers.sources == Counter(network=1, coalesced=1)


@pytest.mark.parametrize("moment", [1, 2])
async def test_cancelled_at_any_moment(moment: int) -> None:
    """R1: a leading call is cancelled wherever it is suspended, and leaves no flight behind."""
    coalesce = Coalesce(ttl=5)

    async def endpoint(call: Call) -> BalanceReading:
        await anyio.sleep(1)
        return await Endpoint("1", takes=1)(call)

    with anyio.CancelScope() as scope:
        await interrupted(coalesce(call_of(), endpoint), moment, scope.cancel)
    assert scope.cancelled_caught
    assert not coalesce._flights
    assert not coalesce._kept


@pytest.mark.parametrize("use", ["follow", "cache"])
async def test_cancelled_while_there_is_nothing_to_ask(use: str) -> None:
    """R1: a call that waits for another, or is answered from the cache, can be cancelled."""
    coalesce, endpoint = Coalesce(ttl=5), Endpoint("1", takes=3)
    async with anyio.create_task_group() as group:
        group.start_soon(coalesce, call_of(), endpoint)
        await anyio.sleep(1 if use == "follow" else 4)
        with anyio.CancelScope() as scope:
            await interrupted(coalesce(call_of(), endpoint), 1, scope.cancel)
        assert scope.cancelled_caught
    assert len(endpoint.asked) == 1


async def test_each_caller_has_its_own_error() -> None:
    """R10: the error of the leader reaches all, as objects of their own that tell the same."""
    endpoint = Endpoint(RateLimitedError("slow down", retry_after=7.5, message="no"), takes=2)
    callers = Callers(compose([Coalesce(), Retry(3, max_retry_after=1)], endpoint))
    await callers.ask_together(5)
    assert len(endpoint.asked) == 1
    assert len({id(error) for error in callers.errors}) == 5
    for error in callers.errors:
        assert isinstance(error, RateLimitedError)
        assert str(error) == "slow down"
        assert vars(error) == vars(callers.errors[0])
        assert (error.retry_after, error.gave_up) == (7.5, "retry_after")
        assert error.__context__ is None
        assert error.__cause__ is None


def frames_of(error: DecaptchaError) -> set[int]:
    """The frames that an error's traceback holds."""
    frames: set[int] = set()
    trace = error.__traceback__
    while trace is not None:
        frames.add(id(trace.tb_frame))
        trace = trace.tb_next
    return frames


async def test_no_traceback_is_shared() -> None:
    """R10: an error holds the frames of its own caller, and none of anybody else's."""
    callers = Callers(compose([Coalesce()], fail))
    await callers.ask_together(5)
    assert len(callers.errors) == 5
    seen = [frame for error in callers.errors for frame in frames_of(error)]
    assert len(seen) == len(set(seen)) > 5


@pytest.mark.usefixtures("_no_garbage_collection")
async def test_no_reference_cycle() -> None:
    """R10, R5: an error that was handled is gone at once, the leader's and the followers'."""
    handler = compose([Coalesce()], fail)
    seen: list[weakref.ref[DecaptchaError]] = []

    async def ask() -> None:
        try:
            await handler(call_of())
        except DecaptchaError as error:
            seen.append(weakref.ref(error))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)
    assert [alive() for alive in seen] == [None] * 5


async def test_a_common_failure_costs_the_attempts_of_one() -> None:
    """R10: 50 callers of a failing service make the 4 requests of one call, not 200."""
    endpoint = Endpoint(ServerError(), takes=0.1)
    callers = Callers(compose([Coalesce(), Retry(4, budget=None)], endpoint))
    await callers.ask_together(50)
    assert len(endpoint.asked) == 4
    assert {len(error.earlier_attempts) for error in callers.errors} == {3}
    assert {error.gave_up for error in callers.errors} == {"attempts"}


@pytest.mark.parametrize(
    "error", [AuthenticationError(), ServerError(), TransportError()], ids=repr
)
async def test_a_common_failure_without_a_retry(error: DecaptchaError) -> None:
    """R10: a failure at once costs 1 request, whatever time each of the callers had left."""
    endpoint = Endpoint(error)
    callers = Callers(compose([Coalesce()], endpoint))
    await callers.ask_together(50, within=5, apart=0.001)
    assert len(endpoint.asked) == 1
    assert len(callers.errors) == 50


async def test_nearly_equal_deadlines_do_not_thunder() -> None:
    """R10: 50 callers whose deadlines are a millisecond apart make hardly more requests than one.

    The first gives up a wait that does not fit its deadline but fits the next; who leads then goes
    on for one wait, and gives up for all.
    """
    endpoint = Endpoint(ServerError())
    callers = Callers(compose([Coalesce(), Retry(100, backoff=[1] * 99, budget=None)], endpoint))
    await callers.ask_together(50, within=5, apart=0.001)
    assert len(endpoint.asked) <= 7
    assert anyio.current_time() <= 5
    assert len(callers.errors) == 50


async def test_nearly_equal_deadlines_and_random_waits() -> None:
    """R10: nor with the default backoff, over 20 outages: less than twice what one call makes."""
    requests: list[int] = []
    for count in (1, 50):
        endpoint = Endpoint(ServerError(), takes=0.01)
        callers = Callers(compose([Coalesce(), Retry(100, budget=None)], endpoint))
        for _ in range(20):
            await callers.ask_together(count, within=20, apart=0.001)
        requests.append(len(endpoint.asked))
    alone, together = requests
    assert together < 2 * alone


async def test_one_deadline_for_all_and_a_silent_service() -> None:
    """R10: callers whose deadlines are the same are not asked to lead when these are over."""
    endpoint = Endpoint("1", takes=math.inf)
    layers: list[Middleware] = [Timeout(30), Coalesce(), Retry(4, backoff=[1] * 3), Timeout(10)]
    callers = Callers(compose(layers, endpoint))
    await callers.ask_together(50)
    assert callers.times == [30] * 50
    assert {type(error) for error in callers.errors} == {DeadlineExceededError}
    assert endpoint.times == [0, 11, 22]


async def test_a_leader_whose_timeout_is_shorter() -> None:
    """R10: what the leader's own Timeout ends goes on for the others."""
    endpoint = Endpoint("1", takes=8)
    coalesce = Coalesce()
    hurried = Callers(compose([Timeout(5), coalesce], endpoint))
    callers = Callers(compose([Timeout(30), coalesce], endpoint))
    async with anyio.create_task_group() as group:
        group.start_soon(hurried.ask)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(callers.ask_together, 10)
    assert [type(error) for error in hurried.errors] == [DeadlineExceededError]
    assert endpoint.times == [0, 5]
    assert callers.times == [13] * 10
    assert callers.sources == Counter(network=1, coalesced=9)


async def led(callers: Callers, leader: Any, *followers: Any) -> None:
    """Let the first of these calls lead, and the others follow."""
    async with anyio.create_task_group() as group:
        for arguments in (leader, *followers):
            group.start_soon(functools.partial(callers.ask, **arguments))
            await anyio.wait_all_tasks_blocked()


async def test_a_leader_that_has_no_time_for_the_next_attempt() -> None:
    """R10: a Retry gives up for the leader's deadline; a follower with more time tries instead."""
    endpoint = Endpoint(ServerError(), ServerError(), ServerError(), "1")
    callers = Callers(compose([Coalesce(), Retry(9, backoff=[3] * 8)], endpoint))
    await led(callers, {"within": 5}, {}, {"within": 60}, {})
    assert [error.gave_up for error in callers.errors] == ["deadline"]
    assert endpoint.times == [0, 3, 3, 6]
    assert callers.sources == Counter(network=1, coalesced=2)


async def test_followers_without_time_for_the_next_attempt_either() -> None:
    """R10: then the failure is theirs, too, and costs no further request."""
    endpoint = Endpoint(ServerError())
    callers = Callers(compose([Coalesce(), Retry(9, backoff=[3] * 8)], endpoint))
    await led(callers, {"within": 5}, {"within": 5.3}, {"within": 5.6})
    assert endpoint.times == [0, 3]
    assert callers.times == [3] * 3
    assert [error.gave_up for error in callers.errors] == ["deadline"] * 3


@pytest.mark.parametrize("inner", [Timeout(5), Timeout(4.9)], ids=repr)
async def test_a_deadline_inside_is_common(inner: Timeout) -> None:
    """R10: a Timeout between Coalesce and Retry limits all callers alike: it fails them all."""
    endpoint = Endpoint(ServerError())
    callers = Callers(compose([Coalesce(), inner, Retry(9, backoff=[3] * 8)], endpoint))
    await led(callers, {}, {}, {"within": 60})
    assert endpoint.times == [0, 3]
    assert [error.gave_up for error in callers.errors] == ["deadline"] * 3


@pytest.mark.parametrize("most", [None, 1], ids=["any-attempts", "one-attempt"])
@pytest.mark.parametrize("takes", [4.9, 4.95, 5 - 1e-9])
async def test_phase_timeouts_just_before_the_leaders_deadline(
    takes: float, most: int | None
) -> None:
    """R10, C4: an injected client times out just inside the time left: still the leader's alone."""
    endpoint = Endpoint(DeadlineExceededError(phase="receive"), "1", takes=takes)
    callers = Callers(compose([Coalesce(), Retry(9, backoff=[3] * 8)], endpoint))
    follower = {"within": 60, "max_attempts": most}
    await led(callers, {"within": 5, "max_attempts": most}, follower, follower)
    assert [type(error) for error in callers.errors] == [DeadlineExceededError]
    assert len(endpoint.asked) == 2
    assert callers.sources == Counter(network=1, coalesced=1)


async def test_phase_timeouts_long_before_any_deadline() -> None:
    """R10: a service too slow for everybody has failed everybody."""
    endpoint = Endpoint(DeadlineExceededError(phase="connect"), takes=4.5)
    callers = Callers(compose([Coalesce()], endpoint))
    await led(callers, {"within": 5}, {}, {"within": 60})
    assert len(endpoint.asked) == 1
    assert len(callers.errors) == 3


async def test_a_leader_that_may_try_once() -> None:
    """R10, W5: a probe's single attempt fails the other probes, not who may try more often."""
    endpoint = Endpoint(ServerError(), ServerError(), "1", takes=1)
    callers = Callers(compose([Coalesce(), Retry(3, backoff=[1, 1])], endpoint))
    probe = {"max_attempts": 1}
    await led(callers, probe, probe, {}, {"max_attempts": 2}, probe)
    assert [error.gave_up for error in callers.errors] == ["attempts"] * 3
    assert endpoint.times == [0, 1, 3]
    assert [asked.max_attempts == 1 for asked in endpoint.asked] == [True, False, False]
    assert callers.sources == Counter(network=1, coalesced=1)


async def test_followers_that_may_try_no_more_often() -> None:
    """R10: a limit that all callers share makes a common failure."""
    endpoint = Endpoint(ServerError(), takes=1)
    callers = Callers(compose([Coalesce(), Retry(9, backoff=[1] * 8)], endpoint))
    await led(callers, {"max_attempts": 2}, {"max_attempts": 2}, {"max_attempts": 1})
    assert len(endpoint.asked) == 2
    assert len(callers.errors) == 3


@pytest.mark.parametrize(
    "error", [ClientClosedError(), ConfigurationError()], ids=lambda error: type(error).__name__
)
async def test_a_leader_whose_client_is_unusable(error: DecaptchaError) -> None:
    """R10: of two clients of one account, one that is closed does not fail the other."""
    endpoint = Endpoint(error, "1", takes=1)
    callers = Callers(compose([Coalesce()], endpoint))
    await callers.ask_together(3)
    assert callers.errors == [error]
    assert len(endpoint.asked) == 2
    assert callers.sources == Counter(network=1, coalesced=1)


async def test_a_foreign_error_is_the_leaders_alone() -> None:
    """R10: what is not ours cannot be copied in good faith; who waited asks instead."""
    endpoint = Endpoint(LookupError("theirs"), "1", takes=1)
    callers = Callers(compose([Coalesce()], endpoint))
    async with anyio.create_task_group() as group:

        async def lead() -> None:
            with pytest.raises(LookupError, match="theirs"):
                await callers.ask()

        group.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(callers.ask_together, 3)
    assert len(endpoint.asked) == 2
    assert callers.sources == Counter(network=1, coalesced=2)


async def test_a_reading_is_handed_out_again_until_it_expires() -> None:
    """R10, R13: for `ttl` seconds from when it came, by the loop's clock, as `source="cache"`."""
    coalesce, endpoint = Coalesce(ttl=5), Endpoint("1", "2", takes=2)
    first = await coalesce(call_of(), endpoint)
    await anyio.sleep(4.999)
    again = await coalesce(call_of(), endpoint)
    assert anyio.current_time() == 6.999
    assert (first.source, again.source) == ("network", "cache")
    assert again == first
    await anyio.sleep(0.001)
    anew = await coalesce(call_of(), endpoint)
    assert (anew.raw, anew.source) == ("2", "network")
    assert len(endpoint.asked) == 2


async def test_a_kept_reading_does_not_grow_younger() -> None:
    """R10: handing a reading out again does not prolong its time."""
    coalesce, endpoint = Coalesce(ttl=timedelta(seconds=5)), Endpoint("1", "2")
    for _ in range(5):
        assert (await coalesce(call_of(), endpoint)).raw == "1"
        await anyio.sleep(1)
    assert (await coalesce(call_of(), endpoint)).raw == "2"


async def test_errors_are_not_kept() -> None:
    """R10: after a failure the next call asks, however long the `ttl`."""
    coalesce, endpoint = Coalesce(ttl=3600), Endpoint(ServerError(), "1")
    with pytest.raises(ServerError):
        await coalesce(call_of(), endpoint)
    assert (await coalesce(call_of(), endpoint)).source == "network"


async def test_an_expired_reading_is_not_brought_back() -> None:
    """R10: an expired reading does not stand in for a failure."""
    coalesce, endpoint = Coalesce(ttl=5), Endpoint("1", ServerError())
    await coalesce(call_of(), endpoint)
    await anyio.sleep(5)
    for _ in range(2):
        with pytest.raises(ServerError):
            await coalesce(call_of(), endpoint)
    assert len(endpoint.asked) == 3


async def test_kept_accounts_do_not_pile_up() -> None:
    """R10: accounts that come and go are forgotten when their readings have expired."""
    coalesce, endpoint = Coalesce(ttl=5), Endpoint("1")
    for number in range(1000):
        await coalesce(call_of(f"{number}"), endpoint)
        assert len(coalesce._kept) <= 5
        await anyio.sleep(1)
    assert list(coalesce._kept) == ["995", "996", "997", "998", "999"]
    assert not coalesce._flights


async def test_an_account_that_is_asked_again_moves_to_the_end() -> None:
    """R10: the oldest reading is looked at first, so one that is renewed hides none behind it."""
    coalesce, endpoint = Coalesce(ttl=5), Endpoint("1")
    for account, pause in [("often", 3), ("once", 3), ("often", 3), ("new", 0)]:
        await coalesce(call_of(account), endpoint)
        await anyio.sleep(pause)
    assert list(coalesce._kept) == ["often", "new"]


async def test_who_asks_again_at_once_does_not_stop_the_rest() -> None:
    """R10: a loop around the cache lets other tasks run, and time go on."""
    coalesce, endpoint = Coalesce(ttl=5), Endpoint("1")
    answered = 0

    async def insist() -> None:
        nonlocal answered
        while answered < 100:
            await coalesce(call_of(), endpoint)
            answered += 1

    async with anyio.create_task_group() as group:
        group.start_soon(insist)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert 0 < answered < 100
    assert len(endpoint.asked) == 1


async def test_one_list_two_clients_two_keys() -> None:
    """R10, R1: one middleware list with `ttl=60` behind two keys gives two amounts."""
    layers: list[Middleware] = [Timeout(30), Coalesce(ttl=60), Retry(4), Timeout(10)]
    poor, rich = Sandbox(balance="1", api_key="poor"), Sandbox(balance="1000", api_key="rich")
    amounts: list[Decimal] = []
    async with (
        sandbox_client(poor, middleware=layers) as first,
        sandbox_client(rich, middleware=layers) as second,
    ):

        async def ask() -> None:
            amounts.append((await first.get_balance()).amount)
            amounts.append((await second.get_balance()).amount)

        for _ in range(3):
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                group.start_soon(ask)
    assert Counter(amounts) == {Decimal(1): 6, Decimal(1000): 6}
    assert (poor.requests, rich.requests) == (1, 1)


async def test_one_list_two_clients_two_hosts() -> None:
    """R10: the same key at another base URL is another account."""
    layers = [Coalesce(ttl=60)]
    here, there = Sandbox(balance="1"), Sandbox(balance="1000")
    async with (
        sandbox_client(here, middleware=layers) as first,
        sandbox_client(there, middleware=layers, base_url="https://other.invalid") as second,
    ):
        amounts = [(await client.get_balance()).raw for client in (first, second, first, second)]
    assert amounts == ["1.00", "1000.00", "1.00", "1000.00"]
    assert (here.requests, there.requests) == (1, 1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_list_in_two_event_loops(backend: Any) -> None:
    """R10, R1: a call under way in another event loop is not waited for; its reading is kept."""
    layers = [Coalesce(ttl=60)]
    sources: list[str] = []

    def run(handler: Handler) -> None:
        async def ask() -> None:
            sources.append((await handler(call_of())).source)

        name, options = virtual_backend(backend)
        anyio.run(ask, backend=name, backend_options=options)

    async def slow(call: Call) -> BalanceReading:
        await anyio.to_thread.run_sync(run, compose(layers, Endpoint("2")))
        return await Endpoint("1")(call)

    run(compose(layers, slow))
    run(compose(layers, fail))
    assert sources == ["network", "network", "cache"]


async def test_a_call_passes_as_it_is() -> None:
    """R1: who leads passes its own call on, and gets the reading itself."""
    endpoint, call = Endpoint("3.20"), call_of(max_attempts=1)
    reading = await Coalesce()(call, endpoint)
    [asked] = endpoint.asked
    assert asked is call
    assert (reading.raw, reading.source) == ("3.20", "network")


async def test_a_shared_reading_keeps_its_age() -> None:
    """R10: coalesced or cached, a reading is as old as the answer it came from."""
    sandbox = Sandbox()
    async with sandbox_client(sandbox, middleware=[Coalesce(ttl=60)]) as client:
        first = await client.get_balance()
        await anyio.sleep(20)
        again = await client.get_balance()
    assert again.source == "cache"
    assert again.age == first.age == pytest.approx(20)
    assert (again.taken_at, again.attempts) == (first.taken_at, first.attempts)


async def test_what_is_no_exception_passes() -> None:
    """R1: what ends the program passes, and leaves no flight to wait for."""
    coalesce = Coalesce()

    async def leave(call: Call) -> NoReturn:
        raise SystemExit

    with pytest.raises(SystemExit):
        await coalesce(call_of(), leave)
    assert not coalesce._flights


def test_repr_shows_the_argument() -> None:
    """House: it prints as the call that makes it."""
    assert repr(Coalesce(ttl=timedelta(minutes=1))) == "Coalesce(ttl=60.0)"


@pytest.mark.parametrize(
    ("ttl", "problem"),
    [
        (-1, "ttl must be a finite number of seconds ≥ 0, not -1"),
        (math.inf, "ttl must be a finite number of seconds ≥ 0, not inf"),
        (math.nan, "ttl must be"),
        ("5", "ttl must be a number of seconds or a timedelta, not str"),
        (True, "ttl must be a number of seconds or a timedelta, not bool"),
    ],
)
def test_refused_arguments(ttl: Any, problem: str) -> None:
    """R10: a `ttl` that cannot be is refused at construction, by name."""
    with pytest.raises(ConfigurationError) as caught:
        Coalesce(ttl=ttl)
    assert str(caught.value).startswith(problem)


async def test_twice_in_a_list() -> None:
    """R10: one object that stands in a list twice does not wait for itself."""
    coalesce, endpoint = Coalesce(), Endpoint("1", takes=1)
    handler = compose([coalesce, coalesce], endpoint)
    with anyio.fail_after(2):
        assert (await handler(call_of())).source == "network"
    assert len(endpoint.asked) == 1
