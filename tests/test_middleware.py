"""`default_middleware()`, and whole lists of middleware at work."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import anyio
import pytest
from fakes import Endpoint, call_of, interrupted, on_asyncio

from decaptcha_async import (
    BalanceReading,
    Call,
    CircuitBreaker,
    CircuitOpenError,
    Coalesce,
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    Handler,
    Middleware,
    Retry,
    ServerError,
    Timeout,
    default_middleware,
)
from decaptcha_async._chain import compose

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def test_the_default_list() -> None:
    """API: `[Timeout(30), Retry(4), Timeout(10)]`, a new list each time, a budget its own."""
    whole, retry, attempt = default_middleware()
    assert whole == Timeout(30)
    assert attempt == Timeout(10)
    assert isinstance(retry, Retry)
    assert retry.attempts == 4
    other = default_middleware()[1]
    assert isinstance(other, Retry)
    assert other.budget is not retry.budget


def test_the_default_list_with_other_figures() -> None:
    """API: both times and the number of attempts are arguments; a timedelta will do."""
    whole, retry, attempt = default_middleware(
        timeout=timedelta(minutes=1), attempts=2, attempt_timeout=5
    )
    assert (whole, attempt) == (Timeout(60), Timeout(5))
    assert isinstance(retry, Retry)
    assert retry.attempts == 2


@pytest.mark.parametrize(
    "arguments", [{"timeout": 0}, {"attempts": 0}, {"attempt_timeout": math.nan}], ids=repr
)
def test_refused_figures(arguments: dict[str, Any]) -> None:
    """API: a figure that cannot be is refused when the list is made."""
    with pytest.raises(ConfigurationError):
        default_middleware(**arguments)


async def test_the_default_list_against_a_silent_service() -> None:
    """R8: each attempt ends after 10 s and is retried; after 30 s the whole call ends."""
    endpoint = Endpoint("1", takes=math.inf)
    with pytest.raises(DeadlineExceededError, match="within 30 s") as caught:
        await compose(default_middleware(), endpoint)(call_of())
    assert anyio.current_time() == 30
    assert (len(endpoint.asked), endpoint.in_flight) == (3, 0)
    assert caught.value.gave_up == "deadline"
    assert [attempt.number for attempt in caught.value.earlier_attempts] == [1, 2]
    assert all(10 <= gap <= 11 for gap in endpoint.gaps)


async def test_the_default_list_against_a_failing_service() -> None:
    """R2: four attempts and no more; the last error is raised with the three before it."""
    endpoint = Endpoint(ServerError())
    with pytest.raises(ServerError) as caught:
        await compose(default_middleware(), endpoint)(call_of())
    assert [attempt.number for attempt in caught.value.earlier_attempts] == [1, 2, 3]
    assert len(endpoint.asked) == 4


async def test_order_is_outermost_first() -> None:
    """R1: what stands before a Retry sees the call once, what stands after it each attempt."""
    seen: list[str] = []

    def seeing(name: str) -> Middleware:
        async def layer(call: Call, call_next: Handler) -> BalanceReading:
            seen.append(f"{name}{call.attempt}")
            return await call_next(call)

        return layer

    layers: list[Middleware] = [seeing("a"), Retry(backoff=[0, 0]), seeing("b"), seeing("c")]
    await compose(layers, Endpoint(ServerError(), ServerError(), "1"))(call_of())
    assert seen == ["a1", "b1", "c1", "b2", "c2", "b3", "c3"]


async def test_one_list_serves_two_clients() -> None:
    """R1: a list stores nothing of a chain: two endpoints behind the same objects stay apart."""
    layers = default_middleware()
    poor, rich = (compose(layers, Endpoint(ServerError(), amount)) for amount in ("1", "1000"))
    amounts: list[str] = []

    async def ask(handler: Handler, account: str) -> None:
        amounts.append((await handler(call_of(account))).raw)

    async with anyio.create_task_group() as group:
        group.start_soon(ask, poor, "poor")
        group.start_soon(ask, rich, "rich")
    assert sorted(amounts) == ["1", "1000"]


async def one_call(handler: Handler) -> None:
    """Make a call, as a coroutine."""
    await handler(call_of())


async def three_steps(call: Call) -> BalanceReading:
    """An attempt that is suspended three times and fails."""
    for _ in range(3):
        await anyio.sleep(1)
    raise ServerError


def recommended() -> list[Middleware]:
    """All of them, in the order in which they serve each other."""
    return [Timeout(30), Coalesce(ttl=5), Retry(4), CircuitBreaker(), Timeout(10)]


LISTS: dict[str, Callable[[], Sequence[Middleware]]] = {
    "timeout": lambda: [Timeout(10)],
    "circuit-breaker": lambda: [CircuitBreaker(2)],
    "coalesce": lambda: [Coalesce(ttl=5)],
    "retry": lambda: [Retry(3, backoff=[1, 1])],
    "retry-timeout": lambda: [Retry(3, backoff=[1, 1]), Timeout(10)],
    "default": default_middleware,
    "recommended": recommended,
}
ALONE = {"timeout", "circuit-breaker", "coalesce"}
alone_and_together = pytest.mark.parametrize("layers", LISTS.values(), ids=LISTS)


@pytest.mark.parametrize(
    ("layers", "moment"),
    [
        pytest.param(layers, moment, id=f"{name}-{moment}")
        for name, layers in LISTS.items()
        for moment in range(1, 4 if name in ALONE else 9)
    ],
)
async def test_nothing_swallows_a_cancellation(
    layers: Callable[[], Sequence[Middleware]], moment: int
) -> None:
    """R1: cancelled wherever it is suspended, a call ends so, at once, leaving nothing."""
    tasks = len(anyio.get_running_tasks())
    cancelled_at: list[float] = []

    def cancel() -> None:
        scope.cancel()
        cancelled_at.append(anyio.current_time())

    with anyio.CancelScope() as scope:
        await interrupted(one_call(compose(layers(), three_steps)), moment, cancel)
    assert scope.cancelled_caught
    assert cancelled_at == [anyio.current_time()]
    assert len(anyio.get_running_tasks()) == tasks


@on_asyncio
@alone_and_together
async def test_nothing_swallows_task_cancel(layers: Callable[[], Sequence[Middleware]]) -> None:
    """R1: nor asyncio's own `Task.cancel()`, and the task is left with no cancellation to come."""
    endpoint = Endpoint("1", takes=5)
    task = asyncio.create_task(one_call(compose(layers(), endpoint)))
    await anyio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (anyio.current_time(), endpoint.in_flight) == (1, 0)


