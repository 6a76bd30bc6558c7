"""The kit for tests: a client of the sandbox in process, and virtual time."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from decimal import Decimal
from typing import TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from decaptcha_async import (
    AuthenticationError,
    CircuitBreaker,
    CircuitOpenError,
    Coalesce,
    Middleware,
    ServerError,
)
from decaptcha_async.sandbox import Fault, Sandbox
from decaptcha_async.testing import VirtualTimeLoop, sandbox_client, virtual_backend

T = TypeVar("T")


@pytest.mark.anyio
async def test_client_reads_the_sandbox() -> None:
    """The client asks the sandbox with its key, in process."""
    sandbox = Sandbox(balance="3.20", api_key="another", grouped=True)
    async with sandbox_client(sandbox) as client:
        reading = await client.get_balance()
    assert reading.amount == Decimal("3.20")
    assert sandbox.requests == 1


@pytest.mark.anyio
async def test_client_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key, base URL and proxy of the machine that runs the tests play no part."""
    monkeypatch.setenv("DECAPTCHA_API_KEY", "a-real-key")
    monkeypatch.setenv("DECAPTCHA_BASE_URL", "https://real.invalid")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    async with sandbox_client(Sandbox()) as client:
        assert client.base_url == "https://sandbox.invalid"
        assert (await client.get_balance()).raw == "1250.75"


@pytest.mark.anyio
async def test_client_arguments() -> None:
    """Arguments of the client are passed on: another key, no middleware, another base URL."""
    sandbox = Sandbox(script=[Fault(500)])
    base_url = "http://elsewhere.invalid"
    async with sandbox_client(
        sandbox, api_key="wrong", middleware=[], base_url=base_url, allow_http=True
    ) as client:
        assert client.base_url == base_url
        with pytest.raises(ServerError):
            await client.get_balance()
        with pytest.raises(AuthenticationError):
            await client.get_balance()
    assert sandbox.requests == 2


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_day_of_watching() -> None:
    """R13: client and sandbox live by one virtual clock, so a day's watch drains the account."""
    sandbox = Sandbox(balance="24", spend_per_second=Decimal(1) / 3600)
    start = anyio.current_time()
    seen: list[Decimal] = []
    async with (
        sandbox_client(sandbox) as client,
        aclosing(client.watch(3600, jitter=0)) as readings,
    ):
        while not seen or seen[-1]:
            seen.append((await anext(readings)).amount)
    assert seen == [Decimal(f"{left}.00") for left in range(24, -1, -1)]
    assert anyio.current_time() - start == 24 * 3600


def run(main: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run on the virtual loop."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


def test_sleeping_costs_nothing() -> None:
    """The clock starts at zero, jumps from timer to timer in their order, and reads exactly."""

    async def main() -> list[tuple[float, str]]:
        loop = asyncio.get_running_loop()
        seen = [(loop.time(), "start")]

        async def sleeper(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            seen.append((loop.time(), name))

        await asyncio.gather(sleeper(86_400 * 30, "month"), sleeper(0.1, "soon"), sleeper(7, "mid"))
        for _ in range(10):
            await sleeper(0.1, "tenth")
        return seen

    seen = run(main)
    assert seen[:4] == [(0.0, "start"), (0.1, "soon"), (7.0, "mid"), (2_592_000.0, "month")]
    assert [moment - 2_592_000 for moment, _ in seen[4:]] == pytest.approx(
        [tenth / 10 for tenth in range(1, 11)]
    )


def test_cancelled_timers_do_not_count() -> None:
    """A timeout that was left early is not jumped to."""

    async def main() -> float:
        async with asyncio.timeout(1000):
            await asyncio.sleep(1)
        await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert run(main) == 2.0


def test_what_is_ready_comes_before_time() -> None:
    """Data that has arrived is handled before time moves, even past a timer due next."""

    async def main() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)  # noqa: FBT003
            far.sendall(b"here")
            async with asyncio.timeout(0.001):
                data = await loop.sock_recv(near, 4)
                await asyncio.sleep(0)
            return data, loop.time()

    assert run(main) == (b"here", 0.0)


def test_threads_are_waited_for_without_a_timer() -> None:
    """With no timer pending the loop blocks as any other: a thread's answer wakes it."""

    async def main() -> tuple[int, float]:
        thread = await anyio.to_thread.run_sync(threading.get_ident)
        return thread, asyncio.get_running_loop().time()

    thread, time = run(main)
    assert thread != threading.get_ident()
    assert time == 0.0


def test_virtual_backend() -> None:
    """What it returns suits each backend, and again at each call."""

    async def main() -> float:
        start = anyio.current_time()
        with anyio.move_on_after(100):
            await anyio.sleep_forever()
        return anyio.current_time() - start

    for _ in range(2):
        _, options = virtual_backend("asyncio")
        assert anyio.run(main, backend="asyncio", backend_options=options) == 100.0
        _, options = virtual_backend("trio")
        assert trio.run(main, **options) == 100.0


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_one_clock_for_all() -> None:
    """R13: a cooldown and the time for which a reading is kept pass in virtual time, too."""
    sandbox = Sandbox(script=[Fault(500, times=2)])
    layers: list[Middleware] = [Coalesce(ttl=60), CircuitBreaker(2, cooldown=300)]
    async with sandbox_client(sandbox, middleware=layers) as client:
        for error, seconds in ((ServerError, 0), (ServerError, 299), (CircuitOpenError, 1)):
            with pytest.raises(error):
                await client.get_balance()
            await anyio.sleep(seconds)
        sources: list[str] = []
        for seconds in (59, 1, 0):
            sources.append((await client.get_balance()).source)
            await anyio.sleep(seconds)
    assert sources == ["network", "cache", "network"]
    assert sandbox.requests == 4


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_an_instant_sandbox_lets_others_run() -> None:
    """R13: a call in process suspends at least once, so it can be cancelled and others go on."""
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            await anyio.lowlevel.checkpoint()
            others += 1

    async with sandbox_client(Sandbox()) as client, anyio.create_task_group() as group:
        group.start_soon(other)
        for _ in range(10):
            await client.get_balance()
        group.cancel_scope.cancel()
        with pytest.raises(anyio.get_cancelled_exc_class()):
            await client.get_balance()
    assert others >= 5


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_thousand_calls_against_an_instant_outage() -> None:
    """R7: in process, too, a thousand calls that fail together make at most 1,020 requests."""
    sandbox = Sandbox(script=[Fault(503, times=9_999)])

    async def ask() -> None:
        with pytest.raises(ServerError):
            await client.get_balance()

    async with sandbox_client(sandbox) as client, anyio.create_task_group() as group:
        for _ in range(1000):
            group.start_soon(ask)
    assert 1000 <= sandbox.requests <= 1020


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_followers_of_a_cancelled_leader_against_an_instant_answer() -> None:
    """R10: in process, too, 50 followers of a cancelled leader make exactly one more request."""
    sandbox = Sandbox(script=[Fault(delay=5)])
    sources: list[str] = []

    async def lead() -> None:
        with anyio.move_on_after(1):
            await client.get_balance()

    async def follow() -> None:
        sources.append((await client.get_balance()).source)

    alone = [Coalesce()]
    async with (
        sandbox_client(sandbox, middleware=alone) as client,
        anyio.create_task_group() as all_,
    ):
        all_.start_soon(lead)
        await anyio.sleep(0.5)
        for _ in range(50):
            all_.start_soon(follow)
    assert sandbox.requests == 2
    assert sorted(sources) == ["coalesced"] * 49 + ["network"]
