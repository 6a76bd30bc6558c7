"""What web applications have in common: a monitor while they run, and what they answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from math import ceil, inf
from typing import Final, TypedDict

import attrs

from decaptcha_async import (
    BalanceClient,
    BalanceMonitor,
    DecaptchaError,
    Interval,
    LowBalance,
    LowRunway,
    Notifier,
    Seconds,
)

OK: Final = 200
UNAVAILABLE: Final = 503

_UNTOLD: Final = "the balance cannot be asked for: the reason is in the log"

Clients = BalanceClient | Callable[[], BalanceClient]


class MonitorArguments(TypedDict, total=False):
    """The keyword arguments of a :class:`BalanceMonitor`."""

    interval: Seconds | Interval
    jitter: float
    rules: Iterable[LowBalance | LowRunway]
    stale_after: Seconds | None
    notify: Iterable[Notifier]
    max_age: Seconds | None
    label: str


@asynccontextmanager
async def opened(client: Clients, arguments: MonitorArguments) -> AsyncGenerator[BalanceMonitor]:
    """A monitor at work; a client that is made for it is closed with it."""
    async with AsyncExitStack() as stack:
        if not isinstance(client, BalanceClient):
            client = await stack.enter_async_context(client())
        yield await stack.enter_async_context(BalanceMonitor(client, **arguments))


@attrs.frozen
class Answer:
    """What to answer, for any framework: JSON that no cache keeps."""

    status: int
    body: Mapping[str, object]
    retry_after: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Those beside the ones that the framework sets."""
        after = self.retry_after
        known = {} if after is None or after == inf else {"Retry-After": str(ceil(after))}
        return {"Cache-Control": "no-store"} | known


async def balance(monitor: BalanceMonitor) -> Answer:
    """The balance; or 503, why, and when to ask again if the service said so."""
    try:
        reading = await monitor.get()
    except Exception as error:  # noqa: BLE001 - a callable for the key may raise anything
        after = error.retry_after if isinstance(error, DecaptchaError) else None
        return Answer(UNAVAILABLE, refusal(error), after)
    return Answer(OK, reading.to_dict())


def health(monitor: BalanceMonitor) -> Answer:
    """How the monitor stands, without a poll."""
    state = monitor.state
    return Answer(OK if state.healthy else UNAVAILABLE, state.to_dict())


def refusal(error: Exception) -> dict[str, str]:
    """An error as JSON; of one that is not ours only the class, for its text may tell anything."""
    message = str(error) if isinstance(error, DecaptchaError) else _UNTOLD
    return {"error": type(error).__name__, "message": message}
