"""A balance monitor for an aiohttp application: its clean-up context, a key, and routes.

::

    app = web.Application()
    app.cleanup_ctx.append(balance_ctx(rules=[LowBalance(100)]))
    app.add_routes(routes)

    async def home(request):
        monitor = request.config_dict[MONITOR]
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final, Unpack

from decaptcha_async import BalanceClient, BalanceMonitor
from decaptcha_async.integrations import _web

try:
    from aiohttp import web
except ImportError as _error:
    _message = "the aiohttp integration needs more: pip install 'decaptcha-async[aiohttp]'"
    raise ImportError(_message, name=_error.name) from _error

__all__ = ["MONITOR", "balance_ctx", "routes"]

MONITOR: Final = web.AppKey("MONITOR", BalanceMonitor)
"""The key of the application's :class:`~decaptcha_async.BalanceMonitor`.

.. versionadded:: 0.1.0
"""

routes: Final = web.RouteTableDef()
"""``GET /balance`` and ``GET /balance/health``, to be added.

.. versionadded:: 0.1.0
"""


def balance_ctx(
    client: BalanceClient | Callable[[], BalanceClient] = BalanceClient,
    **kwargs: Unpack[_web.MonitorArguments],
) -> Callable[[web.Application], AsyncIterator[None]]:
    """What to append to ``app.cleanup_ctx``; the monitor is ``app[MONITOR]`` while it runs.

    Args:
        client: what makes the client that is to be asked; it is called when the application
            starts, and the client is closed when it ends. The default,
            :class:`~decaptcha_async.BalanceClient` itself, takes everything from the environment.
            Or an open client of yours, which stays open.
        kwargs: the keyword arguments of :class:`~decaptcha_async.BalanceMonitor`.

    Raises:
        ConfigurationError: when the application starts: no key, or an argument that cannot be.

    .. versionadded:: 0.1.0
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with _web.opened(client, kwargs) as monitor:
            app[MONITOR] = monitor
            yield

    return context


def _monitor(request: web.Request) -> BalanceMonitor:
    # Of this application, or of one that it is part of.
    monitor = request.config_dict.get(MONITOR)
    if monitor is None:
        message = "no balance monitor: append balance_ctx() to the application's cleanup_ctx"
        raise RuntimeError(message)
    return monitor


def _response(answer: _web.Answer) -> web.Response:
    return web.json_response(answer.body, status=answer.status, headers=answer.headers)


@routes.get("/balance")
async def _balance(request: web.Request) -> web.Response:
    return _response(await _web.balance(_monitor(request)))


@routes.get("/balance/health")
async def _health(request: web.Request) -> web.Response:
    return _response(_web.health(_monitor(request)))
