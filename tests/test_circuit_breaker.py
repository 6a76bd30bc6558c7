"""`CircuitBreaker`: what opens it, what passes while it is open, and what closes it again."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fakes import Endpoint, call_of, interrupted, on_asyncio

from decaptcha_async import (
    APIError,
    AuthenticationError,
    BalanceReading,
    Call,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    Handler,
    InvalidResponseError,
    RateLimitedError,
    ServerError,
    TLSError,
    TransportError,
    _clock,
)
from decaptcha_async._chain import compose
from decaptcha_async.testing import virtual_backend

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

LOGGER = "decaptcha_async.middleware.circuit_breaker"


@pytest.fixture(autouse=True)
def _boot_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would count the real microseconds of the test.
    monkeypatch.setattr(_clock, "boot_time", lambda: 0.0)


def state_of(breaker: CircuitBreaker) -> CircuitState:
    """Its state, which a type checker does not take for settled by what it was before."""
    return breaker.state


async def outcome(breaker: CircuitBreaker, endpoint: Handler, account: str = "one") -> str:
    """The amount that a call brings, or the name of its error."""
    try:
        return (await breaker(call_of(account), endpoint)).raw
    except DecaptchaError as error:
        return type(error).__name__


async def refusal(breaker: CircuitBreaker, account: str = "one") -> CircuitOpenError:
    """How an open circuit refuses a call."""
    endpoint = Endpoint("1")
    with pytest.raises(CircuitOpenError) as caught:
        await breaker(call_of(account), endpoint)
    assert not endpoint.asked
    return caught.value


async def opened(failures: int = 1, **arguments: Any) -> CircuitBreaker:
    """A breaker that so many failures have just opened for the account `one`."""
    breaker = CircuitBreaker(failures, **arguments)
    for _ in range(failures):
        assert await outcome(breaker, Endpoint(ServerError())) == "ServerError"
    assert state_of(breaker) == "open"
    return breaker


async def test_failures_in_a_row_open_it() -> None:
    """R9: five failures in a row, by default, and the sixth call makes no request."""
    breaker, endpoint = CircuitBreaker(), Endpoint(ServerError())
    for count in range(1, 6):
        assert state_of(breaker) == "closed"
        assert await outcome(breaker, endpoint) == "ServerError"
        assert len(endpoint.asked) == count
    assert state_of(breaker) == "open"
    assert await outcome(breaker, endpoint) == "CircuitOpenError"
    assert len(endpoint.asked) == 5


async def test_a_success_between_starts_the_count_anew() -> None:
    """R9: only consecutive failures count, however many there are in all."""
    breaker = CircuitBreaker(3)
    script: list[str | Exception] = [ServerError(), ServerError(), "1"]
    endpoint = Endpoint(*script * 5, ServerError())
    for _ in range(17):
        await outcome(breaker, endpoint)
        assert state_of(breaker) == "closed"
    await outcome(breaker, endpoint)
    assert state_of(breaker) == "open"


@pytest.mark.parametrize(
    "error",
    [
        TransportError(),
        TLSError(),
        DeadlineExceededError(),
        RateLimitedError(),
        ServerError(),
        APIError(status_code=408),
        InvalidResponseError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_speaks_against_the_service(error: DecaptchaError) -> None:
    """R9: an outcome that is not healthy is a failure."""
    breaker = CircuitBreaker(1)
    await outcome(breaker, Endpoint(error))
    assert state_of(breaker) == "open"


@pytest.mark.parametrize(
    "error",
    [AuthenticationError(), AuthenticationError(status_code=403), APIError(status_code=404)],
    ids=["401", "403", "404"],
)
async def test_a_refused_key_proves_the_service_alive(error: DecaptchaError) -> None:
    """R9: a 401 does not open the circuit; it starts the count anew, and closes it as a probe."""
    breaker = CircuitBreaker(2, cooldown=10)
    endpoint = Endpoint(ServerError(), error, ServerError(), error, ServerError(), ServerError())
    for _ in range(5):
        await outcome(breaker, endpoint)
        assert state_of(breaker) == "closed"
    await outcome(breaker, endpoint)
    assert state_of(breaker) == "open"
    await anyio.sleep(10)
    assert await outcome(breaker, Endpoint(error)) == type(error).__name__
    assert state_of(breaker) == "closed"


@pytest.mark.parametrize(
    "error",
    [ConfigurationError(), ClientClosedError(), CircuitOpenError(), LookupError()],
    ids=lambda error: type(error).__name__,
)
async def test_what_says_nothing_about_the_service(error: Exception) -> None:
    """R9: mistakes of ours and errors that are not ours neither count nor start a count anew."""
    breaker = CircuitBreaker(2)
    await outcome(breaker, Endpoint(ServerError()))
    for _ in range(5):
        with pytest.raises(type(error)) as caught:
            await breaker(call_of(), Endpoint(error))
        assert caught.value is error
        assert state_of(breaker) == "closed"
    await outcome(breaker, Endpoint(ServerError()))
    assert state_of(breaker) == "open"


async def test_an_error_passes_as_it_is() -> None:
    """R9: what a call failed with is raised itself, the failure that opens the circuit too."""
    error = ServerError("out of order")
    with pytest.raises(ServerError) as caught:
        await CircuitBreaker(1)(call_of(), Endpoint(error))
    assert caught.value is error
    assert caught.value.__context__ is None


async def test_an_open_circuit_says_why_and_until_when() -> None:
    """R9: `retry_after` is the number of seconds to the next probe; it is not worth a retry."""
    breaker, failing = CircuitBreaker(2), Endpoint(TransportError("reset"), ServerError("on fire"))
    await outcome(breaker, failing)
    await outcome(breaker, failing)
    await anyio.sleep(18)
    error = await refusal(breaker)
    assert error.retry_after == pytest.approx(12)
    assert str(error) == "the circuit is open, next probe in 12 s, after: on fire"
    assert error.retryable is False
    assert error.healthy is None


async def test_an_error_without_a_message_is_named() -> None:
    """R9: a failure that says nothing is told by its class."""
    assert str(await refusal(await opened())).endswith("after: ServerError")


@pytest.mark.parametrize("cooldown", [30.0, 7.5, 3600.0])
async def test_the_first_call_after_the_cooldown_is_the_probe(cooldown: float) -> None:
    """R9, R13: after exactly `cooldown` seconds of the loop's clock; its success closes it."""
    breaker, endpoint = await opened(cooldown=cooldown), Endpoint("1", "2")
    await anyio.sleep(cooldown - 0.001)
    assert (await refusal(breaker)).retry_after == pytest.approx(0.001)
    await anyio.sleep(0.001)
    assert state_of(breaker) == "open"
    assert await outcome(breaker, endpoint) == "1"
    assert state_of(breaker) == "closed"
    assert await outcome(breaker, endpoint) == "2"


