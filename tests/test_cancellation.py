"""What cancellation leaves behind: nothing, and a client as good as new."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
from canary import CANARY
from fakes import cancelled_at, every_way, nothing_left
from wire import Authority, serve

from decaptcha_async import BalanceClient, BalanceReading

pytestmark = pytest.mark.anyio

CANCELLATIONS = 2_000
READINGS = 100
FEWEST_SUSPENSIONS = 2

Ask = Callable[[], Coroutine[Any, Any, BalanceReading]]
Cancelled = Callable[[Ask, float], Coroutine[Any, Any, bool]]


async def by_scope(ask: Ask, seconds: float) -> bool:
    """Cancel as anyio does; whether it came to that."""
    with anyio.move_on_after(seconds) as scope:
        await ask()
    return scope.cancelled_caught


async def by_task(ask: Ask, seconds: float) -> bool:
    """Cancel as asyncio's ``Task.cancel`` does; whether it came to that."""
    task = asyncio.ensure_future(ask())
    asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def by_wait_for(ask: Ask, seconds: float) -> bool:
    """Cancel as ``asyncio.wait_for`` does; whether it came to that."""
    try:
        await asyncio.wait_for(ask(), seconds)
    except TimeoutError:
        return True
    return False


WAYS = {"asyncio": [by_scope, by_task, by_wait_for], "trio": [by_scope]}


@pytest.mark.parametrize("reuse", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("concurrency", [20, 100])
async def test_a_client_outlives_two_thousand_cancellations(
    anyio_backend_name: str, concurrency: int, *, reuse: bool
) -> None:
    """C1: after 2,000 calls cancelled at random, 100 of 100 are good, and nothing is left."""
    dice = random.Random(concurrency)
    ended = Counter[bool]()

    async with nothing_left(), serve() as server:
        async with BalanceClient(
            CANARY, base_url=server.base_url, middleware=[], reuse_connections=reuse
        ) as client:

            async def caller() -> None:
                while ended[True] < CANCELLATIONS:
                    cancelled = dice.choice(WAYS[anyio_backend_name])
                    ended[await cancelled(client.get_balance, dice.uniform(0, longest))] += 1

            await client.get_balance()
            began = anyio.current_time()
            async with anyio.create_task_group() as burst:
                for _ in range(concurrency):
                    burst.start_soon(client.get_balance)
            longest = anyio.current_time() - began
            async with anyio.create_task_group() as callers:
                for _ in range(concurrency):
                    callers.start_soon(caller)
            readings = [await client.get_balance() for _ in range(READINGS)]
        assert {reading.raw for reading in readings} == {"1250.75"}
        await server.idle()


@pytest.mark.parametrize("reuse", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@every_way
async def test_a_call_may_be_cancelled_wherever_it_waits(
    *, native: bool, secure: bool, reuse: bool
) -> None:
    """C1, W9: cancelled at its k-th suspension, for every k, a call leaves nothing behind."""
    authority = Authority()
    async with nothing_left(), serve(tls=authority.server if secure else None) as server:
        async with BalanceClient(
            CANARY,
            base_url=server.base_url,
            middleware=[],
            ssl_context=authority.client,
            reuse_connections=reuse,
        ) as client:
            moment = 1
            while await cancelled_at(moment, client.get_balance, native=native, shielded=True):
                moment += 1
                await server.until(lambda server: server.open <= reuse)
                assert (await client.get_balance()).raw == "1250.75"
                await server.until(lambda server: server.open <= reuse)
            assert moment > FEWEST_SUSPENSIONS
        await server.idle()
