"""Retry libraries in place of `Retry`, as the page `retry-libraries` shows them."""

from __future__ import annotations

import asyncio
from functools import partial

import anyio
import httpx
import httpx_retries
import pytest
import stamina
import tenacity
from canary import CANARY
from fakes import Endpoint, call_of, on_asyncio

from decaptcha_async import (
    AuthenticationError,
    BalanceClient,
    BalanceReading,
    Call,
    DecaptchaError,
    Handler,
    Middleware,
    RateLimitedError,
    Retry,
    ServerError,
)
from decaptcha_async._chain import compose
from decaptcha_async.sandbox import Fault, Sandbox
from decaptcha_async.testing import sandbox_client

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

ATTEMPTS = 4
AT_ONCE = Retry(3, backoff=[0, 0], budget=None)


def worth_it(error: BaseException) -> bool:
    """Whether to try again; both libraries ask about cancellations, too."""
    return isinstance(error, DecaptchaError) and error.retryable


RETRYING = tenacity.AsyncRetrying(
    retry=tenacity.retry_if_exception(worth_it),
    wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
    reraise=True,
)


async def with_tenacity(call: Call, call_next: Handler) -> BalanceReading:
    """Repeat by tenacity."""
    stop = tenacity.stop_after_attempt(call.max_attempts or ATTEMPTS)
    return await RETRYING.copy(stop=stop)(call_next, call)


async def with_stamina(call: Call, call_next: Handler) -> BalanceReading:
    """Repeat by stamina."""
    retrying = stamina.AsyncRetryingCaller(attempts=call.max_attempts or ATTEMPTS)
    return await retrying(worth_it, call_next, call)


async def by_hand(call: Call, call_next: Handler) -> BalanceReading:
    """Repeat by a loop."""
    for _ in range((call.max_attempts or ATTEMPTS) - 1):
        try:
            return await call_next(call)
        except DecaptchaError as error:
            if not error.retryable:
                raise
        await anyio.sleep(0.5)
    return await call_next(call)


async def passing(call: Call, call_next: Handler) -> BalanceReading:
    """Some other middleware inside."""
    return await call_next(call)


libraries = pytest.mark.parametrize("layer", [with_tenacity, with_stamina, by_hand])


@libraries
async def test_what_is_retryable_is_retried(layer: Middleware) -> None:
    """R12: each repeats a retryable error after a wait, whatever the layer inside is."""
    endpoint = Endpoint(ServerError(), RateLimitedError(), "1250.75")
    reading = await compose([layer, passing], endpoint)(call_of())
    assert (reading.raw, len(endpoint.asked)) == ("1250.75", 3)
    assert all(gap > 0 for gap in endpoint.gaps)


@libraries
async def test_a_refused_key_is_not(layer: Middleware) -> None:
    """R12: each asks once with a key that is refused, and raises our error itself."""
    refused = AuthenticationError()
    endpoint = Endpoint(refused)
    with pytest.raises(AuthenticationError) as caught:
        await compose([layer, passing], endpoint)(call_of())
    assert (caught.value, len(endpoint.asked)) == (refused, 1)


@libraries
async def test_attempts_are_counted(layer: Middleware) -> None:
    """R12: each gives up after four requests, with the last of our errors."""
    endpoint = Endpoint(RateLimitedError(), ServerError())
    with pytest.raises(ServerError):
        await compose([layer, passing], endpoint)(call_of())
    assert len(endpoint.asked) == ATTEMPTS


@libraries
async def test_a_probe_of_a_watch_is_one_request(layer: Middleware) -> None:
    """W5: each keeps to the limit of a call, which is one while a watch is in an outage."""
    endpoint = Endpoint(ServerError())
    with pytest.raises(ServerError):
        await compose([layer], endpoint)(call_of(max_attempts=1))
    assert len(endpoint.asked) == 1


@libraries
@pytest.mark.parametrize("takes", [9, 0], ids=["attempt", "wait"])
async def test_cancellation_passes(layer: Middleware, takes: float) -> None:
    """R12: cancelled in an attempt or soon after it, each ends at once and asks no more."""
    endpoint = Endpoint(ServerError(), takes=takes)
    with anyio.move_on_after(1e-6) as scope:
        await compose([layer], endpoint)(call_of())
    assert scope.cancelled_caught
    assert anyio.current_time() < 1e-3 + endpoint.times[0]
    assert (len(endpoint.asked), endpoint.in_flight) == (1, 0)


@libraries
@on_asyncio
async def test_a_cancelled_task_ends(layer: Middleware) -> None:
    """R12: `Task.cancel()`, which is delivered only once, ends the call, too."""
    endpoint = Endpoint("1", takes=9)
    task = asyncio.ensure_future(compose([layer], endpoint)(call_of()))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert (task.cancelled(), len(endpoint.asked)) == (True, 1)


@libraries
async def test_calls_at_the_same_time(layer: Middleware) -> None:
    """R12: of 20 simultaneous calls, each fails once and has its reading in the end."""
    endpoint = Endpoint(*[ServerError()] * 20, "1250.75", takes=0.01)
    amounts = await together(compose([layer], endpoint), 20)
    assert amounts == ["1250.75"] * 20
    assert len(endpoint.asked) == 40


@libraries
async def test_with_a_client(layer: Middleware) -> None:
    """R12: below a client, the reading knows of both requests, and the key stays where it is."""
    sandbox = Sandbox(api_key=CANARY, script=[Fault(503)])
    async with sandbox_client(sandbox, middleware=[layer]) as client:
        reading = await client.get_balance()
    assert (reading.attempts, sandbox.requests) == (2, 2)