async def test_the_promised_wait_is_enough() -> None:
    """R9: a caller that sleeps for `retry_after` is let through."""
    breaker = await opened(cooldown=1 / 3)
    await anyio.sleep(0.1)
    await anyio.sleep((await refusal(breaker)).retry_after or 0)
    assert await outcome(breaker, Endpoint("1")) == "1"


async def test_a_probe_that_fails_opens_it_again() -> None:
    """R9: one failure of a probe, however many it takes otherwise, costs a cooldown more."""
    breaker = await opened(3, cooldown=10)
    for _ in range(4):
        await anyio.sleep(10)
        assert await outcome(breaker, Endpoint(ServerError())) == "ServerError"
        assert (await refusal(breaker)).retry_after == pytest.approx(10)


async def test_after_closing_it_takes_all_failures_again() -> None:
    """R9: a circuit that closed again forgets the failures before."""
    breaker = await opened(3, cooldown=10)
    await anyio.sleep(10)
    endpoint = Endpoint("1", ServerError())
    for _ in range(3):
        await outcome(breaker, endpoint)
        assert state_of(breaker) == "closed"
    await outcome(breaker, endpoint)
    assert state_of(breaker) == "open"


async def test_two_hundred_callers_and_one_probe() -> None:
    """R9: of 200 callers at a half-open circuit 1 makes a request, and 199 fail at once."""
    breaker, endpoint = await opened(cooldown=10), Endpoint("1", takes=5)
    await anyio.sleep(10)
    outcomes: Counter[tuple[str, float]] = Counter()

    async def ask() -> None:
        outcomes[await outcome(breaker, endpoint), anyio.current_time()] += 1

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(ask)
    assert outcomes == {("CircuitOpenError", 10): 199, ("1", 15): 1}
    assert len(endpoint.asked) == 1
    assert state_of(breaker) == "closed"


