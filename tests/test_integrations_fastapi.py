"""The FastAPI integration under uvicorn, asked over sockets."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from anyio.streams.memory import MemoryObjectReceiveStream
from canary import CANARY
from fastapi import APIRouter, FastAPI, WebSocket
from sse_starlette import JSONServerSentEvent

from decaptcha_async import BalanceMonitor, LowBalance
from decaptcha_async.integrations import fastapi as integration
from decaptcha_async.integrations.fastapi import Monitor, balance_lifespan, router
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client

pytestmark = pytest.mark.asyncio

Lifespan = Any


def app_with(lifespan: Lifespan) -> FastAPI:
    """An application with this lifespan and the routes."""
    app = FastAPI(lifespan=lifespan)
    app.include_router(router)
    return app


@asynccontextmanager
async def served(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """Who asks the application under uvicorn on 127.0.0.1; both end with the block."""
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None))
    server.capture_signals = nullcontext  # type: ignore[assignment, method-assign]
    listener = socket.create_server(("127.0.0.1", 0))
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with asyncio.timeout(60):
        serving = asyncio.create_task(server.serve([listener]))
        try:
            async with httpx.AsyncClient(base_url=base_url, trust_env=False) as http:
                yield http
        finally:
            server.should_exit = True
            await serving


Event = tuple[str, dict[str, Any]]


async def events(http: httpx.AsyncClient) -> AsyncGenerator[Event]:
    """The server-sent events, as they come: name and data."""
    async with http.stream("GET", "/balance/stream", timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


async def data_of(stream: AsyncGenerator[Event], name: str) -> dict[str, Any]:
    """The data of the next event of this name; those before it are passed over."""
    async for got, data in stream:
        if got == name:
            return data
    pytest.fail(f"the stream ended without {name!r}")


def telling(
    monitor: BalanceMonitor,
) -> tuple[MemoryObjectReceiveStream[JSONServerSentEvent], asyncio.Task[None]]:
    """What is sent to a client of the stream, and the task that tells it."""
    events, inbox = anyio.create_memory_object_stream[JSONServerSentEvent]()
    return inbox, asyncio.create_task(integration._tell(monitor, events, inbox))


PROGRAM = """
import uvicorn
from fastapi import FastAPI
from decaptcha_async.integrations.fastapi import balance_lifespan, router

app = FastAPI(lifespan=balance_lifespan(interval=0.1))
app.include_router(router)
uvicorn.run(app, port=0)
"""


async def test_the_balance_is_told() -> None:
    """I2: `GET /balance` is the reading as JSON, and one reading serves many who ask."""
    sandbox = Sandbox(api_key=CANARY)
    lifespan = balance_lifespan(partial(sandbox_client, sandbox), interval=60)
    async with served(app_with(lifespan)) as http:
        answers = await asyncio.gather(*(http.get("/balance") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["amount"] for answer in answers} == {"1250.75"}
        assert answers[0].headers["cache-control"] == "no-store"
        health = await http.get("/balance/health")
        assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert sandbox.requests == 1


async def test_a_refused_key_is_told_and_heals() -> None:
    """I2, M7: a refused key is a 503 with the reason, the process lives, a rotated key heals it."""
    sandbox, keys = Sandbox(), [CANARY]
    make = partial(sandbox_client, sandbox, api_key=lambda: keys[0])
    async with served(app_with(balance_lifespan(make, interval=0.1))) as http:
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


async def test_the_dependency_gives_the_monitor() -> None:
    """I2: a parameter annotated as `Monitor`, of a route or a web socket, is the monitor."""
    app = FastAPI(lifespan=balance_lifespan(partial(sandbox_client, Sandbox())))
    seen: list[BalanceMonitor] = []

    @app.get("/")
    async def home(monitor: Monitor) -> str:
        seen.append(monitor)
        return str((await monitor.get()).amount)

    async def socket_of(websocket: WebSocket, monitor: Monitor) -> None:
        seen.append(monitor)
        await websocket.close()

    app.websocket("/ws")(socket_of)
    async with served(app) as http:
        assert (await http.get("/")).json() == "1250.75"
        upgrade = {
            "connection": "upgrade",
            "upgrade": "websocket",
            "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
            "sec-websocket-version": "13",
        }
        await http.get("/ws", headers=upgrade)
    assert len(set(seen)) == 1


async def test_one_app_may_run_again() -> None:
    """I2: an application that is started again has a new client and a new monitor."""
    app = app_with(balance_lifespan(partial(sandbox_client, Sandbox()), rules=[LowBalance(1)]))
    for _ in range(2):
        async with served(app) as http:
            assert (await http.get("/balance")).status_code == 200


async def test_it_composes_with_a_lifespan_of_yours() -> None:
    """I2: entered by another lifespan, with a client of its own, it gives what it yields."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, object]]:
        async with sandbox_client(Sandbox()) as client:
            async with balance_lifespan(client)(app) as state:
                yield {**state, "pool": object()}
            assert (await client.get_balance()).raw == "1250.75"

    async with served(app_with(lifespan)) as http:
        assert (await http.get("/balance")).json()["amount"] == "1250.75"


async def test_it_composes_as_the_lifespan_of_a_router() -> None:
    """I2: on a router that is included, it runs beside the application's own lifespan."""
    states: list[str] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        states.append("started")
        yield
        states.append("ended")

    balance = APIRouter(lifespan=balance_lifespan(partial(sandbox_client, Sandbox())))
    balance.include_router(router, prefix="/internal")
    app = FastAPI(lifespan=lifespan)
    app.include_router(balance)
    async with served(app) as http:
        assert (await http.get("/internal/balance")).json()["amount"] == "1250.75"
    assert states == ["started", "ended"]


