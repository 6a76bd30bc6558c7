"""The aiohttp integration, served and asked over sockets."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
from aiohttp import web
from canary import CANARY

from decaptcha_async import Alert, ClientClosedError, LowBalance
from decaptcha_async.integrations import aiohttp as integration
from decaptcha_async.integrations.aiohttp import MONITOR, balance_ctx, routes
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def served(app: web.Application) -> AsyncGenerator[httpx.AsyncClient]:
    """Who asks the application on 127.0.0.1. It is started and ended in tasks of their own."""
    runner = web.AppRunner(app)
    async with asyncio.timeout(60):
        await asyncio.create_task(runner.setup())
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0]
            base_url = f"http://{host}:{port}"
            async with httpx.AsyncClient(base_url=base_url, trust_env=False) as http:
                yield http
        finally:
            await asyncio.create_task(runner.cleanup())


Context = Callable[[web.Application], AsyncIterator[None]]


def app_with(*contexts: Context) -> web.Application:
    """An application with these clean-up contexts and the routes."""
    app = web.Application()
    app.cleanup_ctx.extend(contexts)
    app.add_routes(routes)
    return app


async def test_the_balance_is_told() -> None:
    """I3: `GET /balance` is the reading as JSON, and one reading serves many who ask."""
    sandbox = Sandbox(api_key=CANARY)
    context = balance_ctx(partial(sandbox_client, sandbox), interval=60)
    async with served(app_with(context)) as http:
        answers = await asyncio.gather(*(http.get("/balance") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["amount"] for answer in answers} == {"1250.75"}
        assert answers[0].headers["cache-control"] == "no-store"
        health = await http.get("/balance/health")
        assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert sandbox.requests == 1


async def test_it_is_entered_and_left_in_different_tasks() -> None:
    """I3, M8: a monitor that polls all the time starts in one task and ends in another."""
    client = sandbox_client(Sandbox(balance="50"))
    told: list[str] = []

    async def tell(alert: Alert) -> None:
        told.append(alert.kind)

    context = balance_ctx(lambda: client, rules=[LowBalance(100)], notify=[tell])
    async with served(app_with(context)) as http:
        assert (await http.get("/balance")).json()["amount"] == "50.00"
    assert told == ["low"]
    with pytest.raises(ClientClosedError):
        await client.get_balance()


async def test_a_refused_key_is_told_and_heals() -> None:
    """I3, M7: a refused key is a 503 with the reason, the process lives, a rotated key heals it."""
    sandbox, keys = Sandbox(), [CANARY]
    make = partial(sandbox_client, sandbox, api_key=lambda: keys[0])
    async with served(app_with(balance_ctx(make, interval=0.1))) as http:
        refused = await http.get("/balance")
        assert refused.status_code == 503
        assert refused.json() == {
            "error": "AuthenticationError",
            "message": "the API key is refused (401): Invalid API key",
        }
        health = await http.get("/balance/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        keys[0] = "sandbox"
        await asyncio.sleep(0.2)
        assert (await http.get("/balance")).json()["amount"] == "1250.75"
        assert (await http.get("/balance/health")).status_code == 200


async def test_your_handlers_have_the_monitor() -> None:
    """I3: a handler finds the monitor under its key in the application."""
    app = app_with(balance_ctx(partial(sandbox_client, Sandbox())))

    async def home(request: web.Request) -> web.Response:
        return web.Response(text=str((await request.app[MONITOR].get()).amount))

    app.router.add_get("/", home)
    async with served(app) as http:
        assert (await http.get("/")).text == "1250.75"


async def test_a_part_of_the_app_has_the_monitor_too() -> None:
    """I3: the routes work in a sub-application, with the context there or in the whole."""
    context = balance_ctx(partial(sandbox_client, Sandbox()))
    for inner, outer in ((app_with(), app_with(context)), (app_with(context), web.Application())):
        outer.add_subapp("/internal", inner)
        async with served(outer) as http:
            assert (await http.get("/internal/balance")).json()["amount"] == "1250.75"


async def test_without_a_context_it_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    """I3: routes of an application without the context fail with advice in the log."""
    async with served(app_with()) as http:
        answer = await http.get("/balance")
    assert answer.status_code == 500
    assert "balance_ctx" not in answer.text
    [record] = caplog.records
    assert record.exc_info is not None
    assert "append balance_ctx()" in str(record.exc_info[1])


class Uninstalled:
    """A finder that knows that aiohttp is not there."""

    def find_spec(self, name: str, *_: object) -> None:
        """Refuse it, and leave other names to other finders."""
        if name == "aiohttp":
            message = f"No module named {name!r}"
            raise ModuleNotFoundError(message, name=name)


async def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: without aiohttp, one line names the extra."""
    for name in list(sys.modules):
        if name == integration.__name__ or name.partition(".")[0] == "aiohttp":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Uninstalled(), *sys.meta_path])
    with pytest.raises(ImportError) as caught:
        importlib.import_module(integration.__name__)
    assert "pip install 'decaptcha-async[aiohttp]'" in str(caught.value)
    assert caught.value.name == "aiohttp"