async def test_who_comes_during_a_probe() -> None:
    """R9: while a probe is under way, the next is a cooldown away: if this one fails, that is."""
    breaker = await opened(cooldown=10)
    await anyio.sleep(10)
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, breaker, Endpoint("1", takes=5))
        await anyio.sleep(1)
        assert state_of(breaker) == "half_open"
        error = await refusal(breaker)
        assert str(error) == "the circuit is open, a probe is under way, after: ServerError"
        assert error.retry_after == 10


@pytest.mark.parametrize(
    "nothing_said", [ConfigurationError(), LookupError()], ids=lambda error: type(error).__name__
)
async def test_a_probe_that_learns_nothing_hands_its_place_on(nothing_said: Exception) -> None:
    """R9: a probe whose outcome says nothing of the service leaves its place to the next call."""
    breaker = await opened(cooldown=10)
    await anyio.sleep(10)
    with pytest.raises(type(nothing_said)):
        await breaker(call_of(), Endpoint(nothing_said))
    assert state_of(breaker) == "half_open"
    assert await outcome(breaker, Endpoint("1")) == "1"
    assert state_of(breaker) == "closed"


async def test_a_cancelled_probe_hands_its_place_on() -> None:
    """R9: the next call after a cancelled probe is the probe, and again only one."""
    breaker, endpoint = await opened(cooldown=10), Endpoint("1", takes=5)
    await anyio.sleep(10)
    with anyio.move_on_after(2) as scope:
        await breaker(call_of(), endpoint)
    assert scope.cancelled_caught
    assert state_of(breaker) == "half_open"
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, breaker, endpoint)
        await anyio.wait_all_tasks_blocked()
        await refusal(breaker)
    assert state_of(breaker) == "closed"
    assert len(endpoint.asked) == 2


async def test_cancelled_calls_never_open_it() -> None:
    """R9: a hundred cancelled calls are no failures, nor do they start a count anew."""
    breaker, silent = CircuitBreaker(2), Endpoint("1", takes=math.inf)
    await outcome(breaker, Endpoint(ServerError()))
    for _ in range(100):
        with anyio.move_on_after(1):
            await breaker(call_of(), silent)
    assert state_of(breaker) == "closed"
    assert len(silent.asked) == 100
    await outcome(breaker, Endpoint(ServerError()))
    assert state_of(breaker) == "open"


@on_asyncio
async def test_tasks_cancelled_by_asyncio_never_open_it() -> None:
    """R9, R1: asyncio's own `Task.cancel()` says nothing either, and passes."""
    breaker, silent = CircuitBreaker(1), Endpoint("1", takes=math.inf)
    for _ in range(3):
        task = asyncio.ensure_future(breaker(call_of(), silent))
        await anyio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert state_of(breaker) == "closed"
    assert not breaker._circuits


async def test_cancelled_while_it_is_refused() -> None:
    """R1: a call that is refused can be cancelled, as at any other moment."""
    breaker = await opened()
    with anyio.CancelScope() as scope:
        await interrupted(breaker(call_of(), Endpoint("1")), 1, scope.cancel)
    assert scope.cancelled_caught


async def test_a_slow_success_does_not_close_it() -> None:
    """R9: an answer to a call that began before the circuit opened changes nothing."""
    breaker, slow = CircuitBreaker(1, cooldown=10), Endpoint("1", takes=5)
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, breaker, slow)
        await anyio.sleep(1)
        await outcome(breaker, Endpoint(ServerError()))
    assert slow.in_flight == 0
    assert state_of(breaker) == "open"
    assert (await refusal(breaker)).retry_after == pytest.approx(6)


async def test_slow_failures_do_not_prolong_it() -> None:
    """R9: nor do the failures of calls that began before put the next probe off."""
    breaker, slow = CircuitBreaker(1, cooldown=10), Endpoint(ServerError(), takes=5)
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, breaker, slow)
        await anyio.sleep(1)
        await outcome(breaker, Endpoint(ServerError()))
    assert (await refusal(breaker)).retry_after == pytest.approx(6)


async def test_slow_failures_do_not_count_once_it_is_closed() -> None:
    """R9: a failure of a call from before an outage, known after it, is no failure of today."""
    breaker, slow = CircuitBreaker(1, cooldown=10), Endpoint(ServerError(), takes=60)
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, breaker, slow)
        await anyio.sleep(1)
        await outcome(breaker, Endpoint(ServerError()))
        await anyio.sleep(10)
        assert await outcome(breaker, Endpoint("1")) == "1"
    assert slow.in_flight == 0
    assert state_of(breaker) == "closed"


