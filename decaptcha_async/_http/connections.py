"""Connections: each attempt has one of its own, and no cancellation can wedge the next.

httpx's shared pool can be left unusable by cancellations, and our own deadlines are cancellations.
So the transport here gives every attempt a one-connection transport, and closes it, shielded, when
the answer has been read or anything at all went wrong.
"""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Protocol, cast

import anyio
import anyio.to_thread
import httpx

logger = logging.getLogger(__name__)

MOST_IN_USE: Final = 100
"""Connections in use at a time; further attempts wait their turn."""

OwnClient = httpx.AsyncClient
"""What :func:`open_client` returns."""

_ONE: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1)
_CONNECTED: Final = ".connect_tcp.complete"

TransportFactory = Callable[[], httpx.AsyncHTTPTransport]
Trace = Callable[[str, Mapping[str, Any]], Awaitable[None]]


class _Closable(Protocol):
    async def aclose(self) -> None: ...


async def open_client(*, tls: bool) -> httpx.AsyncClient:
    """A client of our own, on :class:`FreshConnections`.

    What takes long, loading the certificate authorities and importing the network stack, happens
    in a worker thread.
    """

    def prepare() -> TransportFactory:
        context = httpx.create_ssl_context(trust_env=False) if tls else _no_tls()

        def connect() -> httpx.AsyncHTTPTransport:
            return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=_ONE)

        connect()
        return connect

    connect = await anyio.to_thread.run_sync(prepare, abandon_on_cancel=True)
    return httpx.AsyncClient(
        transport=FreshConnections(connect),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        trust_env=False,
        follow_redirects=False,
    )


def _no_tls() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class FreshConnections(httpx.AsyncBaseTransport):
    """A transport that opens a connection for every request and closes it after the answer."""

    def __init__(self, connect: TransportFactory) -> None:
        self._connect = connect
        self._turn = anyio.Semaphore(MOST_IN_USE, fast_acquire=True)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` on a connection of its own, when it is its turn."""
        request.headers["Connection"] = "close"
        connection = _Connection(self._connect())
        await self._turn.acquire()
        try:
            response = await connection.send(request)
        except BaseException:
            await self._end(connection)
            raise
        stream = cast("httpx.AsyncByteStream", response.stream)
        response.stream = _Body(stream, functools.partial(self._end, connection))
        return response

    async def _end(self, connection: _Connection) -> None:
        try:
            await connection.aclose()
        finally:
            self._turn.release()


class _Connection:
    """One connection, from its first socket on."""

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self._transport = transport
        self._socket: _Closable | None = None
        self._trace: Trace | None = None

    async def send(self, request: httpx.Request) -> httpx.Response:
        self._trace = request.extensions.get("trace")
        request.extensions = {**request.extensions, "trace": self._follow}
        return await self._transport.handle_async_request(request)

    async def _follow(self, event: str, info: Mapping[str, Any]) -> None:
        # A TLS handshake that is cancelled leaves its socket to nobody (httpcore 1.0.9): keep it.
        if event.endswith(_CONNECTED):
            self._socket = info["return_value"]
        if self._trace is not None:
            await self._trace(event, info)

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            for part in (self._transport, self._socket):
                if part is not None:
                    try:
                        await part.aclose()
                    except Exception as error:  # noqa: BLE001
                        logger.debug("closing a connection failed: %s", type(error).__name__)


class _Body(httpx.AsyncByteStream):
    """The body of a response, which ends its connection with it."""

    def __init__(self, stream: httpx.AsyncByteStream, end: Callable[[], Awaitable[None]]) -> None:
        self._stream = stream
        self._end = end

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:
        await self._end()
