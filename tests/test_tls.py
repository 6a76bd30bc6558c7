"""TLS on real sockets: who is not trusted is told nothing, and the error says what to do."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio
import attrs
import httpx
import httpx2
import pytest
import trustme
from anyio.abc import ByteStream, SocketAttribute
from wire import Server, answer

from decaptcha_async import BalanceClient, Middleware, TLSError, TransportError

pytestmark = pytest.mark.anyio

KEY: Final = "CaNaRy-0b93e6fd-for-the-right-server"
every_client = pytest.mark.parametrize("library", [None, httpx, httpx2])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Whom the clients of these tests trust, unless they say otherwise."""
    return trustme.CA()


def certified(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """For a server that shows ``certificate``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with certificate.private_key_and_cert_chain_pem.tempfile() as file:
        context.load_cert_chain(file)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """For a client that trusts ``authority`` and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    return context


class Heard(ByteStream):
    """A connection of which every byte that came in is kept."""

    def __init__(self, stream: ByteStream, heard: bytearray) -> None:
        self._stream = stream
        self._heard = heard

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive, and keep."""
        data = await self._stream.receive(max_bytes)
        self._heard += data
        return data

    async def send(self, item: bytes) -> None:
        """Send."""
        await self._stream.send(item)

    async def send_eof(self) -> None:
        """Say that no more is sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close."""
        await self._stream.aclose()


@contextlib.asynccontextmanager
async def serve(
    tls: ssl.SSLContext | None, *, host: str = "127.0.0.1", greeting: bytes = b""
) -> AsyncGenerator[tuple[Server, bytearray]]:
    """A server that answers well, and all that it heard, as it came over the wire."""
    heard = bytearray()
    async with (
        await anyio.create_tcp_listener(local_host=host) as listener,
        anyio.create_task_group() as connections,
    ):
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
        server = Server(port, (answer(),), tls=tls, greeting=greeting)

        async def handle(stream: ByteStream) -> None:
            await server.handle(Heard(stream, heard))

        connections.start_soon(listener.serve, handle)
        yield server, heard
        connections.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def asking(
    library: Any,
    base_url: str,
    context: ssl.SSLContext | None,
    middleware: list[Middleware] | None = None,
) -> AsyncGenerator[BalanceClient]:
    """A client that has ``context`` itself, or an injected one of ``library`` that has it."""
    async with contextlib.AsyncExitStack() as stack:
        settings: dict[str, Any] = {"ssl_context": context}
        if library is not None:
            yours = library.AsyncClient(verify=context or True, trust_env=False)
            settings = {"http_client": await stack.enter_async_context(yours)}
        client = BalanceClient(KEY, base_url=base_url, middleware=middleware, **settings)
        yield await stack.enter_async_context(client)


@every_client
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_trusted(library: Any, host: str, authority: trustme.CA) -> None:
    """C3, C4: a server of one's own authority is asked below a prefix, over IPv4 and IPv6."""
    place = "[::1]" if host == "::1" else host
    async with serve(certified(authority.issue_cert(host)), host=host) as (server, heard):
        url = server.base_url.replace("127.0.0.1", place) + "/proxied/decaptcha/"
        async with asking(library, url, trusting(authority)) as client:
            assert str((await client.get_balance()).amount) == "1250.75"
        assert server.requests[0].startswith(b"GET /proxied/decaptcha/api/balance HTTP/1.1\r\n")
        assert ("host", url.split("/")[2]) in server.fields()
        assert ("x-api-key", KEY) in server.fields()
        assert KEY.encode() not in heard
        await server.idle()


@attrs.frozen
class Refusal:
    """A server, a client's context, and what the client says of it."""

    server: Callable[[trustme.CA], ssl.SSLContext | None]
    says: str
    client: Callable[[trustme.CA], ssl.SSLContext | None] = trusting
    greeting: bytes = b""
    name: str = "127.0.0.1"


def expired(authority: trustme.CA) -> ssl.SSLContext:
    """A certificate of the day before yesterday."""
    now = datetime.now(UTC)
    return certified(
        authority.issue_cert(
            "127.0.0.1", not_before=now - timedelta(days=3), not_after=now - timedelta(days=2)
        )
    )


def good(authority: trustme.CA) -> ssl.SSLContext:
    """A certificate that nothing is wrong with."""
    return certified(authority.issue_cert("127.0.0.1"))


TRUST: Final = r"\. If the server is yours, pass an ssl_context that trusts its authority"

ALERT: Final = bytes.fromhex("15 0303 0002 02 46")
"""What a server says to end the handshake: fatal, protocol version (RFC 8446, section 6)."""

TLS_1_0: Final = bytes.fromhex("16 0301 002a 02 000026 0301" + "00" * 32 + "00 002f 00")
"""The hello of a server that knows no later version (RFC 2246, section 7.4.1.3)."""

REFUSALS: Final = {
    "expired": Refusal(expired, r"certificate has expired: is the clock of this machine right\?"),
    "wrong host": Refusal(
        lambda authority: certified(authority.issue_cert("elsewhere.example")),
        "IP address mismatch, certificate is not valid for '127.0.0.1': is the host",
    ),
    "wrong name": Refusal(
        good,
        "Hostname mismatch, certificate is not valid for 'localhost': is the host",
        name="localhost",
    ),
    "unknown authority": Refusal(
        lambda _: certified(trustme.CA().issue_cert("127.0.0.1")),
        "unable to get local issuer certificate" + TRUST,
    ),
    "own authority, not told": Refusal(
        good, "unable to get local issuer certificate" + TRUST, client=lambda _: None
    ),
    "no version in common": Refusal(
        lambda _: None, r"no version of TLS that the ssl_context allows \(.+\)", greeting=ALERT
    ),
    "old version": Refusal(
        lambda _: None, r"no version of TLS that the ssl_context allows \(.+\)", greeting=TLS_1_0
    ),
    "plain": Refusal(
        lambda _: None,
        r"it does not speak TLS \(.+\): is https in base_url right\?",
        greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ),
}


@every_client
@pytest.mark.parametrize("case", REFUSALS)
async def test_not_trusted(library: Any, case: str, authority: trustme.CA) -> None:
    """C5, R2: a TLSError that says what to do, on one connection, which never heard the key."""
    refusal = REFUSALS[case]
    context = refusal.client(authority)
    async with serve(refusal.server(authority), greeting=refusal.greeting) as (server, heard):
        port = server.base_url.rpartition(":")[2]
        async with asking(library, f"https://{refusal.name}:{port}", context) as client:
            with pytest.raises(TLSError, match=refusal.says) as caught:
                await client.get_balance()
        assert (caught.value.phase, caught.value.host) == ("tls", f"{refusal.name}:{port}")
        assert caught.value.gave_up == "not_retryable"
        await server.idle()
        assert (server.connections, server.requests) == (1, [])
        assert KEY.encode() not in heard


@every_client
@pytest.mark.parametrize(
    ("greeting", "says"),
    [
        pytest.param(b"", "the server closed the connection, while waiting", id="silent"),
        pytest.param(ALERT, r"binary, not HTTP: is http in base_url right\?", id="alert"),
    ],
)
async def test_plain_to_a_tls_port(
    library: Any, greeting: bytes, says: str, authority: trustme.CA
) -> None:
    """C5, K4: plain HTTP, which only loopback may hear, is no request to a server of TLS."""
    async with serve(good(authority), greeting=greeting) as (server, _):
        url = server.base_url.replace("https:", "http:")
        async with asking(library, url, None, middleware=[]) as client:
            with pytest.raises(TransportError, match=says) as caught:
                await client.get_balance()
        assert (caught.value.phase, caught.value.retryable) == ("receive", True)
        await server.idle()
        assert server.requests == []
