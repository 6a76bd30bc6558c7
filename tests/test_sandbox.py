"""The sandbox against the vendor's page, by plain httpx: nothing of the client is involved."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import sys
from collections.abc import MutableMapping
from decimal import Decimal
from itertools import pairwise
from typing import Any

import anyio
import httpx
import pytest

from decaptcha_async.sandbox import Fault, Sandbox

anyio_test = pytest.mark.anyio
virtual_time = pytest.mark.virtual_time


async def ask(
    sandbox: Sandbox,
    key: str | None = "sandbox",
    *,
    method: str = "GET",
    path: str = "/api/balance",
) -> httpx.Response:
    """One request, in process."""
    transport = httpx.ASGITransport(sandbox.app)
    async with httpx.AsyncClient(transport=transport, base_url="https://sandbox.invalid") as client:
        return await client.request(
            method, path, headers={} if key is None else {b"x-api-key": key.encode()}
        )


async def shown(sandbox: Sandbox) -> str:
    """The balance that the sandbox shows now."""
    data: str = (await ask(sandbox)).json()["data"]
    return data


@anyio_test
async def test_right_key() -> None:
    """The right key gets the documented success, the balance as a string with two decimals."""
    answer = await ask(Sandbox())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "isSuccess": True,
        "statusCode": 200,
        "errorMessage": None,
        "data": "1250.75",
    }


@anyio_test
@pytest.mark.parametrize("key", [None, "", "wrong", "sandbox2", "SANDBOX", "sändbox"])
async def test_wrong_key(key: str | None) -> None:
    """A missing or wrong key gets the documented 401 (vendor's page: error response)."""
    answer = await ask(Sandbox(), key)
    assert answer.status_code == 401
    assert answer.json() == {
        "isSuccess": False,
        "statusCode": 401,
        "errorMessage": "Invalid API key",
        "data": None,
    }


@anyio_test
async def test_two_keys() -> None:
    """A request with two keys is refused even if one is right: a client must send one."""
    transport = httpx.ASGITransport(Sandbox().app)
    async with httpx.AsyncClient(transport=transport) as client:
        keys = [("x-api-key", "sandbox"), ("x-api-key", "sandbox")]
        answer = await client.get("https://sandbox.invalid/api/balance", headers=keys)
    assert answer.status_code == 401


@anyio_test
@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/api/balance", 405, "Method Not Allowed"),
        ("GET", "/api/balance/", 404, "Not Found"),
        ("GET", "/", 404, "Not Found"),
    ],
)
async def test_elsewhere(method: str, path: str, status: int, message: str) -> None:
    """Only GET of the one documented path is answered; the script is kept for it."""
    sandbox = Sandbox(script=[Fault(500)])
    answer = await ask(sandbox, method=method, path=path)
    assert answer.status_code == status
    assert answer.headers.get("allow") == ("GET" if status == 405 else None)
    assert answer.json()["errorMessage"] == message
    assert sandbox.requests == 1
    assert (await ask(sandbox)).status_code == 500


@anyio_test
async def test_mounted() -> None:
    """Mounted under a prefix in another application, it answers below the prefix."""
    transport = httpx.ASGITransport(Sandbox().app, root_path="/mock")
    async with httpx.AsyncClient(transport=transport) as client:
        url = "https://sandbox.invalid/mock/api/balance"
        answer = await client.get(url, headers={"x-api-key": "sandbox"})
    assert answer.json()["data"] == "1250.75"


@anyio_test
@pytest.mark.parametrize(
    ("balance", "grouped", "data"),
    [
        ("1250.75", True, "1,250.75"),
        (Decimal("1234567.899"), True, "1,234,567.89"),
        (999, True, "999.00"),
        ("0.019", False, "0.01"),
        (0, False, "0.00"),
    ],
)
async def test_forms(balance: Decimal | int | str, grouped: bool, data: str) -> None:  # noqa: FBT001
    """Amounts have two decimals, rounded down, and commas on request."""
    assert await shown(Sandbox(balance=balance, grouped=grouped)) == data


@anyio_test
@virtual_time
async def test_spending() -> None:
    """Spending starts with the first answer, is exact, and is drained by virtual time."""
    sandbox = Sandbox(balance="10", spend_per_second="0.1")
    await anyio.sleep(50)
    seen: list[str] = []
    for _ in range(4):
        seen.append(await shown(sandbox))
        await anyio.sleep(0.1)
    await anyio.sleep(3600 - 0.4)
    assert seen == ["10.00", "9.99", "9.98", "9.97"]
    assert await shown(sandbox) == "0.00"


