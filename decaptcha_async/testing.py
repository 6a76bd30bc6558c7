"""For tests of code that uses this library: a sandbox in process, and time that does not wait."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack, assert_never

import httpx

from decaptcha_async._chain import Middleware
from decaptcha_async._client import BalanceClient
from decaptcha_async.sandbox import Sandbox

__all__ = ["VirtualTimeLoop", "sandbox_client", "virtual_backend"]


class _ClientArguments(TypedDict, total=False):
    api_key: str | Callable[[], str]
    base_url: str
    middleware: Sequence[Middleware] | None
    allow_http: bool


def sandbox_client(sandbox: Sandbox, **kwargs: Unpack[_ClientArguments]) -> BalanceClient:
    """A client that asks ``sandbox`` in process: no socket, no server, asyncio or trio.

    Takes ``api_key`` (default: the sandbox's), ``base_url`` (default: a host that does not exist),
    ``middleware`` and ``allow_http`` of :class:`~decaptcha_async.BalanceClient`; the environment
    is not read. Its ``httpx`` client holds no resource, so closing it leaves nothing open::

        async with sandbox_client(Sandbox(balance="3.20")) as client:
            reading = await client.get_balance()

    Raises:
        ConfigurationError: as :class:`~decaptcha_async.BalanceClient` does.

    .. versionadded:: 0.1.0
    """
    in_process = httpx.AsyncClient(transport=httpx.ASGITransport(sandbox.app), trust_env=False)
    kwargs.setdefault("api_key", sandbox.api_key)
    kwargs.setdefault("base_url", "https://sandbox.invalid")
    return BalanceClient(http_client=in_process, **kwargs)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose time jumps to the next timer whenever nothing else is to do.

    ``time()`` starts at 0.0. A test that sleeps for an hour ends at once, and reads 3600.0::

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(main())

    Real sockets and threads are not waited for while any timer is pending: time leaves them
    behind, and their timeouts expire. Use :func:`sandbox_client` in place of sockets.

    .. versionadded:: 0.1.0
    """

    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumps.now


class _Jumps(selectors.DefaultSelector):
    """Where a loop would wait for its next timer, time jumps.

    The loop asks for a wait only as long as its next timer that is not cancelled is away.
    """

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout and 0)
        if timeout and not ready:
            # To the nanosecond, so that sums of floats stay readable, but never short of the timer.
            later = self.now + timeout
            self.now = max(later, round(later, 9))
        return ready


def virtual_backend(name: Literal["asyncio", "trio"]) -> tuple[str, dict[str, Any]]:
    """The backend ``name`` in virtual time, as anyio takes it.

    Return it from the fixture ``anyio_backend`` of anyio's pytest plugin; or give its parts to
    ``anyio.run`` as ``backend`` and ``backend_options`` (for trio that takes anyio 4.14). Ask again
    for each run: trio's clock, a ``trio.testing.MockClock``, serves one. Its limit is that of
    :class:`VirtualTimeLoop`.

    Raises:
        ImportError: trio is asked for and not installed.

    .. versionadded:: 0.1.0
    """
    match name:
        case "asyncio":
            return name, {"loop_factory": VirtualTimeLoop}
        case "trio":
            from trio.testing import MockClock  # noqa: PLC0415

            return name, {"clock": MockClock(autojump_threshold=0)}
        case _:
            assert_never(name)