async def test_a_mounted_app_has_the_monitor_too() -> None:
    """I2: the routes work in an application that is mounted in the one with the lifespan."""
    mounted = FastAPI()
    mounted.include_router(router)
    app = FastAPI(lifespan=balance_lifespan(partial(sandbox_client, Sandbox())))
    app.mount("/api", mounted)
    async with served(app) as http:
        assert (await http.get("/api/balance")).json()["amount"] == "1250.75"


async def test_without_a_lifespan_it_says_what_to_do() -> None:
    """I2: routes of an application without the lifespan fail with advice in the log."""
    transport = httpx.ASGITransport(app_with(None))
    async with httpx.AsyncClient(transport=transport, base_url="http://app.invalid") as http:
        with pytest.raises(RuntimeError, match=r"lifespan=balance_lifespan\(\)"):
            await http.get("/balance")


async def test_no_key_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: without any key the application does not start, and the reason says so."""
    for name in ("DECAPTCHA_API_KEY", "DECAPTCHA_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="DECAPTCHA_API_KEY"):
        async with balance_lifespan()(FastAPI()):
            pytest.fail("it started")


async def test_the_stream_tells_readings() -> None:
    """I2: the stream tells a reading at once, and then those that follow."""
    sandbox = Sandbox(balance="150")
    make = partial(sandbox_client, sandbox)
    app = app_with(balance_lifespan(make, interval=0.05))
    async with served(app) as http, aclosing(events(http)) as stream:
        assert (await data_of(stream, "reading"))["amount"] == "150.00"
        sandbox.top_up(50)
        amount = "150.00"
        while amount == "150.00":
            amount = (await data_of(stream, "reading"))["amount"]
        assert amount == "200.00"


async def test_the_stream_tells_alerts() -> None:
    """I2: an alert that is raised while a client is there is told, with its message."""
    sandbox = Sandbox(balance="100.05", spend_per_second=1)
    make = partial(sandbox_client, sandbox)
    app = app_with(balance_lifespan(make, interval=0.05, rules=[LowBalance(100)]))
    async with served(app) as http, aclosing(events(http)) as stream:
        data = await data_of(stream, "alert")
        assert data["kind"] == "low"
        assert "is below 100" in data["message"]


async def test_the_stream_outlives_a_refused_key() -> None:
    """I2, M7: the stream tells why there is no reading, goes on, and tells readings again."""
    sandbox, keys = Sandbox(), ["wrong"]
    make = partial(sandbox_client, sandbox, api_key=lambda: keys[0])
    async with (
        served(app_with(balance_lifespan(make, interval=0.1))) as http,
        aclosing(events(http)) as stream,
    ):
        for _ in range(2):
            assert await anext(stream) == (
                "failed",
                {
                    "error": "AuthenticationError",
                    "message": "the API key is refused (401): Invalid API key",
                },
            )
        keys[0] = "sandbox"
        assert (await data_of(stream, "reading"))["amount"] == "1250.75"


async def test_the_stream_ends_with_the_monitor() -> None:
    """I2: when the monitor ends, so does what is told; one that begins later ends at once."""
    async with sandbox_client(Sandbox()) as client:
        async with BalanceMonitor(client) as monitor:
            told, task = telling(monitor)
            assert (await anext(told)).event == "reading"
        async with asyncio.timeout(10):
            await task
            _, task = telling(monitor)
            await task


@pytest.mark.parametrize("key", ["sandbox", "wrong"])
async def test_a_server_that_cannot_send_ends_the_stream(key: str) -> None:
    """I2: when nobody takes what is told any more, the telling ends, without an error."""
    sandbox = Sandbox(spend_per_second=1)
    async with (
        asyncio.timeout(10),
        sandbox_client(sandbox, api_key=key) as client,
        BalanceMonitor(client, interval=0.05) as monitor,
    ):
        told, task = telling(monitor)
        await anext(told)
        await told.aclose()
        await task


async def test_sigterm_ends_the_process_with_a_client_attached() -> None:
    """I2: with a client on the stream, uvicorn ends within 2 s of SIGTERM, and cleanly."""
    async with asyncio.timeout(60), Sandbox(api_key=CANARY).serve() as base_url:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            env=os.environ | {"DECAPTCHA_API_KEY": CANARY, "DECAPTCHA_BASE_URL": base_url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        printed = ""
        while not (found := re.search(r"running on (http://\S+)", printed)):
            printed += (await process.stdout.readline()).decode()
        async with (
            httpx.AsyncClient(base_url=found[1], trust_env=False) as http,
            aclosing(events(http)) as stream,
        ):
            assert (await anext(stream))[0] == "reading"
            process.terminate()
            begun = time.monotonic()
            await process.wait()
            lasted = time.monotonic() - begun
        printed += (await process.stdout.read()).decode()
    assert "Application shutdown complete" in printed
    assert "Traceback" not in printed
    assert lasted < 2


class Uninstalled:
    """A finder that knows that a library is not there."""

    def __init__(self, library: str) -> None:
        self.library = library

    def find_spec(self, name: str, *_: object) -> None:
        """Refuse the library, and leave other names to other finders."""
        if name == self.library:
            message = f"No module named {name!r}"
            raise ModuleNotFoundError(message, name=name)


@pytest.mark.parametrize("library", ["fastapi", "sse_starlette"])
async def test_without_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: without fastapi or sse-starlette, one line names the extra."""
    for name in list(sys.modules):
        if name == integration.__name__ or name.partition(".")[0] == library:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Uninstalled(library), *sys.meta_path])
    with pytest.raises(ImportError) as caught:
        importlib.import_module(integration.__name__)
    assert "pip install 'decaptcha-async[fastapi]'" in str(caught.value)
    assert caught.value.name == library
