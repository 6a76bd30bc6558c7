# ruff: noqa: D103 - the names say it
"""Every public name in use, as type checkers see it. Never run; mypy and pyright check it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, assert_type

import anyio
import httpx
import httpx2
import trio
from aiohttp import web
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette

from decaptcha_async import (
    Adaptive,
    Alert,
    APIError,
    Attempt,
    AuthenticationError,
    BalanceClient,
    BalanceMonitor,
    BalanceReading,
    BurnRate,
    Call,
    CallLog,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ClientClosedError,
    Coalesce,
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    Exponential,
    Handler,
    HTTPClient,
    Interval,
    InvalidResponseError,
    LowBalance,
    LowRunway,
    Middleware,
    MonitorState,
    Notifier,
    PollFailed,
    RateLimitedError,
    Retry,
    RetryBudget,
    Seconds,
    ServerError,
    Subscription,
    SupportsWait,
    Timeout,
    TLSError,
    TransportError,
    default_middleware,
)
from decaptcha_async.dashboard import create_app
from decaptcha_async.errors import GaveUp, Phase
from decaptcha_async.integrations.aiohttp import MONITOR, balance_ctx, routes
from decaptcha_async.integrations.apprise import AppriseNotifier
from decaptcha_async.integrations.fastapi import Monitor, balance_lifespan, router
from decaptcha_async.sandbox import Fault, Sandbox
from decaptcha_async.testing import VirtualTimeLoop, sandbox_client, virtual_backend

# The client.

BalanceClient()
BalanceClient("key")
BalanceClient(lambda: "key")
BalanceClient(base_url="https://decaptcha.net", allow_http=False)
BalanceClient(middleware=[])
BalanceClient(middleware=default_middleware())
BalanceClient(middleware=(Timeout(30), Retry()))
BalanceClient(http_client=httpx.AsyncClient())
BalanceClient(http_client=httpx2.AsyncClient())
BalanceClient(reuse_connections=True)
BalanceClient(ssl_context=ssl.create_default_context())
BalanceClient(proxy="http://127.0.0.1:3128")
BalanceClient(proxy=httpx.URL("http://127.0.0.1:3128"))  # type: ignore[arg-type]
BalanceClient(b"key")  # type: ignore[arg-type]
BalanceClient(http_client=httpx.Client())  # type: ignore[arg-type]

http_client: HTTPClient = httpx.AsyncClient()
http_client = httpx2.AsyncClient()


async def use_client() -> None:
    async with BalanceClient() as client:
        assert_type(client, BalanceClient)
        assert_type(client.base_url, str)
        assert_type(await client.get_balance(), BalanceReading)
        await client.get_balance(max_attempts=1)
        assert_type(await client.aclose(), None)
        client.base_url = ""  # type: ignore[misc]


# Readings.


def use_reading(reading: BalanceReading) -> None:
    assert_type(reading.amount, Decimal)
    assert_type(reading.raw, str)
    assert_type(reading.taken_at, datetime)
    assert_type(reading.latency, float)
    assert_type(reading.attempts, int)
    assert_type(reading.source, Literal["network", "coalesced", "cache", "shared"])
    assert_type(reading.age, float)
    assert_type(reading.to_dict(), dict[str, str | float | int])
    assert_type(reading.seconds_since(reading), float)
    reading.amount = Decimal(1)  # type: ignore[misc]
    BalanceReading(amount=Decimal(1), raw="1", taken_at=reading.taken_at, latency=0.1)


# Watching.


async def use_watch(client: BalanceClient) -> None:
    assert_type(client.watch(), AsyncGenerator[BalanceReading, None])
    assert_type(client.watch(on_error="retry"), AsyncGenerator[BalanceReading, None])
    client.watch(timedelta(minutes=1), jitter=0, initial_delay="random", changes_only=True)
    client.watch(5, initial_delay=timedelta(seconds=1), give_up_after=600)
    client.watch(Adaptive("100.00"))
    client.watch(lambda reading, burn: 60.0 if burn is None else float(reading.amount / burn))
    client.watch(stop=asyncio.Event())
    client.watch(stop=anyio.Event())
    client.watch(stop=trio.Event())
    client.watch(on_error="raise")  # type: ignore[call-overload]
    async for reading in client.watch():
        assert_type(reading, BalanceReading)
    async for outcome in client.watch(on_error="yield"):
        if isinstance(outcome, PollFailed):
            assert_type(outcome.error, DecaptchaError)
            assert_type(outcome.failures, int)
            assert_type(outcome.next_delay, float)
        else:
            assert_type(outcome, BalanceReading)


stop: SupportsWait = asyncio.Event()
stop = anyio.Event()
stop = trio.Event()

# Forecast.


def use_burn_rate(rate: BurnRate, reading: BalanceReading) -> None:
    assert_type(rate.feed(reading), None)
    assert_type(rate.per_second, Decimal | None)
    assert_type(rate.runway(reading.amount), float | None)
    assert_type(rate.runway("1250.75", down_to=100), float | None)
    BurnRate(timedelta(minutes=15))
    rate.runway(1250.75)  # type: ignore[arg-type]


adaptive = Adaptive(Decimal(100), fastest=15, slowest=timedelta(minutes=30), parts=10)
assert_type(adaptive.threshold, Decimal)
assert_type(adaptive.fastest, float)
interval: Interval = adaptive

# Monitor and alerts.

low = LowBalance("100.00", rearm=110, confirm=2, remind=timedelta(hours=1))
assert_type(low.threshold, Decimal)
runway = LowRunway(timedelta(hours=2), rearm=9000, window=900)
assert_type(runway.within, float)
LowBalance(100.0)  # type: ignore[arg-type]


def use_rules(reading: BalanceReading) -> None:
    assert_type(low.feed(reading), Alert | None)
    assert_type(runway.feed(reading), Alert | None)


async def tell(alert: Alert) -> None:
    assert_type(alert.kind, Literal["low", "recovered", "stale", "runway", "reminder"])
    assert_type(alert.rule, str)
    assert_type(alert.threshold, Decimal | float)
    assert_type(alert.reading, BalanceReading | None)
    assert_type(alert.at, datetime)
    assert_type(alert.message, str)
    alert.to_dict()


def tell_without_await(alert: Alert) -> None:
    raise NotImplementedError


notifier: Notifier = tell
notifier = AppriseNotifier("mailtos://example.com", "jsons://example.com/hook")
AppriseNotifier(["jsons://example.com"])  # type: ignore[arg-type]
notifier = tell_without_await  # type: ignore[assignment]


async def use_monitor(client: BalanceClient) -> None:
    monitor = BalanceMonitor(
        client,
        interval=Adaptive(100),
        jitter=0.05,
        rules=[low, runway],
        stale_after=timedelta(minutes=10),
        notify=[tell],
        max_age=90,
        label="eu-1",
    )
    async with monitor, monitor.subscribe() as readings, monitor.alerts() as alerts:
        assert_type(readings, Subscription[BalanceReading])
        assert_type(alerts, Subscription[Alert])
        assert_type(await monitor.get(max_age=5), BalanceReading)
        assert_type(await monitor.wait_for("150.00"), BalanceReading)
        await monitor.wait_for(lambda reading: reading.amount > 150, spread=60)
        async for reading in readings:
            assert_type(reading, BalanceReading)
        async for alert in alerts:
            assert_type(alert, Alert)
    use_state(monitor.state)
    monitor.state = monitor.state  # type: ignore[misc]
    assert_type(monitor.rules, tuple[LowBalance | LowRunway, ...])
    assert_type(monitor.label, str)
    assert_type(create_app(monitor), Starlette)
    create_app(monitor, allowed_hosts=["wall.example"], history=timedelta(hours=6))


def use_state(state: MonitorState) -> None:
    assert_type(state.status, Literal["idle", "ok", "degraded", "stale", "failed"])
    assert_type(state.reading, BalanceReading | None)
    assert_type(state.error, DecaptchaError | None)
    assert_type(state.since, datetime)
    assert_type(state.burn_per_second, Decimal | None)
    assert_type(state.runway, float | None)
    assert_type(state.healthy, bool)
    assert_type(state.to_dict(), dict[str, object])


# Middleware.

seconds: Seconds = 1
seconds = 1.5
seconds = timedelta(seconds=1)

assert_type(
    default_middleware(timeout=30, attempts=4, attempt_timeout=timedelta(seconds=10)),
    list[Middleware],
)

timeout: Middleware = Timeout(timedelta(seconds=30))
assert_type(Timeout(30).seconds, float)

retry: Middleware = Retry(
    attempts=4,
    backoff=[0.5, 1, timedelta(seconds=5)],
    when=lambda error: error.retryable,
    max_retry_after=60,
    budget=None,
    on_retry=lambda attempt: attempt.delay,
)
Retry(4, backoff=Exponential(0.5, factor=2, cap=8, jitter="equal"), budget=RetryBudget())

exponential = Exponential(timedelta(seconds=1), cap=timedelta(seconds=8))
assert_type(exponential.base, float)
assert_type(next(iter(exponential)), float)

budget = RetryBudget(10, ratio=0.2, per_second=1)
assert_type(budget.earn("account"), None)
assert_type(budget.spend("account"), bool)


breaker: Middleware = CircuitBreaker(5, cooldown=timedelta(seconds=30), on_change=print)
assert_type(CircuitBreaker().state, CircuitState)
coalesce: Middleware = Coalesce(ttl=timedelta(seconds=5))
assert_type(Coalesce().ttl, float)


async def mine(call: Call, call_next: Handler) -> BalanceReading:
    assert_type(call.operation, str)
    assert_type(call.attempt, int)
    assert_type(call.max_attempts, int | None)
    assert_type(call.account, str)
    assert_type(call.log, CallLog)
    assert_type(call.log.requests, int)
    assert_type(call.log.host, str)
    assert_type(call.log.phase, Phase | None)
    assert_type(call.log.earlier_attempts, tuple[Attempt, ...])
    assert_type(call.log.refused_delay, float | None)
    return await call_next(call)


def without_await(call: Call, call_next: Handler) -> BalanceReading:
    raise NotImplementedError


middleware: Middleware = mine
middleware = without_await  # type: ignore[assignment]

# Errors.


async def use_errors(client: BalanceClient) -> None:
    try:
        await client.get_balance()
    except (AuthenticationError, RateLimitedError, ServerError) as error:
        assert_type(error.status_code, int)
        assert_type(error.api_status_code, int | None)
        assert_type(error.message, str)
    except TLSError as error:
        assert_type(error.phase, Phase)
    except (TransportError, DeadlineExceededError) as error:
        assert_type(error.phase, Phase | None)
        assert_type(error.host, str)
    except InvalidResponseError as error:
        assert_type(error.reason, str)
        assert_type(error.status_code, int | None)
        assert_type(error.content_type, str | None)
    except (CircuitOpenError, ClientClosedError, ConfigurationError) as error:
        assert_type(error.retryable, bool)
        assert_type(error.healthy, bool | None)
        assert_type(error.retry_after, float | None)
        assert_type(error.earlier_attempts, tuple[Attempt, ...])
        assert_type(error.gave_up, GaveUp | None)


def use_attempt(attempt: Attempt) -> None:
    assert_type(attempt.number, int)
    assert_type(attempt.elapsed, float)
    assert_type(attempt.error, DecaptchaError)
    assert_type(attempt.delay, float)


api_error: DecaptchaError = APIError(status_code=404)
as_value_error: ValueError = ConfigurationError("problem")
as_runtime_error: RuntimeError = ClientClosedError("closed")
as_timeout_error: TimeoutError = DeadlineExceededError("late")

# The sandbox and the kit for tests.

Sandbox()
Sandbox(
    balance=Decimal(1),
    api_key="key",
    spend_per_second="0.10",
    grouped=True,
    script=[Fault(500), Fault(body=b"", headers={"retry-after": "1"}, delay=1, times=2)],
    seed=1,
)
Sandbox(balance=1.5)  # type: ignore[arg-type]
Fault(429, headers=[("retry-after", "1")])


async def use_sandbox(sandbox: Sandbox) -> None:
    assert_type(sandbox.requests, int)
    assert_type(sandbox.api_key, str)
    assert_type(sandbox.top_up("50"), None)
    async with sandbox.serve(port=0) as base_url:
        assert_type(base_url, str)
    httpx.AsyncClient(transport=httpx.ASGITransport(sandbox.app))
    assert_type(sandbox_client(sandbox, middleware=[]), BalanceClient)
    sandbox_client(sandbox, timeout=3)  # type: ignore[call-arg]


assert_type(virtual_backend("trio"), tuple[str, dict[str, Any]])
with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
    assert_type(runner.run(use_sandbox(Sandbox())), None)

# FastAPI and aiohttp.


def make_client() -> BalanceClient:
    return BalanceClient()


FastAPI(lifespan=balance_lifespan())
FastAPI(lifespan=balance_lifespan(BalanceClient(), interval=timedelta(minutes=1), max_age=90))
APIRouter(lifespan=balance_lifespan(make_client, rules=[LowBalance(100)], stale_after=1800))
balance_lifespan(timeout=3)  # type: ignore[call-arg]
balance_lifespan("key")  # type: ignore[arg-type]
FastAPI().include_router(router, prefix="/internal")


async def use_dependency(monitor: Monitor) -> None:
    assert_type(monitor, BalanceMonitor)


async def use_lifespan(app: FastAPI) -> None:
    async with balance_lifespan()(app) as state:
        assert_type(state, dict[str, BalanceMonitor])


def use_aiohttp(request: web.Request) -> None:
    app = web.Application()
    app.cleanup_ctx.append(balance_ctx())
    app.cleanup_ctx.append(balance_ctx(make_client, interval=60, label="eu"))
    balance_ctx(timeout=3)  # type: ignore[call-arg]
    app.add_routes(routes)
    assert_type(app[MONITOR], BalanceMonitor)
    assert_type(request.app[MONITOR], BalanceMonitor)
