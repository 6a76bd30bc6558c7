"""The innermost handler: one HTTP request, one answer, one reading or one of our errors."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel

from decaptcha_async import _clock
from decaptcha_async._chain import Call, CallLog
from decaptcha_async._http.errors import class_names, translate
from decaptcha_async._readings import BalanceReading
from decaptcha_async._secret import ApiKey
from decaptcha_async._settings import KeySource
from decaptcha_async._wire import MAX_BODY, METHOD, PATH, check_head, decode
from decaptcha_async.errors import ClientClosedError, DecaptchaError, Phase

_CONNECT_WITHIN: Final = 10.0
_ANSWER_WITHIN: Final = 30.0
_PATIENCE: Final = (_CONNECT_WITHIN, _ANSWER_WITHIN, _ANSWER_WITHIN, _ANSWER_WITHIN)
_MARGIN: Final = 0.02
_LONGEST_MARGIN: Final = 0.1
_SHORTEST: Final = 0.001
_PIECES_AFTER_CLOSING: Final = 8
_CLOSE_WITHIN: Final = 2.0
_OK: Final = 200
_REFUSALS: Final = range(400, 600)
_REFUSAL_WITHIN: Final = 1.0

_PHASES: Final[dict[str, Phase]] = {
    "connect_tcp.started": "connect",
    "start_tls.started": "tls",
    "send_request_headers.started": "send",
    "receive_response_headers.started": "receive",
}


Request = Any
"""A request of httpx or of httpx2; the two share no base class."""


class HTTPClient(Protocol):
    """What is used of an ``httpx.AsyncClient`` (or an ``httpx2.AsyncClient``) of yours.

    .. versionadded:: 0.1.0
    """

    def build_request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout: tuple[float | None, float | None, float | None, float | None],
        extensions: dict[str, Any],
    ) -> Request:
        """Make a request; the four timeouts are connect, read, write and pool, in seconds.

        .. versionadded:: 0.1.0
        """

    def send(
        self,
        request: Request,
        *,
        stream: bool,
        auth: Callable[[Any], Any],
        follow_redirects: bool,
    ) -> Awaitable[Any]:
        """Send a request and return the response, its body not yet read.

        .. versionadded:: 0.1.0
        """
        ...


class _Response(Protocol):
    status_code: int
    headers: Mapping[str, str]
    content: bytes
    is_stream_consumed: bool

    def aiter_raw(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


class Endpoint:
    """The Balance API at one base URL, asked with the key of the moment.

    A client that is given is somebody else's; else ``client`` is to be set before the first call.
    """

    # The keys of calls that have begun and not been sent. One for all: there may be thousands of
    # clients, and an empty one takes a kilobyte.
    _asked: ClassVar[WeakKeyDictionary[CallLog, ApiKey]] = WeakKeyDictionary()

    def __init__(
        self,
        base_url: str,
        keys: KeySource,
        headers: Mapping[str, str],
        client: HTTPClient | None = None,
    ) -> None:
        self.base_url = base_url
        self.client = client
        self._injected = client is not None
        self._keys = keys
        self._headers = headers
        self._host = urlsplit(base_url).netloc

    async def begin(self, operation: str, max_attempts: int | None) -> Call:
        """A new call, for the account that the key of this moment belongs to.

        The key that was asked for the account serves the first attempt too.
        """
        key = await self._keys.ask()
        log = CallLog(host=self._host)
        self._asked[log] = key
        account = key.account(self.base_url)
        return Call(operation=operation, max_attempts=max_attempts, account=account, log=log)

    async def __call__(self, call: Call) -> BalanceReading:
        """Make one attempt."""
        # A transport in process may answer without ever suspending: then no other task would run,
        # and nothing could be cancelled.
        await anyio.lowlevel.checkpoint()
        outcome = await self._attempt(call)
        if isinstance(outcome, BalanceReading):
            return outcome
        try:
            raise outcome
        finally:
            del outcome

    async def _attempt(self, call: Call) -> BalanceReading | DecaptchaError:
        # Frames below this one hold the key: in the request's headers, in the bytes that were
        # sent, in what the server echoed. So what leaves here, leaves without them.
        key = self._asked.pop(call.log, None) or await self._keys.ask()
        call.log.requests += 1
        call.log.phase = None
        began = _clock.now()
        try:
            return await self._exchange(call, key, began)
        except Exception as error:
            lasted = _clock.now() - began
            known = translate(error, host=self._host, seconds=lasted, phase=call.log.phase)
            _forget_frames(known or error)
            if known is None:
                raise
            return known
        except BaseException as cancelled:
            _forget_frames(cancelled)
            raise

    async def _exchange(self, call: Call, key: ApiKey, began: float) -> BalanceReading:
        client = self.client
        if client is None or getattr(client, "is_closed", False):
            message = "the http_client is closed: make a new one, or let BalanceClient have its own"
            raise ClientClosedError(message)
        request = client.build_request(
            METHOD,
            self.base_url + PATH,
            headers=self._headers,
            timeout=_phase_timeouts() if self._injected else _PATIENCE,
            extensions={"trace": _follow(call.log)},
        )
        response = await _send(client, request, key)
        try:
            body = await _read(response, key)
        finally:
            await _close(response)
        arrived = datetime.now(UTC)
        balance = decode(response.status_code, response.headers, body, scrub=key.scrub, now=arrived)
        return BalanceReading(
            amount=balance.amount,
            raw=balance.raw,
            taken_at=arrived,
            latency=_clock.now() - began,
            attempts=call.log.requests,
            stamp=_clock.Stamp.take(),
        )


async def _send(client: HTTPClient, request: Request, key: ApiKey) -> _Response:
    try:
        response: _Response = await client.send(
            request, stream=True, auth=key.put, follow_redirects=False
        )
    except Exception as error:
        # A hook of an injected client that raises for the status: the answer itself says more.
        if "HTTPStatusError" not in class_names(error):
            raise
        response = vars(error)["response"]
    return response


async def _close(response: _Response) -> None:
    # What was learnt from the answer stands, even when closing fails or takes for ever.
    with anyio.move_on_after(_CLOSE_WITHIN, shield=True), contextlib.suppress(Exception):
        await response.aclose()


async def _read(response: _Response, key: ApiKey) -> bytes:
    """The raw body, as far as it matters: beside another status than 200 it only explains.

    So what a refusal says is read for a moment, and a body that breaks off, or never ends, does not
    hide the status. What else came is not read at all.
    """
    check_head(response.status_code, response.headers, scrub=key.scrub)
    if response.is_stream_consumed:  # a mock transport hands over a body that was read
        return response.content[: MAX_BODY + 1]
    if response.status_code == _OK:
        return await _read_body(response)
    if response.status_code in _REFUSALS:
        left = anyio.current_effective_deadline() - _clock.now()
        with anyio.move_on_after(min(_REFUSAL_WITHIN, left / 2)), contextlib.suppress(Exception):
            return await _read_body(response)
    return b""


async def _read_body(response: _Response) -> bytes:
    """The raw body, cut a little above the most that is allowed."""
    body = bytearray()
    pieces_after_closing = 0
    try:
        async for piece in response.aiter_raw():
            if len(body) <= MAX_BODY:
                body += piece
                continue
            # Closed and then read to its end: to leave an async generator half read leaves it to
            # the garbage collector.
            await response.aclose()
            pieces_after_closing += 1
            if pieces_after_closing > _PIECES_AFTER_CLOSING:
                break
    except Exception:
        if not pieces_after_closing:
            raise
    return bytes(body[: MAX_BODY + 1])


def _phase_timeouts() -> tuple[float, float, float, float]:
    """Connect, read, write and pool: a little less than the time that the caller has left.

    So most stalls of a client that is not ours end by its timeouts, not by our cancellation, which
    its pool may not survive.
    """
    left = max(_SHORTEST, anyio.current_effective_deadline() - _clock.now())
    left -= min(_LONGEST_MARGIN, _MARGIN * left)
    connect, answer = min(_CONNECT_WITHIN, left), min(_ANSWER_WITHIN, left)
    return connect, answer, answer, answer


def _follow(log: CallLog) -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
    async def trace(event: str, _: Mapping[str, Any]) -> None:
        log.phase = _PHASES.get(event.partition(".")[2]) or log.phase

    return trace


def _forget_frames(error: BaseException) -> None:
    error.__traceback__ = error.__context__ = error.__cause__ = None
    for member in getattr(error, "exceptions", ()):  # of a group
        _forget_frames(member)