@anyio_test
@virtual_time
async def test_top_up() -> None:
    """A top-up adds to what is left at that moment: an empty account owes nothing."""
    sandbox = Sandbox(balance="1", spend_per_second="0.10")
    sandbox.top_up("4")
    assert await shown(sandbox) == "5.00"
    await anyio.sleep(10)
    sandbox.top_up(1)
    assert await shown(sandbox) == "5.00"
    await anyio.sleep(60)
    sandbox.top_up(Decimal("2.50"))
    assert await shown(sandbox) == "2.50"


@anyio_test
@virtual_time
async def test_seed() -> None:
    """A seed spends unevenly, at the given rate on average, and the same way each time."""

    async def hour(seed: int, every: float) -> list[Decimal]:
        sandbox = Sandbox(balance="5000", spend_per_second="1", seed=seed)
        amounts = [Decimal(await shown(sandbox))]
        for _ in range(round(3600 / every)):
            await anyio.sleep(every)
            amounts.append(Decimal(await shown(sandbox)))
        return amounts

    often, seldom, other = await hour(7, 60), await hour(7, 1800), await hour(8, 1800)
    assert often[0] == 5000
    assert often[::30] == seldom != other
    assert len({before - after for before, after in pairwise(often)}) > 10
    assert 1200 < often[-1] < 1600


@anyio_test
async def test_script() -> None:
    """Faults are played in order, each as often as it says, then normal answers follow."""
    script = [
        Fault(500),
        Fault(429, headers={"Retry-After": "1"}, times=2),
        Fault(200, body="<html>", headers=[("content-type", "text/html")]),
        Fault(401),
        Fault(599, body=b"\xff"),
        Fault(302, headers={"Location": "https://elsewhere.invalid/"}),
        Fault(204, body="none may be sent"),
        Fault(),
    ]
    sandbox = Sandbox(script=script)
    answers = [await ask(sandbox) for _ in range(10)]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [500, 429, 429, 200, 401, 599, 302, 204, 200, 200]
    assert answers[0].json()["errorMessage"] == "Internal server error"
    assert answers[2].headers["retry-after"] == "1"
    assert answers[2].json()["errorMessage"] == "Too Many Requests"
    assert answers[3].text == "<html>"
    assert answers[3].headers.get_list("content-type") == ["text/html"]
    assert answers[4].json()["errorMessage"] == "Invalid API key"
    assert answers[5].content == b"\xff"
    assert answers[6].headers["location"] == "https://elsewhere.invalid/"
    assert answers[7].content == b""
    assert answers[8].json() == answers[9].json()
    assert sandbox.requests == 10


@anyio_test
async def test_fault_before_the_key() -> None:
    """A scripted status comes whatever the key; without one the key still decides."""
    sandbox = Sandbox(script=[Fault(503), Fault(599)])
    answers = [await ask(sandbox, "wrong") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 599, 401]
    assert answers[1].json()["errorMessage"] == "Unknown status"


@anyio_test
@virtual_time
async def test_delay() -> None:
    """A delay is waited on the loop's clock, and then the normal answer comes."""
    sandbox = Sandbox(script=[Fault(delay=3600)])
    start = anyio.current_time()
    assert await shown(sandbox) == "1250.75"
    assert anyio.current_time() - start == 3600


@anyio_test
@virtual_time
async def test_silence_ends_with_the_caller() -> None:
    """An endless delay ends when the caller in process is cancelled."""
    sandbox = Sandbox(script=[Fault(delay=math.inf)])
    with anyio.move_on_after(30) as scope:
        await ask(sandbox)
    assert scope.cancelled_caught
    assert await shown(sandbox) == "1250.75"


@anyio_test
async def test_client_leaves() -> None:
    """A client that disconnects during a delay is not answered; the next one is."""
    messages = iter([{"type": "http.request"}, {"type": "http.disconnect"}])
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/api/balance", "headers": []}
    sandbox = Sandbox(script=[Fault(delay=math.inf)])
    await sandbox.app(scope, receive, send)
    assert sent == []
    await sandbox.app(scope, receive, send)
    assert sent == ["http.response.start", "http.response.body"]


@anyio_test
async def test_lifespan() -> None:
    """Startup and shutdown of a server are acknowledged; what is not HTTP is refused."""
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    await Sandbox().app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(ValueError, match="not websocket"):
        await Sandbox().app({"type": "websocket"}, receive, send)