@alone_and_together
@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
async def test_nothing_swallows_what_is_no_exception(
    layers: Callable[[], Sequence[Middleware]], leaving: type[BaseException]
) -> None:
    """R1: what ends the program passes through every layer, after one request."""
    asked: list[Call] = []

    async def endpoint(call: Call) -> BalanceReading:
        asked.append(call)
        raise leaving

    with pytest.raises(leaving):
        await compose(layers(), endpoint)(call_of())
    assert len(asked) == 1


async def test_all_together_in_an_outage_and_back() -> None:
    """R7, R9, R10, R13: three callers a second, ten minutes, and three of them nobody answers."""
    requests: list[float] = []
    failures: list[tuple[float, DecaptchaError]] = []
    answered = 0

    async def service(call: Call) -> BalanceReading:
        requests.append(anyio.current_time())
        if 60 <= requests[-1] < 240:
            await anyio.sleep_forever()
        return await Endpoint("3.20", takes=0.1)(call)

    handler = compose(recommended(), service)

    async def ask() -> None:
        nonlocal answered
        began = anyio.current_time()
        try:
            await handler(call_of())
            answered += 1
        except DecaptchaError as error:
            failures.append((anyio.current_time(), error))
        assert anyio.current_time() - began <= 30.001

    async with anyio.create_task_group() as group:
        for _ in range(600):
            for _ in range(3):
                group.start_soon(ask)
            await anyio.sleep(1)
    in_outage = [moment for moment in requests if 60 <= moment < 240]
    elsewhere = [moment for moment in requests if not 60 <= moment < 240]
    # Five attempts that are silent for 10 s open the circuit; then there is one probe in a cooldown
    # and the 10 s of the probe. Beside them are attempts that end with their call: when its time is
    # up, those of the next second go on for the second that they have left. How many, is a matter
    # of chance; it cannot be more than one a second, where without all this it were 540 and more.
    assert 5 < len(in_outage) <= 180
    assert len(elsewhere) <= (60 + 360) / 5 + 2
    # It is felt until the next probe, which is a cooldown after one that met its last moment.
    assert all(60 <= moment <= 240 + 40 for moment, _ in failures)
    assert {type(error) for _, error in failures} == {DeadlineExceededError, CircuitOpenError}
    assert answered + len(failures) == 1800


async def test_a_recovery_is_shared_too() -> None:
    """R9, R10: 200 callers behind Coalesce at a half-open circuit: 1 probe, 200 readings."""
    script = [ServerError()] * 5
    endpoint = Endpoint(*script, "3.20", takes=1)
    handler = compose([Coalesce(), CircuitBreaker()], endpoint)
    for _ in script:
        with pytest.raises(ServerError):
            await handler(call_of())
    with pytest.raises(CircuitOpenError):
        await handler(call_of())
    await anyio.sleep(30)
    amounts: list[str] = []

    async def ask() -> None:
        amounts.append((await handler(call_of())).raw)

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(ask)
    assert amounts == ["3.20"] * 200
    assert len(endpoint.asked) == 6


async def test_an_open_circuit_is_not_retried() -> None:
    """R2, R9: Retry around a breaker that opens meanwhile gives up at once, and says what for."""
    endpoint = Endpoint(ServerError())
    handler = compose([Retry(9, backoff=[1] * 8), CircuitBreaker(2)], endpoint)
    with pytest.raises(CircuitOpenError) as caught:
        await handler(call_of())
    assert (endpoint.times, anyio.current_time()) == ([0, 1], 2)
    assert caught.value.gave_up == "not_retryable"
    assert caught.value.retry_after == pytest.approx(29, abs=0.5)
    assert [type(past.error) for past in caught.value.earlier_attempts] == [ServerError] * 2
