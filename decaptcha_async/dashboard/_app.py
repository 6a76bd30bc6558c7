"""The ASGI application: the page, its files, and the view as JSON, once or as it changes."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio
import attrs
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from decaptcha_async import BalanceMonitor, ClientClosedError, Seconds
from decaptcha_async._background import Background
from decaptcha_async._settings import duration
from decaptcha_async.dashboard._guard import Guard
from decaptcha_async.dashboard._history import History
from decaptcha_async.dashboard._page import View, asset, view

logger: Final = logging.getLogger(__name__)

_FILES: Final = {
    "script.js": "text/javascript",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}
_HEARTBEAT: Final = 15
_A_LOOK: Final = 1.0
_NO_LIFESPAN: Final = (
    "outside of asyncio the dashboard needs its lifespan: serve it on its own, or have the"
    " application that it is mounted in enter app.router.lifespan_context(app)"
)


def create_app(
    monitor: BalanceMonitor,
    *,
    allowed_hosts: Iterable[str] = (),
    history: Seconds = 86400.0,
) -> Starlette:
    """A web page that shows what ``monitor`` knows, and goes on showing it.

    It is an ASGI application: serve it as it is, or mount it below any path of another one. You
    enter the monitor and leave it; the page only looks. From its start, or from the first request
    if it is mounted where no lifespan reaches it, it subscribes to the readings for
    its chart, so the monitor polls. While the balance is below the threshold of a
    :class:`~decaptcha_async.LowBalance` of the monitor's, there is a banner above the page.

    Mounted under trio, it needs ``app.router.lifespan_context(app)`` to be entered around it; each
    request raises RuntimeError without.

    It asks for no password: put it behind the login of your application, or serve it on
    127.0.0.1. It never has the key.

    Args:
        monitor: an entered monitor. Its rules give the thresholds, its label the page's name.
        allowed_hosts: names beside ``localhost``, ``127.0.0.1`` and ``[::1]``, without a port, that
            a browser may know it by; ``"*"`` is any, where something in front has looked. Others
            are answered by 421.
        history: seconds back that the chart goes (default 86400, a day). At most 600 readings
            of them are kept, evenly thinned.

    Raises:
        ConfigurationError: a ``history`` that cannot be.
        TypeError: ``allowed_hosts`` is one text.

    .. versionadded:: 0.1.0
    """
    if isinstance(allowed_hosts, str):
        message = f"allowed_hosts is a list of names, as [{allowed_hosts!r}]"
        raise TypeError(message)
    dashboard = _Dashboard(monitor, History(monitor.rules, duration(history, "history")))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with dashboard.background:
            dashboard.collect()
            yield

    routes = [
        Route("/", dashboard.page),
        Route("/view.json", dashboard.view_once),
        Route("/events", dashboard.views),
        *(Route(f"/{name}", partial(_file, name)) for name in _FILES),
    ]
    guard = Middleware(Guard, allowed_hosts=tuple(allowed_hosts))
    return Starlette(routes=routes, middleware=[guard], lifespan=lifespan)


@attrs.define(eq=False)
class _Dashboard:
    """The page's requests, and the work that collects its history beside them."""

    monitor: BalanceMonitor
    history: History
    background: Background = attrs.field(factory=Background, init=False)
    _collecting: bool = attrs.field(default=False, init=False)

    def collect(self) -> None:
        """Subscribe to the monitor, unless it is so already."""
        if self._collecting:
            return
        try:
            self.background.start(self._collect_readings, "dashboard readings")
            self.background.start(self._collect_alerts, "dashboard alerts")
        except RuntimeError as error:
            raise RuntimeError(_NO_LIFESPAN) from error
        self._collecting = True

    async def page(self, _: Request) -> Response:
        """The page itself, complete without its script."""
        return HTMLResponse(self._look().to_html())

    async def view_once(self, _: Request) -> Response:
        """The view as JSON."""
        return JSONResponse(self._look().to_json())

    async def views(self, _: Request) -> Response:
        """The view as JSON, now and whenever it changes: server-sent events."""
        return EventSourceResponse(self._stream())

    def _look(self) -> View:
        self.collect()
        return view(self.monitor.state, self.history, self.monitor.label)

    async def _stream(self) -> AsyncGenerator[dict[str, str]]:
        while True:
            yield {"data": json.dumps(self._look().to_json())}
            news, status = self.history.news, self.monitor.state.status
            # The age goes on, and a proxy may close what is silent.
            with anyio.move_on_after(_HEARTBEAT):
                while not news.is_set() and self.monitor.state.status == status:
                    with anyio.move_on_after(_A_LOOK):
                        await news.wait()

    async def _collect_readings(self) -> None:
        going_on = True
        while going_on:
            try:
                async with self.monitor.subscribe() as readings:
                    async for reading in readings:
                        self.history.add(reading)
                going_on = False
            except ClientClosedError:
                going_on = False
            except Exception as error:  # noqa: BLE001
                # Whoever subscribes anew waits for the next poll. The state has the error.
                logger.debug("the dashboard subscribes anew after: %s", error)
        self._collecting = False

    async def _collect_alerts(self) -> None:
        try:
            async with self.monitor.alerts() as alerts:
                async for alert in alerts:
                    # The label is the page's heading.
                    text = alert.message.removeprefix(f"{self.monitor.label}: ")
                    self.history.note(attrs.evolve(alert, message=text))
        except ClientClosedError:
            pass


async def _file(name: str, _: Request) -> Response:
    return Response(asset(name), media_type=_FILES[name])
