"""The documented Balance API over an invented account, to try things out and to test against.

It imports nothing else of this package: it is an independent reading of the vendor's page ("Balance
API": request, success and error response), so the client can be checked against it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import random
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager, nullcontext
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from http import HTTPStatus
from http.client import responses
from itertools import chain, repeat
from typing import Any, Final

import anyio
import attrs
from attrs.validators import and_, ge, instance_of, le, optional

__all__ = ["Fault", "Sandbox"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_PATH: Final = "/api/balance"
_MESSAGES: Final = responses | {401: "Invalid API key", 500: "Internal server error"}
_BODILESS: Final = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
_CENT: Final = Decimal("0.01")
_SECOND: Final = 10**6


def _pairs(headers: _Headers) -> tuple[tuple[str, str], ...]:
    return tuple(dict(headers).items())


@attrs.frozen
class Fault:
    """Something that goes wrong, for the sandbox's script.

    Attributes:
        status: HTTP status, 200 to 599; ``None`` (default) is the normal answer's.
        body: sent verbatim, text as UTF-8; ``None`` (default) is the documented body for the
            status. A 204 or a 304 carries none.
        headers: a mapping or pairs, in place of the sandbox's own of the same name. A
            ``content-length`` above the body's makes a server cut the answer off.
        delay: seconds before the answer (default 0) by the event loop's clock; ``math.inf`` is a
            silent server. A client that leaves ends it.
        times: number of requests it is played to (default 1).

    Raises:
        TypeError: a value of another type.
        ValueError: a status, a delay or a number of times out of range.

    .. versionadded:: 0.1.0
    """

    status: int | None = attrs.field(
        default=None, validator=optional(and_(instance_of(int), ge(200), le(599)))
    )
    body: str | bytes | None = attrs.field(
        default=None, validator=optional(instance_of((str, bytes)))
    )
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_pairs)
    delay: float = attrs.field(default=0.0, validator=ge(0))
    times: int = attrs.field(default=1, validator=and_(instance_of(int), ge(1)))


class Sandbox:
    """The documented API as an ASGI application: one account, one key, one path.

    ``GET /api/balance`` with the right ``x-api-key`` is answered by 200 and the balance with two
    decimals, without it by 401 (vendor's page: success and error response); other methods by 405,
    other paths by 404, in the same shape. It belongs to one event loop at a time.

    Attributes:
        api_key: the one key that is right, visible ASCII (default ``"sandbox"``).
        requests: number of HTTP requests received.

    The other arguments are ``balance``, the money in the account at first; ``spend_per_second``,
    spent from the first answer on by the event loop's clock, so virtual time drains the account
    too; ``grouped``, to show ``1,250.75``; ``script``, the faults played in order to requests for
    a balance, before normal answers; and ``seed``: a number spends in purchases of random size at
    random moments, one a second on average, the same for the same number; ``None`` spends
    smoothly. Money is exact, shown rounded down to cents, and stays at zero once it is spent.

    Raises:
        TypeError: money that is not a Decimal, an int or a str; a script of other things.
        ValueError: money that is negative, not finite or no number; a bad key.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        *,
        balance: Decimal | int | str = "1250.75",
        api_key: str = "sandbox",
        spend_per_second: Decimal | int | str = "0",
        grouped: bool = False,
        script: Iterable[Fault] = (),
        seed: int | None = None,
    ) -> None:
        if not api_key or not all("!" <= character <= "~" for character in api_key):
            message = "the sandbox's api_key must be of visible ASCII characters, at least one"
            raise ValueError(message)
        steps = [_fault(step) for step in script]
        self.api_key = api_key
        self.requests: int = 0
        self._account = _Account(_money(balance), _money(spend_per_second), seed)
        self._form = ",.2f" if grouped else ".2f"
        self._script = chain.from_iterable(repeat(step, step.times) for step in steps)
        self._delays: set[anyio.CancelScope] = set()

    def top_up(self, amount: Decimal | int | str) -> None:
        """Pay money in, now; from the first answer on, inside the event loop, whose clock it reads.

        Raises:
            TypeError: not a Decimal, an int or a str.
            ValueError: negative, not finite or no number.

        .. versionadded:: 0.1.0
        """
        self._account.top_up(_money(amount))

    async def app(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """The ASGI 3 application (``http`` and ``lifespan``), to mount or to serve.

        .. versionadded:: 0.1.0
        """
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                for stage in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{stage}.complete"})
            case other:
                message = f"the sandbox speaks HTTP, not {other}"
                raise ValueError(message)

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncGenerator[str]:
        """Serve on 127.0.0.1 in this event loop; ``async with`` gives the base URL.

        ``port`` 0 (default) takes any free one. Signals are left alone. The server ends with the
        block; answers that a fault still delays are then given at once.

        Raises:
            ImportError: uvicorn is missing; the extra is ``decaptcha-async[sandbox]``.
            OSError: the port is taken.
            RuntimeError: not on asyncio, which uvicorn needs; on trio use ``app``.

        .. versionadded:: 0.1.0
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            message = "Sandbox.serve needs asyncio, because uvicorn does; elsewhere use Sandbox.app"
            raise RuntimeError(message) from None
        try:
            import uvicorn  # noqa: PLC0415
        except ImportError as error:
            message = "Sandbox.serve needs uvicorn: pip install 'decaptcha-async[sandbox]'"
            raise ImportError(message, name=error.name) from error
        config = uvicorn.Config(
            self.app, interface="asgi3", lifespan="off", ws="none", log_config=None
        )
        server = uvicorn.Server(config)
        server.capture_signals = nullcontext  # type: ignore[assignment, method-assign]
        listener = socket.create_server(("127.0.0.1", port))
        serving = loop.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            for delay in self._delays:
                delay.cancel()
            with anyio.CancelScope(shield=True):
                await serving

    async def _answer(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        self.requests += 1
        if scope["path"].removeprefix(scope.get("root_path", "")) != _PATH:
            fault = Fault(404)
        elif scope["method"] != "GET":
            fault = Fault(405, headers={"allow": "GET"})
        else:
            fault = next(self._script, Fault())
        if fault.delay and await self._client_leaves(fault.delay, receive):
            return
        status = fault.status or self._verdict(scope["headers"])
        body = self._documented(status) if fault.body is None else fault.body
        content = body.encode() if isinstance(body, str) else body
        content = b"" if status in _BODILESS else content
        headers = {"content-type": "application/json", "content-length": str(len(content))}
        headers |= {name.lower(): value for name, value in fault.headers}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    async def _client_leaves(self, delay: float, receive: _Receive) -> bool:
        with anyio.move_on_after(delay) as scope:
            self._delays.add(scope)
            try:
                while (await receive())["type"] != "http.disconnect":
                    pass
            finally:
                self._delays.remove(scope)
        return not scope.cancelled_caught

    def _verdict(self, headers: Iterable[tuple[bytes, bytes]]) -> int:
        keys = [value for name, value in headers if name == b"x-api-key"]
        right = len(keys) == 1 and hmac.compare_digest(keys[0], self.api_key.encode())
        return HTTPStatus.OK if right else HTTPStatus.UNAUTHORIZED

    def _documented(self, status: int) -> str:
        good = status == HTTPStatus.OK
        body = {
            "isSuccess": good,
            "statusCode": status,
            "errorMessage": None if good else _MESSAGES.get(status, "Unknown status"),
            "data": format(self._account.look(), self._form) if good else None,
        }
        return json.dumps(body)


class _Account:
    """Money that is spent from the first look on, timed in microseconds of the loop's clock."""

    def __init__(self, balance: Decimal, per_second: Decimal, seed: int | None) -> None:
        self._money = balance
        self._per_second = per_second
        self._dice = None if seed is None else random.Random(seed)
        self._next_purchase = 0
        self._spent = Decimal(0)
        self._purchased = Decimal(0)
        self._start: float | None = None

    def look(self) -> Decimal:
        """The money left, rounded down to cents."""
        now = anyio.current_time()
        if self._start is None:
            self._start = now
        before, self._spent = self._spent, self._spent_until(round((now - self._start) * _SECOND))
        self._money = max(self._money - (self._spent - before), Decimal(0))
        return self._money.quantize(_CENT, ROUND_DOWN)

    def top_up(self, amount: Decimal) -> None:
        """Add money, after what has been spent is taken away."""
        if self._start is not None:
            self.look()
        self._money += amount

    def _spent_until(self, moment: int) -> Decimal:
        if self._dice is None:
            return self._per_second * moment / _SECOND
        while self._next_purchase < moment:
            self._purchased += self._per_second * self._dice.randint(50, 150) / 100
            self._next_purchase += round(self._dice.expovariate(1.0) * _SECOND)
        return self._purchased


def _fault(step: object) -> Fault:
    if not isinstance(step, Fault):
        message = "the script takes faults, such as [Fault(500), Fault(delay=5, times=2)]"
        raise TypeError(message)
    return step


def _money(amount: object) -> Decimal:
    if isinstance(amount, bool) or not isinstance(amount, Decimal | int | str):
        message = f"write money as a Decimal, an int or a str: a {type(amount).__name__} is inexact"
        raise TypeError(message)
    try:
        money = Decimal(amount)
    except InvalidOperation:
        money = Decimal("NaN")
    if not money.is_finite() or not 0 <= money < 10**15:
        message = f"write money like '1250.75', from 0 to below 10¹⁵, not {amount!r}"
        raise ValueError(message)
    return money
