"""Our own transport on real sockets: one connection an attempt, and none left behind."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import wire

from decaptcha_async._http.connections import MOST_IN_USE, Connections, open_client

pytestmark = pytest.mark.anyio

MOMENT = 0.05


@asynccontextmanager
async def own_client(*, tls: bool = False) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of our own; at the end every turn is free again, and nothing awaits collection."""
    async with await open_client(tls=tls) as client:
        yield client
        assert turns(client) == MOST_IN_USE
    gc.collect()


def turns(client: httpx.AsyncClient) -> int:
    """How many requests may still begin."""
    transport = client._transport
    assert isinstance(transport, Connections)
    return transport._turn.value


async def fetch(client: httpx.AsyncClient, url: str) -> bytes:
    """Ask, and read the answer to its end."""
    async with client.stream("GET", url) as response:
        return b"".join([piece async for piece in response.aiter_raw()])


async def test_a_fresh_connection_for_each_request() -> None:
    """C2: each request has a connection of its own, and says so; the server sees it closed."""
    async with wire.serve() as server, own_client() as client:
        for _ in range(3):
            assert await fetch(client, server.base_url) == wire.GOOD
            await server.idle()
        assert server.connections == len(server.requests) == 3
        assert ("connection", "close") in server.fields()


async def test_the_body_ends_the_connection() -> None:
    """C1: once the body is read to its end the connection is gone, before anybody closes it."""
    async with wire.serve() as server, own_client() as client:
        request = client.build_request("GET", server.base_url)
        response = await client.send(request, stream=True)
        assert turns(client) == MOST_IN_USE - 1
        assert await response.aread() == wire.GOOD
        await server.idle()
        assert turns(client) == MOST_IN_USE


async def test_a_body_left_unread() -> None:
    """C1: a response that is closed early takes its connection with it."""
    async with wire.serve(wire.STALLED) as server, own_client() as client:
        request = client.build_request("GET", server.base_url)
        response = await client.send(request, stream=True)
        await response.aclose()
        await server.idle()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(wire.Reply(b"\x16\x03\x01 not HTTP\r\n\r\n"), "RemoteProtocol", id="garbage"),
        pytest.param(wire.Reply(b"", "close"), "RemoteProtocolError", id="closed"),
        pytest.param(wire.CUT, "RemoteProtocolError", id="cut"),
    ],
)
async def test_a_broken_answer(reply: wire.Reply, error: str) -> None:
    """C1: after any exception the connection is closed, and the next request is not harmed."""
    async with wire.serve(reply, wire.answer()) as server, own_client() as client:
        with pytest.raises(httpx.TransportError) as caught:
            await fetch(client, server.base_url)
        assert error in type(caught.value).__name__
        await server.idle()
        assert await fetch(client, server.base_url) == wire.GOOD


async def test_nobody_listens() -> None:
    """C1: a connection that cannot be made gives its turn back."""
    with wire.nobody() as url:
        async with own_client() as client:
            with pytest.raises(httpx.ConnectError):
                await fetch(client, url)


async def test_cancelled_while_connecting() -> None:
    """C1: a cancelled connecting leaves no socket and no turn taken."""
    with wire.full() as url:
        async with own_client() as client:
            with anyio.move_on_after(MOMENT) as scope:
                await fetch(client, url)
            assert scope.cancelled_caught


async def test_cancelled_in_the_tls_handshake() -> None:
    """C1, K5: a cancelled handshake closes its socket, too; and HTTP/2 was not offered in it."""
    async with wire.serve() as server, own_client(tls=True) as client:
        with anyio.move_on_after(MOMENT * 4) as scope:
            await fetch(client, server.base_url.replace("http:", "https:"))
        assert scope.cancelled_caught
        await server.idle()
        assert server.requests == []
        assert b"\x08http/1.1" in server.unfinished
        assert b"\x02h2" not in server.unfinished


@pytest.mark.parametrize("reply", [wire.SILENT, wire.STALLED, wire.DRIPPING])
async def test_cancelled_in_the_answer(reply: wire.Reply) -> None:
    """C1: cancelled while waiting for the head or in the body, the server sees it closed."""
    async with wire.serve(reply) as server, own_client() as client:
        with anyio.move_on_after(MOMENT) as scope:
            await fetch(client, server.base_url)
        assert scope.cancelled_caught
        await server.idle()