@pytest.mark.parametrize("line", ["1", ServerError()], ids=["success", "failure"])
async def test_a_slow_answer_does_not_decide_for_the_probe(line: str | Exception) -> None:
    """R9: while a probe is under way, an earlier call neither ends it nor frees its place."""
    breaker, slow = CircuitBreaker(1, cooldown=10), Endpoint(line, takes=14)
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, breaker, slow)
        await anyio.sleep(1)
        await outcome(breaker, Endpoint(ServerError()))
        await anyio.sleep(10)
        group.start_soon(outcome, breaker, Endpoint("1", takes=10))
        await anyio.sleep(5)
        assert slow.in_flight == 0
        assert state_of(breaker) == "half_open"
        await refusal(breaker)
    assert state_of(breaker) == "closed"


async def test_on_change_hears_of_each_change() -> None:
    """R9, R11: each new state once, in order, when it is so already."""
    heard: list[tuple[CircuitState, CircuitState, float]] = []

    def listen(state: CircuitState) -> None:
        heard.append((state, breaker.state, anyio.current_time()))

    breaker = CircuitBreaker(2, cooldown=10, on_change=listen)
    endpoint = Endpoint(ServerError(), ServerError(), ServerError(), "1")
    for _ in range(2):
        await outcome(breaker, endpoint)
    for _ in range(2):
        await anyio.sleep(10)
        await outcome(breaker, endpoint)
    assert heard == [
        ("open", "open", 0),
        ("half_open", "half_open", 10),
        ("open", "open", 10),
        ("half_open", "half_open", 20),
        ("closed", "closed", 20),
    ]


async def test_on_change_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """R11: a hook that raises is logged, with its traceback, and the circuit goes its way."""

    def stumble(state: CircuitState) -> None:
        raise LookupError(state)

    breaker = await opened(cooldown=10, on_change=stumble)
    await anyio.sleep(10)
    assert await outcome(breaker, Endpoint("1")) == "1"
    assert state_of(breaker) == "closed"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == [
        f"on_change raised; the circuit is {state} all the same"
        for state in ("open", "half_open", "closed")
    ]
    for record in errors:
        assert record.name == LOGGER
        assert record.exc_info is not None
        assert record.exc_info[0] is LookupError


async def test_on_change_may_end_the_program() -> None:
    """R1: what is no `Exception` is not swallowed, not even from a hook."""

    def leave(state: CircuitState) -> None:
        raise SystemExit(state)

    breaker = CircuitBreaker(1, on_change=leave)
    with pytest.raises(SystemExit, match="open"):
        await breaker(call_of(), Endpoint(ServerError()))
    assert state_of(breaker) == "open"


async def test_changes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """R11: opening is a WARNING with the reason, the rest INFO, all under the module's name."""
    caplog.set_level(logging.DEBUG, "decaptcha_async")
    breaker, endpoint = CircuitBreaker(2), Endpoint(TransportError("reset"))
    for _ in range(2):
        await outcome(breaker, endpoint)
    await anyio.sleep(30)
    await outcome(breaker, Endpoint("1"))
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            LOGGER,
            "WARNING",
            "the circuit is open for 30 s after 2 failures in a row, the last: reset",
        ),
        (LOGGER, "INFO", "the circuit is half open"),
        (LOGGER, "INFO", "the circuit is closed"),
    ]


async def test_accounts_are_kept_apart() -> None:
    """R9: an account whose calls fail closes no door to another; `state` is the gravest."""
    breaker = CircuitBreaker(1, cooldown=10)
    await outcome(breaker, Endpoint(ServerError()), "one")
    assert await outcome(breaker, Endpoint("2"), "two") == "2"
    await anyio.sleep(10)
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, breaker, Endpoint("1", takes=5), "one")
        await anyio.wait_all_tasks_blocked()
        assert state_of(breaker) == "half_open"
        await outcome(breaker, Endpoint(ServerError()), "three")
        assert state_of(breaker) == "open"
    assert state_of(breaker) == "open"
    await refusal(breaker, "three")
    assert await outcome(breaker, Endpoint("1"), "one") == "1"


async def test_nothing_is_kept_after_success() -> None:
    """R9: accounts that come and go leave nothing behind, and one with a failure is remembered."""
    breaker = CircuitBreaker(2)
    for number in range(100):
        account = f"{number}"
        await outcome(breaker, Endpoint(ServerError()), account)
        await outcome(breaker, Endpoint("1"), account)
    await outcome(breaker, Endpoint(ServerError()), "failed")
    assert set(breaker._circuits) == {"failed"}


