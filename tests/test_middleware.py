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
    ConfigurationError,
    DeadlineExceededError,
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


LISTS: dict[str, Callable[[], Sequence[Middleware]]] = {
    "timeout": lambda: [Timeout(10)],
    "retry": lambda: [Retry(3, backoff=[1, 1])],
    "retry-timeout": lambda: [Retry(3, backoff=[1, 1]), Timeout(10)],
    "default": default_middleware,
}
alone_and_together = pytest.mark.parametrize("layers", LISTS.values(), ids=LISTS)


@pytest.mark.parametrize(
    ("layers", "moment"),
    [
        pytest.param(layers, moment, id=f"{name}-{moment}")
        for name, layers in LISTS.items()
        for moment in range(1, 4 if name == "timeout" else 9)
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
