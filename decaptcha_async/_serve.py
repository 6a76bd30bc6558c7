"""The dashboard as a server of its own, for the command line."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal
from types import FrameType
from typing import Final

import anyio
import uvicorn

from decaptcha_async import BalanceMonitor
from decaptcha_async.dashboard import create_app
from decaptcha_async.sandbox import Sandbox

_TOP_UP_AFTER: Final = 10.0


async def serve(monitor: BalanceMonitor, port: int, announce: Callable[[str], None]) -> bool:
    """Serve the page of ``monitor`` on 127.0.0.1 until a signal comes; whether it was Ctrl-C.

    ``announce`` is called with the URL once it answers there.

    Raises:
        OSError: the port is taken.
    """
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(
        create_app(monitor), ws="none", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    # uvicorn raises the signal again at its end, which would leave no time to end the monitor.
    server.capture_signals = nullcontext  # type: ignore[assignment, method-assign]
    caught: set[int] = set()
    log = logging.getLogger("uvicorn.error")

    def end(number: int, frame: FrameType | None) -> None:
        caught.add(number)
        # It would complain of each browser that is still there.
        log.setLevel(logging.CRITICAL)
        server.handle_exit(number, frame)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        announce(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        await server.serve([listener])
    finally:
        log.setLevel(logging.NOTSET)
        for number, handler in before.items():
            signal.signal(number, handler)
    return signal.SIGINT in caught


def invented_account(below: Decimal) -> Sandbox:
    """An account that falls below ``below`` after about ten seconds."""
    size = max(below, Decimal(1))
    return Sandbox(balance=below + size / 5, spend_per_second=size / 50, seed=1)


async def top_up_after_alarms(sandbox: Sandbox, monitor: BalanceMonitor, below: Decimal) -> None:
    """Pay money into an invented account some time after each alert that it is low."""
    async with monitor.alerts() as alerts:
        async for alert in alerts:
            if alert.kind == "low":
                await anyio.sleep(_TOP_UP_AFTER)
                sandbox.top_up(max(below, Decimal(1)) * 3 / 5)
