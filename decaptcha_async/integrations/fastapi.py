"""A balance monitor for a FastAPI application: its lifespan, a dependency, and routes.

::

    app = FastAPI(lifespan=balance_lifespan(rules=[LowBalance(100)]))
    app.include_router(router)

    @app.get("/")
    async def home(monitor: Monitor): ...
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Any, Final, Unpack

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from decaptcha_async import BalanceClient, BalanceMonitor, ClientClosedError
from decaptcha_async.integrations import _web

try:
    from fastapi import APIRouter, Depends
    from fastapi.requests import HTTPConnection
    from fastapi.responses import JSONResponse
    from sse_starlette import EventSourceResponse, JSONServerSentEvent
except ImportError as _error:
    _message = "the FastAPI integration needs more: pip install 'decaptcha-async[fastapi]'"
    raise ImportError(_message, name=_error.name) from _error

__all__ = ["Monitor", "balance_lifespan", "router"]

_IN_STATE: Final = "balance_monitor"


def balance_lifespan(
    client: BalanceClient | Callable[[], BalanceClient] = BalanceClient,
    **kwargs: Unpack[_web.MonitorArguments],
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, BalanceMonitor]]]:
    """A lifespan with a monitor in it, for ``FastAPI`` or for an ``APIRouter`` that it includes.

    It yields the monitor in the lifespan's state, which reaches mounted applications too. A
    lifespan of your own enters it, and yields what it yields::

        @asynccontextmanager
        async def lifespan(app):
            async with balance_lifespan()(app) as state:
                yield {**state, "pool": ...}

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

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[dict[str, BalanceMonitor]]:
        async with _web.opened(client, kwargs) as monitor:
            yield {_IN_STATE: monitor}

    return lifespan


async def _monitor(connection: HTTPConnection) -> BalanceMonitor:
    monitor: BalanceMonitor | None = getattr(connection.state, _IN_STATE, None)
    if monitor is None:
        message = (
            "no balance monitor: make the application with lifespan=balance_lifespan(), "
            "or yield what it yields from your own lifespan"
        )
        raise RuntimeError(message)
    return monitor


Monitor = Annotated[BalanceMonitor, Depends(_monitor)]
"""The type of a parameter that is given the application's :class:`~decaptcha_async.BalanceMonitor`.

.. versionadded:: 0.1.0
"""

router: Final = APIRouter(tags=["balance"])
"""``GET /balance``, ``GET /balance/health`` and ``GET /balance/stream``, to be included.

.. versionadded:: 0.1.0
"""

_UNAVAILABLE: Final[dict[int | str, dict[str, Any]]] = {
    _web.UNAVAILABLE: {"description": "It cannot be told; the body says why."}
}


def _response(answer: _web.Answer) -> JSONResponse:
    return JSONResponse(answer.body, answer.status, answer.headers)


@router.get("/balance", responses=_UNAVAILABLE)
async def _balance(monitor: Monitor) -> JSONResponse:
    """The balance: a fresh reading, shared by all who ask."""
    return _response(await _web.balance(monitor))


@router.get("/balance/health", responses=_UNAVAILABLE)
async def _health(monitor: Monitor) -> JSONResponse:
    """How the monitor stands; asking costs nothing."""
    return _response(_web.health(monitor))


@router.get("/balance/stream", response_class=EventSourceResponse)
async def _stream(monitor: Monitor) -> EventSourceResponse:
    """Server-sent events: `reading`, `alert`, and `failed` when the balance cannot be asked for."""
    # Starlette's own streams, and FastAPI's, keep uvicorn from ending while a client is there.
    events, inbox = anyio.create_memory_object_stream[JSONServerSentEvent]()
    return EventSourceResponse(inbox, data_sender_callable=partial(_tell, monitor, events, inbox))


_Events = MemoryObjectSendStream[JSONServerSentEvent]
_OVER: Final = (ClientClosedError, anyio.BrokenResourceError)


async def _tell(
    monitor: BalanceMonitor, events: _Events, inbox: MemoryObjectReceiveStream[JSONServerSentEvent]
) -> None:
    with events, inbox:
        async with anyio.create_task_group() as group:
            group.start_soon(_tell_alerts, monitor, events)
            await _tell_readings(monitor, events)
            group.cancel_scope.cancel()


async def _tell_readings(monitor: BalanceMonitor, events: _Events) -> None:
    with suppress(*_OVER):
        # A refused key does not end it: a browser that was answered 503 would not come again.
        while True:
            try:
                async with monitor.subscribe() as readings:
                    async for reading in readings:
                        await events.send(JSONServerSentEvent(reading.to_dict(), event="reading"))
                    return
            except _OVER:
                raise
            except Exception as error:  # noqa: BLE001 - a callable for the key may raise anything
                await events.send(JSONServerSentEvent(_web.refusal(error), event="failed"))


async def _tell_alerts(monitor: BalanceMonitor, events: _Events) -> None:
    with suppress(*_OVER):
        async with monitor.alerts() as alerts:
            async for alert in alerts:
                await events.send(JSONServerSentEvent(alert.to_dict(), event="alert"))
