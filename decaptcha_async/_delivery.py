"""Bring alerts to those who want them: each notifier by itself, with patience, never in the way."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import anyio
import anyio.lowlevel
import attrs

from decaptcha_async._background import Background, Job, contained
from decaptcha_async._chain import is_async
from decaptcha_async.alerts import Alert

logger: Final = logging.getLogger(__name__)

GRACE: Final = 5.0
"""Seconds that pending alerts have when the delivery ends."""

_PATIENCE: Final = 30.0
_PAUSES: Final = (1.0, 4.0, 16.0, 60.0)
_MOST_PENDING: Final = 100

Notifier = Callable[[Alert], Awaitable[object]]
"""An async callable that brings an :class:`Alert` somewhere. It raises if it could not.

.. versionadded:: 0.1.0
"""


@attrs.define(eq=False)
class _Post:
    """One notifier, and the alerts that wait for it, oldest first."""

    notifier: Notifier
    name: str
    pending: deque[Alert] = attrs.field(factory=deque[Alert], init=False)
    _closing: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _more: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def send(self, alert: Alert) -> None:
        if len(self.pending) >= _MOST_PENDING:
            _give_up(self.name, self.pending.popleft(), "too many wait")
        self.pending.append(alert)
        self._more.set()

    def close(self) -> None:
        self._closing.set()
        self._more.set()

    async def work(self) -> None:
        """Deliver until closed and empty."""
        while self.pending or not self._closing.is_set():
            self._more = anyio.Event()
            if not self.pending:
                await self._more.wait()
                continue
            alert = self.pending[0]
            await self._deliver(alert)
            if self.pending and self.pending[0] is alert:
                self.pending.popleft()
            await anyio.lowlevel.checkpoint()  # a notifier may have resisted the end

    async def _deliver(self, alert: Alert) -> None:
        reason = ""
        for pause in (*_PAUSES, None):
            try:
                with anyio.move_on_after(_PATIENCE) as patience:
                    await contained(self.notifier(alert))
                if not patience.cancelled_caught:
                    return
                reason = f"no end within {_PATIENCE:g} s"
            except Exception as error:  # noqa: BLE001
                reason = f"{type(error).__name__}: {error}"
            if pause is not None:
                logger.info("%s failed, again in %g s: %s", self.name, pause, reason)
                await self._pause(pause)
        _give_up(self.name, alert, reason)

    async def _pause(self, seconds: float) -> None:
        """Once it closes, no pause lasts longer than the shortest."""
        with anyio.move_on_after(seconds):
            await self._closing.wait()
            await anyio.sleep(_PAUSES[0])


def _checked(notifier: Notifier) -> Notifier:
    if isinstance(notifier, type) or not is_async(notifier):
        name = getattr(notifier, "__name__", type(notifier).__name__)
        message = f"a notifier must be an async callable that takes an Alert: {name} is not"
        raise TypeError(message)
    return notifier


def _name_of(notifier: object) -> str:
    # Not its repr: a partial or a bound method may hold a password.
    return getattr(notifier, "__qualname__", None) or type(notifier).__name__


def _give_up(name: str, alert: Alert, reason: str) -> None:
    logger.error("could not deliver to %s (%s): %s", name, reason, alert.message)


class Delivery:
    """Queues and workers for a number of notifiers.

    A notifier that raises, or does not end within 30 s, is tried again after 1, 4, 16 and 60 s. It
    holds up nothing but its own queue of 100 alerts. What could not be delivered is logged as an
    ERROR with the alert's message.
    """

    def __init__(self, notifiers: Iterable[Notifier]) -> None:
        self._posts = [_Post(_checked(notifier), _name_of(notifier)) for notifier in notifiers]
        self._jobs: list[Job] = []

    def start(self, background: Background) -> None:
        """Begin to deliver."""
        self._jobs = [
            background.start(post.work, f"alerts for {post.name}") for post in self._posts
        ]

    def send(self, alert: Alert) -> None:
        """Deliver ``alert`` soon; returns at once."""
        for post in self._posts:
            post.send(alert)

    async def aclose(self) -> None:
        """End: pending alerts have :data:`GRACE` seconds, then they are logged."""
        for post in self._posts:
            post.close()
        try:
            with anyio.move_on_after(GRACE, shield=True):
                for job in self._jobs:
                    await job.wait()
        finally:
            for post in self._posts:
                for alert in post.pending:
                    _give_up(post.name, alert, "the monitor ends")
