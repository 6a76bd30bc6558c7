"""Alerts to e-mail, chats and webhooks, by Apprise URLs (extra ``apprise``)."""

# Apprise's signatures name a dict without saying of what.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final
from weakref import WeakKeyDictionary

import anyio
import anyio.from_thread
import anyio.lowlevel

from decaptcha_async import Alert, ConfigurationError

try:
    from apprise import Apprise, AppriseAsset, NotifyFormat, NotifyType
except ImportError as _error:
    _message = "AppriseNotifier needs apprise: pip install 'decaptcha-async[apprise]'"
    raise ImportError(_message, name=_error.name) from _error

__all__ = ["AppriseNotifier"]

_TITLES: Final = {
    "low": "DeCaptcha balance low",
    "reminder": "DeCaptcha balance still low",
    "runway": "DeCaptcha balance soon spent",
    "stale": "DeCaptcha balance unknown",
    "recovered": "DeCaptcha balance recovered",
}


class AppriseNotifier:
    """A notifier for :class:`~decaptcha_async.BalanceMonitor` that sends to Apprise URLs.

    An e-mail is ``mailtos://user:password@example.com``, a webhook ``jsons://example.com/hook``;
    Apprise documents more than a hundred. It sends in threads, to all of them at a time.
    Those that could not be reached are tried again with the next delivery of the same alert; the
    others are not sent it twice. Making the first one takes about half a second, in which Apprise
    loads its plugins.

    Raises:
        ConfigurationError: no URL, or one that Apprise does not know. Neither the message nor
            Apprise's log shows it, because it may hold a password.

    .. versionadded:: 0.1.0
    """

    def __init__(self, *urls: str) -> None:
        self._services: list[Apprise] = []
        for number, url in enumerate(urls, 1):
            self._services += _services(url, number)
        if not self._services:
            message = "AppriseNotifier needs a URL, such as mailtos://user:password@example.com"
            raise ConfigurationError(message)
        self._without: WeakKeyDictionary[Alert, set[Apprise]] = WeakKeyDictionary()

    async def __call__(self, alert: Alert) -> None:
        """Send ``alert`` to every service that has not had it.

        Raises:
            ConnectionError: some could not be reached.
        """
        without = self._without.setdefault(alert, set(self._services))
        async with anyio.create_task_group() as group:
            for service in tuple(without):
                group.start_soon(_send, service, alert, without)
        if without:
            names = ", ".join(sorted(str(service[0].service_name) for service in without))
            message = f"Apprise could not reach {names}"
            raise ConnectionError(message)


async def _send(service: Apprise, alert: Alert, without: set[Apprise]) -> None:
    ended = anyio.Event()
    loop = anyio.lowlevel.current_token()

    def send() -> None:
        try:
            if service.notify(
                body=alert.message,
                title=_TITLES[alert.kind],
                notify_type=NotifyType.SUCCESS if alert.kind == "recovered" else NotifyType.WARNING,
                body_format=NotifyFormat.TEXT,
            ):
                without.discard(service)
        finally:
            with suppress(RuntimeError):  # that loop has ended
                anyio.from_thread.run_sync(ended.set, token=loop)

    # AnyIO's own threads are few, and the end of the process waits for one that hangs.
    threading.Thread(target=send, name="alert by Apprise", daemon=True).start()
    await ended.wait()


def _services(url: str, number: int) -> list[Apprise]:
    """What a URL stands for, each by itself: several may stand in one text, with commas."""
    # With a deadline Apprise, too, sends in threads that the end of the process waits for.
    asset = AppriseAsset(service_timeout=0)
    listed = Apprise(asset=asset)
    with _unlogged():
        known = listed.add(url)
    if not known:
        message = f"notification URL number {number} is not one that Apprise knows"
        raise ConfigurationError(message)
    services: list[Apprise] = []
    for plugin in listed:
        services.append(Apprise(asset=asset))
        services[-1].add(plugin)
    return services


@contextmanager
def _unlogged() -> Generator[None]:
    """Keep Apprise from logging in this thread: of a URL that it refuses it logs parts."""
    here = threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    logger = logging.getLogger("apprise")
    logger.addFilter(elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(elsewhere)
