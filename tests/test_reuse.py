"""Connections kept for bursts: when they are used again, and when never."""

from __future__ import annotations

import ssl
from typing import Any

import anyio
import httpx
import pytest
import wire

from decaptcha_async import BalanceClient, ConfigurationError, DecaptchaError
from decaptcha_async._http.connections import MOST_IDLE, MOST_IN_USE, Connections, read_proxy

pytestmark = pytest.mark.anyio

KEY = "CaNaRy-f2c81e5b-this-key-is-never-to-be-seen"
OTHER = wire.GOOD.replace(b"1250.75", b"9999.99")


def slow(pause: float) -> wire.Reply:
    """A good answer, after so many seconds."""
    return wire.Reply(wire.answer().data, pause=pause)


def client_of(server: wire.Server, *, reuse: bool = True, **settings: Any) -> BalanceClient:
    """A bare client of ``server``: what fails once, fails."""
    return BalanceClient(
        KEY, base_url=server.base_url, middleware=[], reuse_connections=reuse, **settings
    )


def transport_of(client: BalanceClient) -> Connections:
    """The transport of an open client."""
    own = client._own
    assert own is not None
    assert isinstance(own._transport, Connections)
    return own._transport


async def burst(client: BalanceClient, calls: int) -> None:
    """So many calls at once."""
    async with anyio.create_task_group() as group:
        for _ in range(calls):
            group.start_soon(client.get_balance)


async def test_one_connection_serves_call_after_call() -> None:
    """C2: with reuse_connections an answer that ended cleanly leaves its connection to the next."""
    async with wire.serve() as server:
        async with client_of(server) as client:
            for _ in range(10):
                await client.get_balance()
            assert (server.connections, server.open) == (1, 1)
            assert ("connection", "close") not in server.fields()
        await server.idle()


async def test_fresh_by_default() -> None:
    """C2: by default each attempt has a connection of its own, and says that it will close it."""
    async with wire.serve() as server, client_of(server, reuse=False) as client:
        for _ in range(3):
            await client.get_balance()
        assert server.connections == 3
        assert ("connection", "close") in server.fields()


@pytest.mark.parametrize(
    "reply",
    [
        wire.answer(status="500 Internal Server Error"),
        wire.answer(b"{}"),
        wire.CUT,
        wire.Reply(wire.answer().data, "close"),
    ],
    ids=["refusal", "unusable", "cut", "closed"],
)
async def test_nothing_unusual_is_kept(reply: wire.Reply) -> None:
    """C2: after anything but a whole 200 the next attempt has a fresh connection."""
    async with wire.serve(reply, wire.answer()) as server, client_of(server) as client:
        try:
            await client.get_balance()
        except DecaptchaError:
            assert reply.data != wire.answer().data
        await client.get_balance()
        assert server.connections == 1 + (reply.data != wire.answer(b"{}").data)


async def test_a_cancelled_call_leaves_no_connection() -> None:
    """C1: a connection whose answer was not awaited is closed, not kept."""
    async with wire.serve(wire.SILENT, wire.answer()) as server, client_of(server) as client:
        with anyio.move_on_after(0.05):
            await client.get_balance()
        await server.idle()
        await client.get_balance()
        assert server.connections == 2


async def test_a_burst_keeps_its_connections() -> None:
    """C2: what a burst used serves the next one; a second later ten are left, after 15 s none."""
    async with wire.serve(slow(0.05)) as server, client_of(server) as client:
        await burst(client, 60)
        used = server.connections
        await burst(client, used)
        assert (server.connections, server.open) == (used, used)

        await _rest(client, 1.5)
        await client.get_balance()
        await server.until(lambda server: server.open == MOST_IDLE)
        assert server.connections == used

        await _rest(client, 16)
        await client.get_balance()
        await server.until(lambda server: server.open == 1)
        assert server.connections == used + 1


async def _rest(client: BalanceClient, seconds: float) -> None:
    # Sockets know no virtual time: the connections are told that they have been idle for longer.
    for connection in transport_of(client)._idle:
        connection.idle_since -= seconds


@pytest.mark.parametrize("reuse", [False, True], ids=["fresh", "reused"])
async def test_a_server_that_closes_idle_connections(*, reuse: bool) -> None:
    """C2: 300 calls, each as the server closes what was idle: no failure reaches the caller."""
    closing = wire.Reply(wire.answer().data, "close")
    async with wire.serve(closing) as server, client_of(server, reuse=reuse) as client:
        for _ in range(300):
            await client.get_balance()
        assert len(server.requests) == 300


