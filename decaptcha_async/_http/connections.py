"""Connections: each attempt has one of its own, and no cancellation can wedge the next.

httpx's shared pool can be left unusable by cancellations, and our own deadlines are cancellations.
So the transport here gives every attempt a one-connection transport, and closes it, shielded, when
the answer has been read or anything at all went wrong. Only on request is a connection whose answer
ended cleanly kept for a later attempt.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Protocol, cast

import anyio
import anyio.to_thread
import httpx

from decaptcha_async import _clock

logger = logging.getLogger(__name__)

MOST_IN_USE: Final = 100
"""Connections in use at a time; further attempts wait their turn."""

MOST_IDLE: Final = 10
"""Idle connections kept when a burst is over."""

BURST_ENDS_AFTER: Final = 1.0
IDLE_AT_MOST: Final = 15.0
"""Seconds that a connection may be idle: beyond the ten that are kept, and at all."""

OwnClient = httpx.AsyncClient
"""What :func:`open_client` returns."""

_ONE: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1)
_CONNECTED: Final = ".connect_tcp.complete"
_CLOSED_MEANWHILE: Final = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_OK: Final = 200

TransportFactory = Callable[[], httpx.AsyncHTTPTransport]
Trace = Callable[[str, Mapping[str, Any]], Awaitable[None]]


class _Closable(Protocol):
    async def aclose(self) -> None: ...


class _End(Protocol):
    async def __call__(self, *, clean: bool) -> None: ...


async def open_client(
    *,
    tls: bool,
    ssl_context: ssl.SSLContext | None = None,
    proxy: httpx.URL | None = None,
    reuse: bool = False,
) -> OwnClient:
    """A client of our own, on :class:`Connections`.

    What takes long, loading the certificate authorities and importing the network stack, happens
    in a worker thread.
    """

    def prepare() -> TransportFactory:
        context = ssl_context
        if context is None:
            secure = tls or (proxy is not None and proxy.scheme == "https")
            context = httpx.create_ssl_context(trust_env=False) if secure else _no_tls()
        way = None
        if proxy is not None:
            way = httpx.Proxy(proxy, ssl_context=context if proxy.scheme == "https" else None)

        def connect() -> httpx.AsyncHTTPTransport:
            return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=_ONE, proxy=way)

        connect()
        return connect

    connect = await anyio.to_thread.run_sync(prepare, abandon_on_cancel=True)
    return httpx.AsyncClient(
        transport=Connections(connect, reuse=reuse),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        trust_env=False,
        follow_redirects=False,
    )


def _no_tls() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def read_proxy(proxy: str | None) -> tuple[httpx.URL | None, str]:
    """The proxy's URL and no problem, or no URL and the problem in words that show no password."""
    if proxy is None:
        return None, ""
    try:
        url = httpx.URL(proxy)
        httpx.Proxy(url)
    except (TypeError, ValueError, httpx.InvalidURL):
        return (
            None,
            "proxy must be a URL that begins with http://, https://, socks5:// or socks5h://",
        )
    if not url.host:
        return None, "proxy needs a host"
    if url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        return None, "a SOCKS proxy needs the package socksio: pip install 'httpx[socks]'"
    return url, ""


class Connections(httpx.AsyncBaseTransport):
    """A transport that lends a connection to one request at a time.

    A fresh one each; or, with ``reuse``, one that an earlier answer left clean. Of those as many
    are kept as were in use within the last second, ten of them longer, none for more than 15 s.
    """

    def __init__(self, connect: TransportFactory, *, reuse: bool) -> None:
        self._connect = connect
        self._reuse = reuse
        self._idle: deque[_Connection] = deque()
        self._closed = False
        self._turn = anyio.Semaphore(MOST_IN_USE, fast_acquire=True)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` when it is its turn."""
        if not self._reuse:
            request.headers["Connection"] = "close"
        fresh = _Connection(self._connect)
        await self._turn.acquire()
        connection = fresh
        try:
            await self._close_old()
            if self._idle:
                connection = self._idle.pop()
            try:
                response = await connection.send(request)
            except _CLOSED_MEANWHILE:
                if connection is fresh:
                    raise
                # The server closed an idle connection as it was taken up: nothing was answered,
                # and a GET may be sent again (RFC 9110, section 9.2.2).
                await connection.aclose()
                connection = fresh
                response = await connection.send(request)
        except BaseException:
            await self._end(connection, clean=False)
            raise
        stream = cast("httpx.AsyncByteStream", response.stream)
        keep = self._reuse and response.status_code == _OK
        response.stream = _Body(stream, functools.partial(self._end, connection), keep=keep)
        return response

    async def aclose(self) -> None:
        """Close the idle connections; those in use close when they come back."""
        self._closed = True
        while self._idle:
            await self._idle.popleft().aclose()

    async def _end(self, connection: _Connection, *, clean: bool) -> None:
        try:
            if clean and not self._closed:
                connection.idle_since = _clock.now()
                self._idle.append(connection)
            else:
                await connection.aclose()
        finally:
            self._turn.release()

    async def _close_old(self) -> None:
        while self._idle:
            longest = BURST_ENDS_AFTER if len(self._idle) > MOST_IDLE else IDLE_AT_MOST
            if _clock.now() - self._idle[0].idle_since <= longest:
                return
            await self._idle.popleft().aclose()


class _Connection:
    """One connection, from its first socket on."""

    def __init__(self, connect: TransportFactory) -> None:
        self.idle_since = 0.0
        self._connect = connect
        self._transport: httpx.AsyncHTTPTransport | None = None
        self._socket: _Closable | None = None
        self._trace: Trace | None = None

    async def send(self, request: httpx.Request) -> httpx.Response:
        self._trace = request.extensions.get("trace")
        request.extensions = {**request.extensions, "trace": self._follow}
        if self._transport is None:
            self._transport = self._connect()
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
    """The body of a response, which ends its connection's turn with it."""

    def __init__(self, stream: httpx.AsyncByteStream, end: _End, *, keep: bool) -> None:
        self._stream = stream
        self._end = end
        self._keep = keep
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            yield piece
        self._ended = True

    async def aclose(self) -> None:
        clean = False
        try:
            if self._keep and self._ended:
                await self._stream.aclose()
                clean = True
        finally:
            await self._end(clean=clean)
