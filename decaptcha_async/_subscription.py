"""What reaches a subscriber of a monitor: the latest reading, or each alert."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final, Generic, Self, TypeVar

import anyio
import attrs

from decaptcha_async.alerts import Alert

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")


@attrs.define(eq=False)
class Inbox(Generic[T]):
    """What waits for one subscriber: the latest ``room`` items, and how it ends."""

    room: int
    entered: bool = False
    ended: bool = False
    error: Exception | None = None
    _items: deque[T] = attrs.field(factory=deque[T])
    _news: anyio.Event = attrs.field(factory=anyio.Event)

    def put(self, item: T) -> None:
        """Add ``item``; the oldest goes if there is no room."""
        if len(self._items) == self.room:
            dropped = self._items.popleft()
            if isinstance(dropped, Alert):
                logger.warning(
                    "a subscriber is slow, its oldest alert is dropped: %s", dropped.message
                )
        self._items.append(item)
        self._tell()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes: after what waits, ``error`` once, then the end."""
        self.ended, self.error = True, error
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def take(self) -> T:
        """Wait for the oldest item and take it."""
        while not self._items:
            if self.error is not None:
                error, self.error = self.error, None
                try:
                    raise error
                finally:
                    del error
            if self.ended:
                raise StopAsyncIteration
            if not self.entered:
                message = "enter the subscription with `async with` before iterating over it"
                raise RuntimeError(message)
            await self._news.wait()
        return self._items.popleft()


class Subscription(Generic[T]):
    """What a :class:`BalanceMonitor` tells; an async context manager and an async iterator.

    It ends when the monitor does. Enter it once, and iterate in one task at a time.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        inbox: Inbox[T],
        enter: Callable[[Inbox[T]], None],
        leave: Callable[[Inbox[T]], None],
    ) -> None:
        self._inbox = inbox
        self._enter = enter
        self._leave = leave

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            ClientClosedError: the monitor is not open.
            RuntimeError: it was entered before.
        """
        if self._inbox.entered:
            message = "a subscription is entered once: make a new one"
            raise RuntimeError(message)
        self._enter(self._inbox)
        self._inbox.entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening."""
        self._leave(self._inbox)
        self._inbox.end()

    def __aiter__(self) -> AsyncIterator[T]:
        """The subscription itself."""
        return self

    async def __anext__(self) -> T:
        """The next item.

        Raises:
            DecaptchaError: of readings: polling failed for a reason that does not pass by itself.
            RuntimeError: it was not entered.
        """
        return await self._inbox.take()
