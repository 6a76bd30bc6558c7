"""The client: where the rooms come together, and how long it lives."""

from __future__ import annotations

import functools
import os
import ssl
import warnings
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, Literal, Self, overload

import anyio
import anyio.lowlevel

from decaptcha_async import _watch
from decaptcha_async._chain import Middleware, compose
from decaptcha_async._clock import Seconds
from decaptcha_async._http import Endpoint, HTTPClient, OwnClient, open_client, read_proxy
from decaptcha_async._readings import BalanceReading
from decaptcha_async._settings import key_source, resolve_base_url, version, whole
from decaptcha_async._watch import Interval, PollFailed, SupportsWait
from decaptcha_async._wire import request_headers
from decaptcha_async.errors import ClientClosedError, ConfigurationError
from decaptcha_async.middleware import default_middleware

_CALLS_END_WITHIN: Final = 2.0


class BalanceClient:
    """A client of the DeCaptcha Balance API; an async context manager.

    It opens by itself on the first call, too; then close it with :meth:`aclose`. It belongs to the
    event loop and thread of its first use, and runs on asyncio and trio.

    Args:
        api_key: the key; or a callable that returns it, asked at every attempt, so that a key can
            be rotated. ``None``: ``DECAPTCHA_API_KEY``, or the file that
            ``DECAPTCHA_API_KEY_FILE`` names, read again at every attempt.
        base_url: where the API answers, perhaps with a path prefix. ``None``:
            ``DECAPTCHA_BASE_URL``, else ``https://decaptcha.net``. The vendor documents only the
            path ``/api/balance``; that host is an assumption.
        middleware: ordered, the first outermost. ``None``: :func:`default_middleware`. ``[]``: no
            retry, and no deadline but 10 s to connect and 30 s for each read.
        http_client: an ``httpx.AsyncClient`` (or ``httpx2.AsyncClient``) of yours, never closed
            here. ``None``: one of our own, with a fresh connection for each attempt, that reads no
            proxy from the environment, keeps no cookies and follows no redirects.
        reuse_connections: keep connections for bursts of calls, instead of a fresh one for each
            attempt. Its risk: an answer that a broken server glued behind another is taken for the
            next one.
        ssl_context: for a server with an authority of your own. ``None``: the authorities that
            httpx ships.
        proxy: URL of a proxy; proxies of the environment are not read.
        allow_http: whether ``http://`` may go elsewhere than to loopback, the key in clear.

    Raises:
        ConfigurationError: no key, a malformed key or URL; or an ``http_client`` together with
            ``reuse_connections``, ``ssl_context`` or ``proxy``, which it has of its own. The
            message never shows a key or a password.
        TypeError: a middleware that is not an async callable.

    .. versionadded:: 0.1.0
    """

    _own: OwnClient | None = None

    def __init__(
        self,
        api_key: str | Callable[[], str] | None = None,
        *,
        base_url: str | None = None,
        middleware: Sequence[Middleware] | None = None,
        http_client: HTTPClient | None = None,
        reuse_connections: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        allow_http: bool = False,
    ) -> None:
        keys, problem = key_source(api_key)
        way, proxy_problem = read_proxy(proxy)
        own_only = reuse_connections or ssl_context is not None or proxy is not None
        # No frame of a traceback that starts here may show the key, or the password of a proxy.
        del api_key, proxy
        if keys is None or proxy_problem:
            raise ConfigurationError(problem or proxy_problem)
        if http_client is not None and own_only:
            message = "http_client has its own connections: set reuse, TLS and proxy there"
            raise ConfigurationError(message)
        url = resolve_base_url(base_url, allow_http=allow_http)
        self._closed = False
        self._endpoint = Endpoint(url, keys, request_headers(version()), http_client)
        self._handler = compose(
            default_middleware() if middleware is None else middleware, self._endpoint
        )
        self._make_own = functools.partial(
            open_client,
            tls=url.startswith("https:"),
            ssl_context=ssl_context,
            proxy=way,
            reuse=reuse_connections,
        )
        self._opening: anyio.Lock | None = None
        self._home: tuple[int, object] | None = None
        self._calls: set[anyio.CancelScope] = set()
        self._pauses: set[anyio.CancelScope] = set()
        self._calls_ended: anyio.Event | None = None

    @property
    def base_url(self) -> str:
        """Where the API is asked, in canonical form, without ``/api/balance``.

        .. versionadded:: 0.1.0
        """
        return self._endpoint.base_url

    async def get_balance(self, *, max_attempts: int | None = None) -> BalanceReading:
        """Ask for the balance.

        Args:
            max_attempts: most HTTP attempts of this call; ``None`` (default) leaves that to the
                middleware. A :class:`Retry` makes no more than it allows itself, either.

        Raises:
            AuthenticationError: the key is refused.
            RateLimitedError: asked too often, and waiting did not fit.
            ServerError: the service failed, several times.
            APIError: the answer says no for another reason.
            InvalidResponseError: the answer cannot be trusted.
            DeadlineExceededError: no good answer in time.
            TransportError: no answer, several times; TLSError: the server is not to be trusted.
            ConfigurationError: a callable or a file gave no usable key; or a bad ``max_attempts``.
            ClientClosedError: the client is closed, or was closed during the call.

        .. versionadded:: 0.1.0
        """
        return await self._call(
            None if max_attempts is None else whole(max_attempts, "max_attempts", least=1)
        )

    @overload
    def watch(
        self,
        interval: Seconds | Interval = ...,
        *,
        jitter: float = ...,
        initial_delay: Seconds | Literal["random"] = ...,
        changes_only: bool = ...,
        on_error: Literal["retry"] = ...,
        give_up_after: Seconds | None = ...,
        stop: SupportsWait | None = ...,
    ) -> AsyncGenerator[BalanceReading, None]: ...
    @overload
    def watch(
        self,
        interval: Seconds | Interval = ...,
        *,
        jitter: float = ...,
        initial_delay: Seconds | Literal["random"] = ...,
        changes_only: bool = ...,
        on_error: Literal["yield"],
        give_up_after: Seconds | None = ...,
        stop: SupportsWait | None = ...,
    ) -> AsyncGenerator[BalanceReading | PollFailed, None]: ...
    def watch(
        self,
        interval: Seconds | Interval = 60.0,
        *,
        jitter: float = 0.05,
        initial_delay: Seconds | Literal["random"] = 0.0,
        changes_only: bool = False,
        on_error: Literal["retry", "yield"] = "retry",
        give_up_after: Seconds | None = None,
        stop: SupportsWait | None = None,
    ) -> AsyncGenerator[BalanceReading | PollFailed, None]:
        """Yield the balance again and again, through outages, until stopped.

        There is never more than one poll in flight, and none while the body of your loop runs.
        Passing failures do not end it: in an outage it asks less and less often, with one HTTP
        attempt each time, and goes on by itself.

        Args:
            interval: seconds from the start of a poll to the start of the next (default 60). Or a
                callable, such as :class:`Adaptive`, that is asked for them after each good reading
                with the reading and the money spent per second (``None`` while unknown). Before
                the first reading a minute stands for it.
            jitter: how far each interval may stray, as a fraction from 0 to below 1 (default
                0.05). Unless 0, the second poll comes anywhere within the interval, so that
                processes started together do not stay together.
            initial_delay: seconds before the first poll (default 0), or ``"random"``: anywhere
                within the interval.
            changes_only: yield the first reading, then only amounts that differ from the last.
            on_error: ``"retry"`` keeps passing failures to the log; ``"yield"`` yields each as a
                :class:`PollFailed`, too.
            give_up_after: raise the last error after an outage of so many seconds; 0 at once;
                ``None`` (default) never. The last wait is shortened to fit, even one that the
                service asked for by ``Retry-After``.
            stop: ends the watch, without waiting for a poll or a pause, when its ``wait()``
                returns: an ``asyncio.Event``, ``anyio.Event`` or ``trio.Event``.

        Raises:
            ConfigurationError: an argument that cannot be, at the call.
            TypeError: ``interval`` is async.
            DecaptchaError: while iterating. Before the first reading: any error that is not a
                matter of time. Later: a key or request refused three polls in a row.

        .. versionadded:: 0.1.0
        """
        plan = _watch.Plan.make(
            interval=interval,
            jitter=jitter,
            initial_delay=initial_delay,
            changes_only=changes_only,
            on_error=on_error,
            give_up_after=give_up_after,
            stop=stop,
        )
        return _watch.watch(self._call, plan, functools.partial(self._pause, plan.stop))

    async def aclose(self) -> None:
        """Close the client; calls under way end with it. Closing again does nothing.

        .. versionadded:: 0.1.0
        """
        if self._closed:
            return
        self._check_home()
        self._closed = True
        for pause in self._pauses:
            pause.cancel()
        if self._calls:
            self._calls_ended = anyio.Event()
            for scope in self._calls:
                scope.cancel()
            with anyio.move_on_after(_CALLS_END_WITHIN, shield=True):
                await self._calls_ended.wait()
        if self._own is not None:
            own, self._own = self._own, None
            with anyio.CancelScope(shield=True):
                await own.aclose()

    async def __aenter__(self) -> Self:
        """Open the client.

        Raises:
            ClientClosedError: it was closed before.
        """
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the client."""
        await self.aclose()

    def __repr__(self) -> str:
        """Where it asks and whether it is closed; nothing of the key."""
        if not hasattr(self, "_endpoint"):  # a reporter of the error that __init__ raises asks
            return "<BalanceClient>"
        return f"<BalanceClient {self.base_url}{' closed' if self._closed else ''}>"

    def __del__(self) -> None:
        """Warn when a client of our own was never closed."""
        if self._own is not None and self._home is not None and self._home[0] == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    async def _call(self, max_attempts: int | None) -> BalanceReading:
        await self._open()
        with anyio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                call = await self._endpoint.begin("balance", max_attempts)
                return await self._handler(call)
            finally:
                self._calls.discard(scope)
                if self._calls_ended is not None and not self._calls:
                    self._calls_ended.set()
        message = "the client was closed during the call"
        raise ClientClosedError(message)

    async def _pause(self, stop: SupportsWait | None, due: float) -> bool:
        """The pause of a watch: closing the client ends it."""
        with anyio.CancelScope() as scope:
            self._pauses.add(scope)
            try:
                return await _watch.pause_until(due, stop)
            finally:
                self._pauses.discard(scope)
        message = "the client was closed during the watch"
        raise ClientClosedError(message)

    async def _open(self) -> None:
        # Before the middleware and outside its deadlines: a thread works meanwhile, and virtual
        # time must not run away from it.
        self._check_home()
        if self._endpoint.client is not None:
            return
        if self._opening is None:
            self._opening = anyio.Lock()
        async with self._opening:
            if not self._closed and self._endpoint.client is None:
                own = await self._make_own()
                if not self._closed:
                    self._endpoint.client = self._own = own
        self._check_home()

    def _check_home(self) -> None:
        if self._closed:
            message = "the client is closed: make a new one"
            raise ClientClosedError(message)
        if self._home is None:
            self._home = os.getpid(), anyio.lowlevel.current_token()
        # The process first: in a forked one asyncio knows of no running loop.
        forked = self._home[0] != os.getpid()
        if forked or self._home[1] != anyio.lowlevel.current_token():
            where = "a forked process" if forked else "another event loop"
            message = f"the client was opened elsewhere and is used from {where}: make one there"
            raise ClientClosedError(message)