async def test_a_slow_call_keeps_the_circuit_it_began_with() -> None:
    """R9: an account is not forgotten while a call of it is under way."""
    breaker, slow = CircuitBreaker(1), Endpoint(ServerError(), takes=5)
    async with anyio.create_task_group() as group:
        group.start_soon(outcome, breaker, slow)
        await anyio.sleep(1)
        await outcome(breaker, Endpoint("1"))
    assert state_of(breaker) == "open"


async def test_who_asks_again_at_once_does_not_stop_the_rest() -> None:
    """R9: a loop around an open circuit lets other tasks run, and time go on."""
    breaker = await opened()
    refused = 0

    async def insist() -> None:
        nonlocal refused
        while refused < 100:
            await refusal(breaker)
            refused += 1

    async with anyio.create_task_group() as group:
        group.start_soon(insist)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert 0 < refused < 100


async def test_suspend_counts_as_cooldown(monkeypatch: pytest.MonkeyPatch) -> None:
    """R9, R13: a machine that slept through the cooldown probes at once when it wakes."""
    asleep = 0.0
    monkeypatch.setattr(_clock, "boot_time", lambda: asleep)
    breaker = await opened()
    asleep = 29.0
    assert (await refusal(breaker)).retry_after == pytest.approx(1)
    asleep = 31.0
    assert await outcome(breaker, Endpoint("1")) == "1"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_another_event_loop_with_another_clock(backend: Any) -> None:
    """R9: an event loop whose clock is far behind does not wait for what another's clock showed."""
    breaker = CircuitBreaker(1)

    async def late() -> None:
        await anyio.sleep(80_000)
        await outcome(breaker, Endpoint(ServerError()))

    async def early() -> float | None:
        return (await refusal(breaker)).retry_after

    def run(work: Callable[[], Any]) -> Any:
        name, options = virtual_backend(backend)
        return anyio.run(work, backend=name, backend_options=options)

    run(late)
    assert 0 < run(early) <= 30


async def test_it_passes_the_call_on_as_it_is() -> None:
    """R1: the breaker adds nothing to a call and takes nothing from a reading."""
    asked: list[Call] = []
    endpoint = Endpoint("3.20")

    async def see(call: Call, call_next: Handler) -> BalanceReading:
        asked.append(call)
        return await call_next(call)

    call = call_of(max_attempts=1)
    reading = await compose([CircuitBreaker(), see], endpoint)(call)
    assert asked == [call]
    assert asked[0] is call
    assert (reading.raw, reading.source) == ("3.20", "network")


def test_a_timedelta_and_the_repr() -> None:
    """House: a duration may be a timedelta; a breaker prints as the call that makes it."""
    breaker = CircuitBreaker(2, cooldown=timedelta(minutes=1))
    assert repr(breaker) == "CircuitBreaker(failures=2, cooldown=60.0, on_change=None)"


async def asynchronous(state: CircuitState) -> None:
    """What a hook must not be."""


@pytest.mark.parametrize(
    ("arguments", "expected", "problem"),
    [
        pytest.param(
            {"failures": 0},
            ConfigurationError,
            "failures must be a whole number ≥ 1, not 0",
            id="failures-zero",
        ),
        pytest.param(
            {"failures": 2.5}, ConfigurationError, "failures must be a whole", id="failures-part"
        ),
        pytest.param(
            {"failures": True}, ConfigurationError, "failures must be a whole", id="failures-bool"
        ),
        pytest.param(
            {"cooldown": 0},
            ConfigurationError,
            "cooldown must be a finite number of seconds > 0, not 0",
            id="cooldown-zero",
        ),
        pytest.param(
            {"cooldown": math.inf}, ConfigurationError, "cooldown must be", id="cooldown-infinite"
        ),
        pytest.param(
            {"cooldown": "30"}, ConfigurationError, "cooldown must be a number", id="cooldown-text"
        ),
        pytest.param(
            {"on_change": asynchronous},
            TypeError,
            "on_change is called, not awaited: pass a plain function",
            id="async-hook",
        ),
        pytest.param(
            {"on_change": functools.partial(asynchronous)},
            TypeError,
            "on_change is called, not awaited",
            id="async-partial",
        ),
    ],
)
def test_refused_arguments(
    arguments: dict[str, Any], expected: type[Exception], problem: str
) -> None:
    """R9, R11: an argument that cannot be is refused at construction, by name."""
    with pytest.raises(expected) as caught:
        CircuitBreaker(**arguments)
    assert str(caught.value).startswith(problem)
