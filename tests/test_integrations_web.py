"""What a web application answers, by whichever framework, and how long its monitor lives."""

from __future__ import annotations

import inspect
import subprocess
import sys
from functools import partial
from typing import get_type_hints

import anyio
import pytest

from decaptcha_async import (
    BalanceClient,
    BalanceMonitor,
    ClientClosedError,
    ConfigurationError,
)
from decaptcha_async.integrations import _web
from decaptcha_async.sandbox import Fault, Sandbox
from decaptcha_async.testing import sandbox_client

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def test_the_package_imports_no_integration() -> None:
    """I1: importing the package imports no integration, and none of their libraries."""
    program = """
import sys
import decaptcha_async
libraries = {"aiohttp", "apprise", "fastapi", "sse_starlette", "starlette"}
print({name for name in sys.modules if "integrations" in name or name in libraries})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_the_arguments_are_the_monitors() -> None:
    """API: an application passes every keyword argument of the monitor on, as it is typed."""
    parameters = inspect.signature(BalanceMonitor, eval_str=True).parameters.values()
    expected = {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert get_type_hints(_web.MonitorArguments) == expected


async def test_a_client_that_was_made_is_closed() -> None:
    """I2: a client is made when the application starts, and closed when it ends."""
    made: list[BalanceClient] = []

    def make() -> BalanceClient:
        made.append(sandbox_client(Sandbox()))
        return made[0]

    async with _web.opened(make, {}) as monitor:
        assert (await _web.balance(monitor)).status == 200
    [client] = made
    with pytest.raises(ClientClosedError):
        await client.get_balance()


async def test_a_client_of_yours_stays_open() -> None:
    """I2: a client that was given is asked, and left open."""
    async with sandbox_client(Sandbox()) as client:
        async with _web.opened(client, {"label": "eu"}) as monitor:
            assert (await _web.balance(monitor)).status == 200
        assert (await client.get_balance()).raw == "1250.75"


async def test_a_bad_argument_closes_what_was_made() -> None:
    """I2: an argument that cannot be is a ConfigurationError at the start; nothing stays open."""
    client = sandbox_client(Sandbox())
    with pytest.raises(ConfigurationError, match="interval"):
        async with _web.opened(lambda: client, {"interval": -1}):
            pytest.fail("it was opened")
    with pytest.raises(ClientClosedError):
        await client.get_balance()


async def test_the_balance_is_told() -> None:
    """I2, I3: the balance is answered as the reading has it, and no cache may keep it."""
    async with _web.opened(lambda: sandbox_client(Sandbox()), {}) as monitor:
        answer = await _web.balance(monitor)
        assert (answer.status, answer.body) == (200, (await monitor.get()).to_dict())
        assert answer.headers == {"Cache-Control": "no-store"}


@pytest.mark.parametrize(
    ("retry_after", "headers"),
    [("soon", {}), ("7", {"Retry-After": "7"}), ("inf", {})],
)
async def test_an_outage_is_told(retry_after: str, headers: dict[str, str]) -> None:
    """I2, I3: an outage is a 503 with the reason, and when to ask again if the service said so."""
    fault = Fault(429, headers={"retry-after": retry_after}, times=9)
    sandbox = Sandbox(script=[fault])
    async with _web.opened(lambda: sandbox_client(sandbox, middleware=[]), {}) as monitor:
        answer = await _web.balance(monitor)
    assert answer.status == 503
    assert answer.body["error"] == "RateLimitedError"
    assert "429" in str(answer.body["message"])
    assert answer.headers == {"Cache-Control": "no-store"} | headers


async def test_a_part_of_a_second_is_rounded_up() -> None:
    """I2, I3: `Retry-After` is in whole seconds, and never too early."""
    assert _web.Answer(503, {}, 0.2).headers["Retry-After"] == "1"


async def test_a_refused_key_heals() -> None:
    """I2, I3, M7: a refused key is a 503 with the reason; when the key is right again, so is it."""
    sandbox, keys = Sandbox(), ["wrong"]
    make = partial(sandbox_client, sandbox, api_key=lambda: keys[0])
    async with _web.opened(make, {"interval": 60, "jitter": 0}) as monitor:
        for _ in range(20):
            answer = await _web.balance(monitor)
            assert (answer.status, answer.body["error"]) == (503, "AuthenticationError")
            assert answer.body["message"] == "the API key is refused (401): Invalid API key"
            assert _web.health(monitor).status == 503
        assert sandbox.requests == 1
        keys[0] = "sandbox"
        await anyio.sleep(60)
        assert (await _web.balance(monitor)).status == 200
        assert _web.health(monitor).status == 200


async def test_what_others_say_is_not_passed_on() -> None:
    """I2, I3: an error that is not ours is a 503, too; its text stays in the log."""

    def ask_the_vault() -> str:
        message = "no route to vault-7.internal"
        raise LookupError(message)

    make = partial(sandbox_client, Sandbox(), api_key=ask_the_vault)
    async with _web.opened(make, {}) as monitor:
        answer = await _web.balance(monitor)
    assert (answer.status, answer.body["error"]) == (503, "LookupError")
    assert "vault" not in str(answer.body)


async def test_health_costs_nothing() -> None:
    """M10: asking for the health never polls, and nobody who asks is healthy."""
    sandbox = Sandbox()
    async with _web.opened(partial(sandbox_client, sandbox), {}) as monitor:
        _web.health(monitor)
        await anyio.sleep(3600)
        answer = _web.health(monitor)
        assert (answer.status, answer.body["status"]) == (200, "idle")
        assert answer.headers == {"Cache-Control": "no-store"}
    assert sandbox.requests == 0


async def test_an_outage_becomes_unhealthy_when_it_is_stale() -> None:
    """M3, M10: a passing failure is healthy; no reading for `stale_after` is a 503."""
    sandbox = Sandbox(script=[Fault(500, times=99)])
    make = partial(sandbox_client, sandbox, middleware=[])
    async with _web.opened(make, {"stale_after": 600}) as monitor:
        await anyio.sleep(300)
        health = _web.health(monitor)
        assert (health.status, health.body["status"]) == (200, "degraded")
        await anyio.sleep(301)
        health = _web.health(monitor)
        assert (health.status, health.body["status"]) == (503, "stale")
