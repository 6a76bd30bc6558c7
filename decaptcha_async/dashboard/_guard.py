"""Who may ask for the page, and what a browser may do with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_MISDIRECTED: Final = 421
_REFUSAL: Final = (
    "This page does not answer to that host name. Use localhost, or name the host in the"
    " argument allowed_hosts of create_app.\n"
)
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Refuses a ``Host`` that is not expected, and sets the headers that keep a browser strict.

    A page on another site can have its name lead to 127.0.0.1 (DNS rebinding). The browser then
    asks here, with that name as the host.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = _LOOPBACK | {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        known = "*" in self._hosts or self._knows(Headers(scope=scope).getlist("host"))
        app = self._app if known else PlainTextResponse(_REFUSAL, _MISDIRECTED)
        await app(scope, receive, send_strictly)

    def _knows(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        name, _, port = hosts[0].lower().rpartition(":")
        bare = name if port.isdecimal() else hosts[0].lower()
        return bare in self._hosts
