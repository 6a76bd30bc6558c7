"""Redirects on real sockets: wherever they point, the key stays where it was sent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final

import httpx
import httpx2
import pytest
import wire

from decaptcha_async import BalanceClient, InvalidResponseError

pytestmark = pytest.mark.anyio

KEY: Final = "CaNaRy-7d1a90c3-goes-to-one-server"
CODES: Final = [301, 302, 303, 307, 308]
TARGETS: Final = {
    "other port": "http://127.0.0.1:{port}/api/balance",
    "other name": "http://localhost:{port}/api/balance",
    "https": "https://127.0.0.1:{port}/api/balance",
    "path": "elsewhere/balance",
    "no scheme": "//127.0.0.1:{port}/api/balance",
    "user info": "http://user:secret@127.0.0.1:{port}/api/balance",
    "letter case": "HTTP://LocalHost:{port}/Api/Balance#fragment",
}
"""A Location each; the port is the second server's."""

every_target = pytest.mark.parametrize("target", TARGETS)


@contextlib.asynccontextmanager
async def two_servers(
    target: str, code: int, authority: wire.Authority
) -> AsyncGenerator[tuple[wire.Server, wire.Server]]:
    """A server that redirects to ``target`` once, and the second server, which would answer."""
    secure = authority.server if target == "https" else None
    async with wire.serve(tls=secure) as second:
        port = second.base_url.rpartition(":")[2]
        location = f"Location: {TARGETS[target].format(port=port)}"
        moved = wire.answer(b"", location, status=f"{code} Moved")
        async with wire.serve(moved, wire.answer()) as first:
            yield first, second


@pytest.fixture(scope="module")
def authority() -> wire.Authority:
    """Whom the clients of these tests trust."""
    return wire.Authority()


@every_target
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("library", [None, httpx, httpx2])
async def test_refused(library: Any, code: int, target: str, authority: wire.Authority) -> None:
    """B3, C4: one request, one error that hides the target, and no connection to it."""
    async with contextlib.AsyncExitStack() as stack:
        settings: dict[str, Any] = {"ssl_context": authority.client}
        if library is not None:
            yours = library.AsyncClient(follow_redirects=True, verify=authority.client)
            settings = {"http_client": await stack.enter_async_context(yours)}
        first, second = await stack.enter_async_context(two_servers(target, code, authority))
        async with BalanceClient(KEY, base_url=first.base_url, **settings) as client:
            with pytest.raises(InvalidResponseError, match="change base_url") as caught:
                await client.get_balance()
        assert (caught.value.reason, caught.value.status_code) == ("redirect", code)
        assert second.base_url.rpartition(":")[2] not in str(caught.value)
        assert len(first.requests) == 1
        assert second.connections == 0


@every_target
@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_what_the_libraries_do(library: Any, target: str, authority: wire.Authority) -> None:
    """B3: a client that follows hands the key to every one of these targets; hence the refusal."""
    async with two_servers(target, 302, authority) as (first, second):
        following = library.AsyncClient(follow_redirects=True, verify=authority.client)
        async with following as client:
            answered = await client.get(first.base_url, headers={"x-api-key": KEY})
        assert answered.content == wire.GOOD
        reached = first if target == "path" else second
        assert ("x-api-key", KEY) in reached.fields()
        assert len(first.requests + second.requests) == 2
