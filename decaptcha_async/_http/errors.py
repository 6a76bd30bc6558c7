"""Every foreign exception of an attempt, said in our words.

Exceptions are known by the names of their classes, for httpx and httpx2 alike: httpx2 is welcome
as an injected client, and so is aiohttp below it, but neither is a dependency.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from typing import Final, TypeVar

import anyio

from decaptcha_async._chain import DOING
from decaptcha_async.errors import (
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    InvalidResponseError,
    Phase,
    TLSError,
    TransportError,
)

P = TypeVar("P", bound=Phase | None)

_TIMEOUTS: Final[dict[str, Phase | None]] = {
    "ConnectTimeout": "connect",
    "ReadTimeout": "receive",
    "WriteTimeout": "send",
    "PoolTimeout": None,
    "TimeoutException": None,
}
_FAILURES: Final[dict[str, Phase]] = {
    "ConnectError": "connect",
    "ConnectionNotAvailable": "connect",
    "ProxyError": "connect",
    "WriteError": "send",
    "LocalProtocolError": "send",
    "RequestNotRead": "send",
    "ReadError": "receive",
    "CloseError": "receive",
    "RemoteProtocolError": "receive",
    "StreamError": "receive",
    "NetworkError": "receive",
    "ProtocolError": "receive",
    "TransportError": "receive",
    "HTTPError": "receive",
    "ClientConnectorError": "connect",
    "ClientError": "receive",
}
_UNUSABLE: Final = {"InvalidURL", "IDNAError", "UnsupportedProtocol"}
_REDIRECT: Final = ("the answer is a redirect, which is not followed", "redirect")
_UNTRUSTED: Final = {
    "DecodingError": ("the answer cannot be decoded", "encoding"),
    "TooManyRedirects": _REDIRECT,
    "CookieConflict": ("the http_client's cookies contradict each other", "body"),
}
_STREAM_ERRORS: Final = (
    OSError,
    anyio.BrokenResourceError,
    anyio.BusyResourceError,
    anyio.ClosedResourceError,
    anyio.DelimiterNotFound,
    anyio.EndOfStream,
    anyio.IncompleteRead,
)
_CLOSED_BY_PEER: Final = (anyio.EndOfStream, ssl.SSLEOFError)
_REASONS: Final = {
    "RemoteProtocolError": "the answer is not HTTP",
    "LocalProtocolError": "the request is not HTTP",
    "ClientResponseError": "the answer is not HTTP",
}
_LIBRARIES: Final = {"httpx", "httpx2", "httpcore", "httpcore2", "idna", "aiohttp"}


def translate(
    error: Exception, *, host: str, seconds: float, phase: Phase | None = None
) -> DecaptchaError | None:
    """The same failure as one of our errors; None for an exception that is not of HTTP.

    Args:
        error: what the attempt raised.
        host: the host that was asked.
        seconds: how long the attempt had lasted.
        phase: what the attempt was doing, where known.
    """
    if isinstance(error, DecaptchaError):
        return error
    for name in class_names(error):
        if name in _TIMEOUTS:
            return _late(_exact(_TIMEOUTS[name], phase), host, seconds)
        if name in _UNTRUSTED or _is_redirect(error, name, phase):
            message, reason = _UNTRUSTED.get(name, _REDIRECT)
            return InvalidResponseError(message, reason=reason)
        if name in _UNUSABLE:
            return ConfigurationError("base_url is refused by the HTTP library")
        if name in _FAILURES:
            return _broken(error, _exact(_FAILURES[name], phase), host, seconds)
    if isinstance(error, TimeoutError):
        return _late(phase or "receive", host, seconds)
    if isinstance(error, _STREAM_ERRORS):
        return _broken(error, phase or "receive", host, seconds)
    return None


def class_names(error: Exception) -> list[str]:
    """What the HTTP libraries call ``error``, the most specific class first."""
    return [
        cls.__name__
        for cls in type(error).__mro__
        if cls.__module__.partition(".")[0] in _LIBRARIES
    ]


def _exact(named: P, seen: Phase | None) -> P | Phase:
    # What these libraries name ConnectError and ConnectTimeout may be the TLS handshake.
    return "tls" if named == "connect" and seen == "tls" else named


def _is_redirect(error: Exception, name: str, phase: Phase | None) -> bool:
    # httpx parses where a redirect leads, though nobody follows it.
    malformed = name in _UNUSABLE and phase == "receive"
    return malformed or "in location header" in str(error)


def _late(phase: Phase | None, host: str, seconds: float) -> DeadlineExceededError:
    message = f"no answer from {host} within {seconds:.3g} s, {DOING[phase]}"
    return DeadlineExceededError(message, phase=phase, host=host)


def _broken(error: Exception, phase: Phase, host: str, seconds: float) -> TransportError:
    causes = list(_causes(error))
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if tls is not None and not isinstance(tls, ssl.SSLEOFError):
        return TLSError(f"cannot trust {host}: {_tls_problem(tls)}", host=host)
    if tls is not None and phase == "connect":
        phase = "tls"
    reason = _reason(causes)
    message = f"no answer from {host}: {reason}, {DOING[phase]} (after {seconds:.3g} s)"
    return TransportError(message, phase=phase, host=host)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting.extend(getattr(cause, "exceptions", ()))
        waiting.extend(c for c in (cause.__cause__, cause.__context__) if c is not None)


def _reason(causes: list[BaseException]) -> str:
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return "the host name is not known"
        if isinstance(cause, OSError) and cause.errno and not isinstance(cause, ssl.SSLError):
            return os.strerror(cause.errno).lower()
    text = str(causes[0]).lower()
    if "peer closed connection" in text or "incomplete" in text:
        return "the answer was cut off"
    if "disconnected" in text or any(isinstance(cause, _CLOSED_BY_PEER) for cause in causes):
        return "the server closed the connection"
    if "illegal request line" in text:  # h11 of an answer in binary, as TLS is
        return "the answer is binary, not HTTP: is http in base_url right?"
    return _REASONS.get(type(causes[0]).__name__, "the connection broke")


def _tls_problem(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        problem = (error.verify_message or "certificate verification failed").rstrip(".")
        if "mismatch" in problem:
            return f"{problem}: is the host in base_url right?"
        if "expired" in problem or "not yet valid" in problem:
            return f"{problem}: is the clock of this machine right?"
        return f"{problem}. If the server is yours, pass an ssl_context that trusts its authority"
    reason = (error.reason or "protocol error").replace("_", " ").lower()
    if "wrong version" in reason or "http request" in reason or "record layer" in reason:
        return f"it does not speak TLS ({reason}): is https in base_url right?"
    if "protocol version" in reason or "unsupported protocol" in reason:
        return f"it speaks no version of TLS that the ssl_context allows ({reason})"
    return f"the TLS handshake failed ({reason})"
