"""`Timeout`: what it ends, what it leaves alone, and what its place in the list means."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import anyio
import pytest
from fakes import Endpoint, call_of, on_asyncio, reading

from decaptcha_async import (
    BalanceReading,
    Call,
    CallLog,
    ConfigurationError,
    DeadlineExceededError,
    Handler,
    Middleware,
    Retry,
    Timeout,
)
from decaptcha_async._chain import compose
from decaptcha_async.errors import Phase

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def silent() -> Endpoint:
    """Never answers."""
    return Endpoint("1", takes=math.inf)


async def drip(call: Call) -> BalanceReading:
    """A byte each second: never silent, never done."""
    while True:  # noqa: ASYNC110
        await anyio.sleep(1)


async def test_an_answer_in_time_passes() -> None:
    """R8: what comes within the time comes through untouched."""
    endpoint = Endpoint("3.20", takes=9.9)
    call = call_of()
    assert (await Timeout(10)(call, endpoint)).raw == "3.20"
    assert endpoint.asked == [call]


@pytest.mark.parametrize("endpoint", [silent(), drip], ids=["silent", "drip"])
@pytest.mark.parametrize("seconds", [2.5, timedelta(seconds=2.5)], ids=["number", "timedelta"])
async def test_no_answer_in_time(endpoint: Handler, seconds: float) -> None:
    """R8: its expiry is a retryable error, on time, whether the service is silent or drips."""
    began = anyio.current_time()
    with pytest.raises(DeadlineExceededError) as caught:
        await Timeout(seconds)(call_of(), endpoint)
    assert anyio.current_time() - began == 2.5
    assert caught.value.retryable
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("requests", "host", "phase", "message"),
    [
        (0, "", None, "no answer from the service within 2 s"),
        (0, "host", None, "no answer from host within 2 s"),
        (1, "host", None, "no answer from host within 2 s, while waiting for a connection"),
        (1, "host", "connect", "no answer from host within 2 s, while connecting"),
        (1, "host", "tls", "no answer from host within 2 s, in the TLS handshake"),
        (2, "host", "send", "no answer from host within 2 s, while sending"),
        (3, "host", "receive", "no answer from host within 2 s, while waiting for the answer"),
    ],
)
async def test_the_message_says_what_was_going_on(
    requests: int, host: str, phase: Phase | None, message: str
) -> None:
    """R8, C5: the error names host, seconds and phase, as far as they are known."""
    log = CallLog(requests=requests, host=host, phase=phase)
    with pytest.raises(DeadlineExceededError) as caught:
        await Timeout(2)(Call(operation="balance", account="one", log=log), silent())
    error = caught.value
    assert (str(error), error.host, error.phase) == (message, host, phase)


@pytest.mark.parametrize(
    ("layers", "requests", "lasts", "gave_up"),
    [
        pytest.param([Timeout(5), Retry(4, backoff=[1] * 3)], 1, 5, None, id="outside"),
        pytest.param([Retry(4, backoff=[1] * 3), Timeout(5)], 4, 23, "attempts", id="inside"),
        pytest.param(
            [Timeout(13), Retry(4, backoff=[1] * 3), Timeout(5)], 3, 13, "deadline", id="both"
        ),
        pytest.param(
            [Timeout(11.5), Retry(4, backoff=[1] * 3), Timeout(5)], 2, 11, "deadline", id="no-room"
        ),
    ],
)
async def test_place_decides(
    layers: list[Middleware], requests: int, lasts: float, gave_up: str | None
) -> None:
    """R8: outside a Retry it ends the whole call, inside it each attempt, which is retried."""
    endpoint = Endpoint("1", takes=math.inf)
    began = anyio.current_time()
    with pytest.raises(DeadlineExceededError) as caught:
        await compose(layers, endpoint)(call_of())
    assert len(endpoint.asked) == requests
    assert endpoint.in_flight == 0
    assert anyio.current_time() - began == lasts
    assert caught.value.gave_up == gave_up


@pytest.mark.parametrize(("outer", "inner"), [(3, 5), (5, 3), (3, 3)])
async def test_nested(outer: float, inner: float) -> None:
    """R8: of two, one inside the other, the shorter ends the call."""
    with pytest.raises(DeadlineExceededError, match="within 3 s"):
        await compose([Timeout(outer), Timeout(inner)], silent())(call_of())
    assert anyio.current_time() == 3


@pytest.mark.parametrize("error", [TimeoutError("theirs"), DeadlineExceededError("theirs")])
async def test_errors_from_inside_pass(error: TimeoutError) -> None:
    """R8: a timeout that somebody else tells of is not its own, and passes as it is."""
    with pytest.raises(TimeoutError, match="theirs") as caught:
        await Timeout(10)(call_of(), Endpoint(error))
    assert caught.value is error


async def test_the_callers_deadline_stays_the_callers() -> None:
    """R8: a shorter scope of the caller's cancels; nothing of it is translated."""
    with pytest.raises(TimeoutError) as caught, anyio.fail_after(1):
        await Timeout(10)(call_of(), silent())
    assert not isinstance(caught.value, DeadlineExceededError)
    with anyio.move_on_after(1) as scope:
        await Timeout(10)(call_of(), silent())
    assert scope.cancelled_caught
    assert anyio.current_time() == 2


@on_asyncio
async def test_asyncio_timeout_stays_asyncios() -> None:
    """R8: `asyncio.timeout` around it expires as always."""
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(1):
            await Timeout(10)(call_of(), silent())
    assert not isinstance(caught.value, DeadlineExceededError)
    assert anyio.current_time() == 1


async def test_one_policy_serves_concurrent_calls() -> None:
    """House: the time of each call is its own, however many share the policy object."""
    timeout = Timeout(2)
    ended: list[float] = []

    async def one(delay: float) -> None:
        await anyio.sleep(delay)
        with pytest.raises(DeadlineExceededError):
            await timeout(call_of(), silent())
        ended.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        for delay in (0, 0.5, 1):
            group.start_soon(one, delay)
    assert ended == [2, 2.5, 3]


async def test_the_deadline_is_visible_inside() -> None:
    """R4: layers inside can read how much time is left."""

    async def look(call: Call) -> BalanceReading:
        assert anyio.current_effective_deadline() - anyio.current_time() == 10
        return reading()

    await Timeout(10)(call_of(), look)


@pytest.mark.parametrize(
    "arguments",
    [{"seconds": bad} for bad in (0, -1, math.nan, math.inf, True, "5", None, timedelta(0))],
    ids=repr,
)
def test_refused_durations(arguments: dict[str, Any]) -> None:
    """R8: what is no finite time greater than 0 is refused at construction, by name."""
    with pytest.raises(ConfigurationError, match=r"^seconds must be "):
        Timeout(**arguments)
