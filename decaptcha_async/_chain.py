"""How a call travels: through an ordered list of middleware to the endpoint, and back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import attrs

from decaptcha_async._readings import BalanceReading
from decaptcha_async.errors import Attempt, Phase

DOING: Final[dict[Phase | None, str]] = {
    "connect": "while connecting",
    "tls": "in the TLS handshake",
    "send": "while sending",
    "receive": "while waiting for the answer",
    None: "while waiting for a connection",
}
"""What a call was doing, in words for a message."""


@attrs.define(eq=False)
class CallLog:
    """What one call has done so far; the same object through all its attempts.

    Attributes:
        requests: number of HTTP requests begun.
        host: the host that was asked last, empty before the first request.
        phase: what the last request was doing when last heard of.
        earlier_attempts: the failed attempts that the nearest :class:`Retry` went on after, for
            a deadline that ends it from outside.
        refused_delay: seconds that the nearest :class:`Retry` would have waited, had the time left
            allowed it; ``None`` if that did not end it.

    .. versionadded:: 0.1.0
    """

    requests: int = 0
    host: str = ""
    phase: Phase | None = None
    earlier_attempts: tuple[Attempt, ...] = ()
    refused_delay: float | None = None


@attrs.frozen(kw_only=True)
class Call:
    """One call on its way through the middleware. It never holds a key, a URL or a header.

    Attributes:
        operation: ``"balance"``.
        attempt: which attempt this is, from 1, as the nearest retrying layer outside counts.
        max_attempts: the most HTTP attempts this call may take, ``None`` for no limit of its own.
        account: opaque name of the account: 32 hex digits made of key and base URL, for keeping
            state per account. It changes when the key does.
        log: what the call has done so far; kept by ``attrs.evolve``.

    .. versionadded:: 0.1.0
    """

    operation: str
    attempt: int = 1
    max_attempts: int | None = None
    account: str = attrs.field(repr=False)
    log: CallLog = attrs.field(factory=CallLog, repr=False, eq=False)


Handler = Callable[[Call], Awaitable[BalanceReading]]
"""What a middleware calls to go on: the rest of the chain.

.. versionadded:: 0.1.0
"""

Middleware = Callable[[Call, Handler], Awaitable[BalanceReading]]
"""An async callable ``(call, call_next) -> BalanceReading``; a plain ``async def`` is enough.

.. versionadded:: 0.1.0
"""


def compose(middleware: Sequence[Middleware], endpoint: Handler) -> Handler:
    """Put ``middleware`` around ``endpoint``, the first of the list outermost.

    Raises:
        TypeError: an item is not an async callable.
    """
    _check_list(middleware)
    handler = endpoint
    for layer in reversed(middleware):
        _check(layer)
        handler = functools.partial(_step, layer, handler)
    return handler


async def _step(layer: Middleware, call_next: Handler, call: Call) -> BalanceReading:
    # Async, so that libraries which ask whether `call_next` is a coroutine function hear yes.
    return await layer(call, call_next)


def _check_list(middleware: object) -> None:
    if isinstance(middleware, str) or not isinstance(middleware, Sequence):
        message = f"middleware must be a list, not {type(middleware).__name__}"
        raise TypeError(message)


def _check(layer: object) -> None:
    if isinstance(layer, type):
        message = f"middleware must be an instance: write {layer.__name__}(...)"
        raise TypeError(message)
    if not callable(layer):
        message = f"middleware must be an async callable, not {type(layer).__name__}"
        raise TypeError(message)
    if not is_async(layer):
        name = getattr(layer, "__name__", type(layer).__name__)
        message = f"middleware must be async: {name} is not, write it with `async def`"
        raise TypeError(message)


def is_async(function: object) -> bool:
    """Whether calling it gives an awaitable; a partial or a wrapper is what it is made of."""
    if inspect.iscoroutinefunction(function):
        return True
    if inspect.iscoroutinefunction(getattr(type(function), "__call__", None)):  # noqa: B004
        return True
    if isinstance(function, functools.partial):
        return is_async(cast("functools.partial[object]", function).func)
    inner = getattr(function, "__wrapped__", None)
    return inner is not None and is_async(inner)