@libraries
async def test_layers_multiply(layer: Middleware) -> None:
    """R2: `Retry` inside another retrying layer makes 4 × 3 requests."""
    endpoint = Endpoint(ServerError())
    with pytest.raises(ServerError):
        await compose([layer, AT_ONCE], endpoint)(call_of())
    assert len(endpoint.asked) == ATTEMPTS * 3


@pytest.mark.parametrize(("copied", "amounts"), [(True, {"1250.75"}), (False, {"1250.75", None})])
async def test_one_tenacity_object_for_all_calls(*, copied: bool, amounts: set[str | None]) -> None:
    """R12: what the page warns of: with an async hook, calls that share it return None."""

    async def after(_: tenacity.RetryCallState) -> None:
        await anyio.sleep(0.01)

    shared = RETRYING.copy(stop=tenacity.stop_after_attempt(ATTEMPTS), after=after)

    async def sharing(call: Call, call_next: Handler) -> BalanceReading:
        return await (shared.copy() if copied else shared)(call_next, call)

    endpoint = Endpoint(*[ServerError()] * 5, "1250.75", takes=0.01)
    assert set(await together(compose([sharing], endpoint), 10)) == amounts


@on_asyncio
@pytest.mark.parametrize("library", ["tenacity", "stamina"])
async def test_a_predicate_hears_of_cancellations(library: str) -> None:
    """R12: what the page warns of: a predicate that says yes to all swallows a cancellation."""
    endpoint = Endpoint("1250.75", takes=9)

    async def greedy(call: Call, call_next: Handler) -> BalanceReading:
        if library == "tenacity":
            retry = tenacity.retry_if_exception(lambda _: True)
            return await RETRYING.copy(retry=retry)(call_next, call)
        return await stamina.AsyncRetryingCaller()(lambda _: True, call_next, call)

    task = asyncio.ensure_future(compose([greedy], endpoint)(call_of()))
    await asyncio.sleep(1)
    task.cancel()
    assert (await task).raw == "1250.75"
    assert len(endpoint.asked) == 2


async def test_a_hook_of_stamina_outlasts_its_timeout() -> None:
    """R12: what the page warns of: stamina waits as long as its hook says, past `timeout`."""
    endpoint = Endpoint(RateLimitedError(retry_after=5), "1250.75")
    retrying = stamina.AsyncRetryingCaller(timeout=0.2)

    def asked_for(error: Exception) -> float:
        return float(vars(error)["retry_after"])

    before = anyio.current_time()
    reading = await retrying(asked_for, compose([passing], endpoint), call_of())
    assert (reading.raw, anyio.current_time() - before) == ("1250.75", 5)


@on_asyncio
async def test_a_retrying_transport() -> None:
    """R12: httpx-retries below an injected client repeats a 503, unseen by the reading."""
    sandbox = Sandbox(api_key=CANARY, script=[Fault(503)])
    async with retrying_transport(sandbox) as http_client:
        reading = await client_of(http_client).get_balance()
    assert (reading.attempts, sandbox.requests) == (1, 2)


@on_asyncio
async def test_a_retrying_transport_and_a_refused_key() -> None:
    """R12: httpx-retries lets a 401 pass after one request."""
    sandbox = Sandbox(api_key="another")
    async with retrying_transport(sandbox) as http_client:
        with pytest.raises(AuthenticationError):
            await client_of(http_client).get_balance()
    assert sandbox.requests == 1


@on_asyncio
async def test_a_retrying_transport_is_cancelled() -> None:
    """R12: a cancellation passes through httpx-retries, in a wait as well."""
    sandbox = Sandbox(api_key=CANARY, script=[Fault(503, headers={"retry-after": "9"})])
    async with retrying_transport(sandbox) as http_client:
        with anyio.move_on_after(1) as scope:
            await client_of(http_client).get_balance()
    assert (scope.cancelled_caught, sandbox.requests) == (True, 1)


@on_asyncio
async def test_a_retrying_transport_below_retry() -> None:
    """R2: three attempts above a transport of three attempts are nine requests."""
    sandbox = Sandbox(api_key=CANARY, script=[Fault(503, times=99)])
    async with retrying_transport(sandbox) as http_client:
        with pytest.raises(ServerError) as caught:
            await client_of(http_client, AT_ONCE).get_balance()
    assert sandbox.requests == 9
    assert len(caught.value.earlier_attempts) == 2


@on_asyncio
async def test_a_retrying_transport_asks_too_early() -> None:
    """R12: what the page warns of: httpx-retries cuts a `Retry-After` of ten minutes to two."""
    fault = Fault(503, headers={"retry-after": "600"})
    sandbox = Sandbox(api_key=CANARY, script=[fault])
    async with retrying_transport(sandbox) as http_client:
        await client_of(http_client).get_balance()
    assert (anyio.current_time(), sandbox.requests) == (120, 2)


async def together(handler: Handler, count: int) -> list[str | None]:
    """Call it so many times at the same time: the amounts, None for what is no reading."""
    amounts: list[str | None] = []

    async def ask() -> None:
        amounts.append(getattr(await handler(call_of()), "raw", None))

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(ask)
    return amounts


def retrying_transport(sandbox: Sandbox) -> httpx.AsyncClient:
    """A client of httpx that makes up to three requests of one."""
    retry = httpx_retries.Retry(total=2, backoff_factor=0)
    in_process = httpx.ASGITransport(sandbox.app)
    return httpx.AsyncClient(transport=httpx_retries.RetryTransport(in_process, retry))


def client_of(http_client: httpx.AsyncClient, *middleware: Middleware) -> BalanceClient:
    """A client that asks through it."""
    make = partial(BalanceClient, CANARY, base_url="https://sandbox.invalid")
    return make(http_client=http_client, middleware=middleware)