async def test_many_cancellations() -> None:
    """C1: more cancellations than there are turns, and every good request after them succeeds."""
    silent, good = [wire.SILENT] * 120, [wire.answer()] * 20
    async with wire.serve(*silent, *good) as server, own_client() as client:
        for _ in range(3):
            before = len(server.requests)
            async with anyio.create_task_group() as impatient:
                for _ in range(40):
                    impatient.start_soon(fetch, client, server.base_url)
                await server.asked(before + 40)
                impatient.cancel_scope.cancel()
        async with anyio.create_task_group() as patient:
            for _ in range(20):
                patient.start_soon(fetch, client, server.base_url)
        await server.idle()


async def test_turns() -> None:
    """C2: at most 100 connections are in use; further requests wait, and are served in order."""
    served: list[int] = []

    async def hold(scope: anyio.CancelScope) -> None:
        with scope:
            await fetch(client, server.base_url)

    async def wait(number: int) -> None:
        await fetch(client, server.base_url)
        served.append(number)

    held = [wire.SILENT] * MOST_IN_USE
    async with wire.serve(*held, wire.answer()) as server, own_client() as client:
        async with anyio.create_task_group() as holding:
            scopes = [anyio.CancelScope() for _ in held]
            for scope in scopes:
                holding.start_soon(hold, scope)
            await server.asked(MOST_IN_USE)
            async with anyio.create_task_group() as waiting:
                for number in range(5):
                    waiting.start_soon(wait, number)
                    await anyio.wait_all_tasks_blocked()
                assert server.connections == MOST_IN_USE
                scopes[0].cancel()
            holding.cancel_scope.cancel()
        assert served == [0, 1, 2, 3, 4]
        await server.idle()


async def test_closing_fails(caplog: pytest.LogCaptureFixture) -> None:
    """C1: when closing a connection fails the answer stands, its turn is free, and DEBUG tells."""

    class Stubborn(httpx.AsyncHTTPTransport):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("what the server echoed")

    caplog.set_level(logging.DEBUG, logger="decaptcha_async")
    transport = Connections(Stubborn, reuse=False)
    async with wire.serve() as server, httpx.AsyncClient(transport=transport) as client:
        assert await fetch(client, server.base_url) == wire.GOOD
        assert turns(client) == MOST_IN_USE
        await server.idle()
    ours = [record for record in caplog.records if record.name.startswith("decaptcha_async")]
    assert [record.getMessage() for record in ours] == ["closing a connection failed: OSError"]


async def test_a_trace_of_the_caller() -> None:
    """C4: who follows a request by httpx's trace still does."""
    events: list[str] = []

    async def trace(event: str, _: Mapping[str, Any]) -> None:
        events.append(event)

    async with wire.serve() as server, own_client() as client:
        await client.get(server.base_url, extensions={"trace": trace})
    assert events[:2] == ["connection.connect_tcp.started", "connection.connect_tcp.complete"]


async def test_tls_to_its_end() -> None:
    """C1: over TLS, too, the connection is closed after the answer."""
    authority = wire.Authority()

    def connect() -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=authority.client)

    client = httpx.AsyncClient(transport=Connections(connect, reuse=False))
    async with wire.serve(tls=authority.server) as server, client:
        assert await fetch(client, server.base_url) == wire.GOOD
        await server.idle()


async def test_proxy_variables_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5: proxies of the environment see nothing."""
    async with wire.serve() as server, wire.serve() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.base_url)
        async with own_client() as client:
            assert await fetch(client, server.base_url) == wire.GOOD
        assert proxy.connections == 0


async def test_cookies_are_not_kept() -> None:
    """K5: a cookie that the server sets is not sent back."""
    baked = wire.answer(wire.GOOD, "Set-Cookie: session=1; Path=/")
    async with wire.serve(baked) as server, own_client() as client:
        for _ in range(2):
            await fetch(client, server.base_url)
        assert "cookie" not in dict(server.fields())


async def test_authorities_of_the_environment_are_not_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """K5: an authority that SSL_CERT_FILE names is not trusted by our own client."""
    authority = wire.Authority()
    file = tmp_path / "authority.pem"
    file.write_bytes(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with wire.serve(tls=authority.server) as server, own_client(tls=True) as client:
        with pytest.raises(httpx.ConnectError):
            await fetch(client, server.base_url)
        await server.idle()
        assert server.requests == []