@pytest.mark.parametrize(
    ("arguments", "error", "advice"),
    [
        ({"balance": 1250.75}, TypeError, "a float is inexact"),
        ({"balance": True}, TypeError, "a bool is inexact"),
        (
            {"balance": "1,250.75"},
            ValueError,
            "like '1250.75', from 0 to below 10¹⁵, not '1,250.75'",
        ),
        ({"balance": "-0.01"}, ValueError, "not '-0.01'"),
        ({"balance": 10**15}, ValueError, "below 10¹⁵"),
        ({"balance": Decimal("NaN")}, ValueError, "NaN"),
        ({"spend_per_second": Decimal("Infinity")}, ValueError, "Infinity"),
        ({"api_key": ""}, ValueError, "visible ASCII"),
        ({"api_key": "two words"}, ValueError, "visible ASCII"),
        ({"script": [500]}, TypeError, "takes faults"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], advice: str) -> None:
    """What the sandbox cannot be is refused when it is made, with advice."""
    with pytest.raises(error) as caught:
        Sandbox(**arguments)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"status": 99}, ValueError),
        ({"status": 600}, ValueError),
        ({"status": "500"}, TypeError),
        ({"body": 5}, TypeError),
        ({"headers": "x"}, ValueError),
        ({"delay": -1}, ValueError),
        ({"delay": math.nan}, ValueError),
        ({"times": 0}, ValueError),
    ],
)
def test_bad_faults(arguments: dict[str, Any], error: type[Exception]) -> None:
    """A fault that could not be played is refused when it is made."""
    with pytest.raises(error):
        Fault(**arguments)


def test_bad_top_up() -> None:
    """A top-up is an amount, by the rules of the constructor."""
    with pytest.raises(TypeError, match="a float is inexact"):
        Sandbox().top_up(1.5)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_serve() -> None:
    """Served on loopback, it answers over a socket; signals are left alone; nothing remains."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    sandbox = Sandbox(grouped=True)
    async with sandbox.serve() as base_url, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{base_url}/api/balance", headers={"x-api-key": "sandbox"})
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert base_url.startswith("http://127.0.0.1:")
    assert answer.json()["data"] == "1,250.75"
    assert sandbox.requests == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with pytest.raises(ConnectionRefusedError), socket.socket() as probe:
        probe.connect(("127.0.0.1", httpx.URL(base_url).port))


@pytest.mark.asyncio
async def test_serve_ends_at_once() -> None:
    """Leaving does not wait for a delay: the answer that it held back is given."""
    sandbox = Sandbox(script=[Fault(delay=math.inf)])
    headers = {"x-api-key": "sandbox"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=None) as client:  # noqa: S113
        with anyio.fail_after(10):
            async with sandbox.serve() as base_url:
                asking = asyncio.create_task(client.get(f"{base_url}/api/balance"))
                while not sandbox._delays:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            assert (await asking).json()["data"] == "1250.75"


@pytest.mark.asyncio
async def test_serve_after_cancellation() -> None:
    """A block that is cancelled still closes its server."""
    with anyio.CancelScope() as scope:
        async with Sandbox().serve():
            scope.cancel()
            await anyio.sleep_forever()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.asyncio
async def test_serve_cuts_the_body() -> None:
    """A content-length above the body's makes the server break off in the middle."""
    script = [Fault(body='{"isSuccess": tr', headers={"Content-Length": "99"})]
    async with Sandbox(script=script).serve() as base_url:
        host, port = "127.0.0.1", httpx.URL(base_url).port
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /api/balance HTTP/1.1\r\nhost: x\r\n\r\n")
        with anyio.fail_after(10):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert b"content-length: 99" in answer
    assert answer.endswith(b'\r\n\r\n{"isSuccess": tr')


@pytest.mark.asyncio
async def test_serve_on_a_port() -> None:
    """The port may be chosen; one that is taken is an OSError at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await Sandbox().serve(port).__aenter__()
    async with Sandbox().serve(port) as base_url:
        assert base_url == f"http://127.0.0.1:{port}"


@anyio_test
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_serve_on_trio() -> None:
    """On trio, which uvicorn does not know, serving is refused at once with the way out."""
    with pytest.raises(RuntimeError, match=r"use Sandbox\.app"):
        await Sandbox().serve().__aenter__()


@pytest.mark.asyncio
async def test_serve_without_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: without uvicorn the ImportError names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"pip install 'decaptcha-async\[sandbox\]'"):
        await Sandbox().serve().__aenter__()