async def test_an_idle_connection_that_dies_as_it_is_taken_up() -> None:
    """C2: the call goes on over a fresh connection; a fresh one that dies is an error."""
    dying = wire.Reply(b"", "close")
    replies = wire.answer(), dying, wire.answer(), dying
    async with wire.serve(*replies) as server, client_of(server) as client:
        await client.get_balance()
        reading = await client.get_balance()
        assert (reading.attempts, server.connections, len(server.requests)) == (1, 2, 3)
        await _rest(client, 16)
        with pytest.raises(DecaptchaError, match="closed the connection"):
            await client.get_balance()


async def test_glued_answers() -> None:
    """C2: an answer glued behind another never becomes the next balance."""
    glued = wire.Reply(wire.answer().data + wire.answer(OTHER).data)
    async with wire.serve(glued) as server, client_of(server, reuse=False) as client:
        readings = [await client.get_balance() for _ in range(50)]
    assert {reading.raw for reading in readings} == {"1250.75"}


@pytest.mark.parametrize("reuse", [False, True], ids=["fresh", "reused"])
async def test_a_thousand_at_once(*, reuse: bool) -> None:
    """C2: 1,000 calls at once on one client all succeed, on at most 100 connections at a time."""
    async with wire.serve(slow(0.02)) as server, client_of(server, reuse=reuse) as client:
        await burst(client, 1_000)
        assert len(server.requests) == 1_000
        assert 1 < server.most_open <= MOST_IN_USE


async def test_a_turn_is_waited_for_within_the_deadline() -> None:
    """C2: whose time runs out while waiting for a connection leaves the queue to the others."""
    async with wire.serve(slow(0.2)) as server, client_of(server) as client:
        async with anyio.create_task_group() as group:
            for _ in range(MOST_IN_USE):
                group.start_soon(client.get_balance)
            await server.until(lambda server: server.open == MOST_IN_USE)
            with anyio.move_on_after(0.01) as scope:
                await client.get_balance()
            assert scope.cancelled_caught
        assert len(server.requests) == MOST_IN_USE


async def test_a_connection_that_comes_back_after_closing() -> None:
    """C6: what is in use when the client closes is closed when its answer has been read."""
    async with wire.serve() as server:
        client = client_of(server)
        async with client:
            own = client._own
            assert own is not None
            async with own.stream("GET", server.base_url) as response:
                await own._transport.aclose()
                assert b"".join([piece async for piece in response.aiter_raw()]) == wire.GOOD
            await server.idle()


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        {"reuse_connections": True},
        {"ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
        {"proxy": "http://127.0.0.1:1"},
    ],
    ids=lambda settings: next(iter(settings)),
)
async def test_an_injected_client_has_its_own(settings: dict[str, Any]) -> None:
    """C4: connection settings beside an http_client are refused, not ignored."""
    async with httpx.AsyncClient() as yours:
        with pytest.raises(ConfigurationError, match="http_client has its own connections"):
            BalanceClient(KEY, http_client=yours, **settings)


async def test_a_proxy() -> None:
    """K5: a proxy that is given is used, with its credentials."""
    async with wire.serve() as proxy:
        where = proxy.base_url.replace("http://", "http://me:secret@")
        async with BalanceClient(
            KEY, base_url="http://api.invalid", allow_http=True, proxy=where, middleware=[]
        ) as client:
            await client.get_balance()
        assert proxy.requests[0].startswith(b"GET http://api.invalid/api/balance HTTP/1.1\r\n")
        assert ("proxy-authorization", "Basic bWU6c2VjcmV0") in proxy.fields()


async def test_a_proxy_over_tls() -> None:
    """K5: a proxy may be asked over TLS; it is trusted by the same context."""
    authority = wire.Authority()
    async with wire.serve(tls=authority.server) as proxy:
        async with BalanceClient(
            KEY,
            base_url="http://api.invalid",
            allow_http=True,
            proxy=proxy.base_url,
            ssl_context=authority.client,
            middleware=[],
        ) as client:
            await client.get_balance()
        assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("proxy", "problem"),
    [
        ("ftp://me:secret@127.0.0.1", "must be a URL that begins with"),
        ("127.0.0.1:8080", "must be a URL that begins with"),
        ("http://me:secret@[::1", "must be a URL that begins with"),
        (8080, "must be a URL that begins with"),
        ("http://", "needs a host"),
        ("socks5://me:secret@127.0.0.1", "needs the package socksio"),
    ],
)
def test_a_proxy_that_cannot_be(proxy: Any, problem: str) -> None:
    """K5: refused at construction, and the message shows no password."""
    with pytest.raises(ConfigurationError, match=problem) as caught:
        BalanceClient(KEY, proxy=proxy)
    assert "secret" not in str(caught.value)
    assert read_proxy(proxy)[0] is None
