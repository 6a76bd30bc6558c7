"""Every foreign exception, said in our words; and none that is not HTTP's."""

from __future__ import annotations

import errno
import socket
import ssl
from types import ModuleType
from typing import Final, TypeVar

import anyio
import httpcore
import httpcore2
import httpx
import httpx2
import idna
import pytest

from decaptcha_async._http.errors import translate
from decaptcha_async.errors import (
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    InvalidResponseError,
    Phase,
    ServerError,
    TLSError,
    TransportError,
)

E = TypeVar("E", bound=DecaptchaError)

LIBRARIES: Final = (httpx, httpx2, httpcore, httpcore2)
BROKEN: Final = TransportError
LATE: Final = DeadlineExceededError

# What each class means, and in which phase it shows, or for which reason the answer is refused.
MEANINGS: Final[dict[str, tuple[type[DecaptchaError], str | None]]] = {
    "CloseError": (BROKEN, "receive"),
    "ConnectError": (BROKEN, "connect"),
    "ConnectTimeout": (LATE, "connect"),
    "ConnectionNotAvailable": (BROKEN, "connect"),
    "CookieConflict": (InvalidResponseError, "body"),
    "DecodingError": (InvalidResponseError, "encoding"),
    "HTTPError": (BROKEN, "receive"),
    "HTTPStatusError": (BROKEN, "receive"),
    "InvalidURL": (ConfigurationError, None),
    "LocalProtocolError": (BROKEN, "send"),
    "NetworkError": (BROKEN, "receive"),
    "PoolTimeout": (LATE, None),
    "ProtocolError": (BROKEN, "receive"),
    "ProxyError": (BROKEN, "connect"),
    "ReadError": (BROKEN, "receive"),
    "ReadTimeout": (LATE, "receive"),
    "RemoteProtocolError": (BROKEN, "receive"),
    "RequestError": (BROKEN, "receive"),
    "RequestNotRead": (BROKEN, "send"),
    "ResponseNotRead": (BROKEN, "receive"),
    "SSEError": (BROKEN, "receive"),
    "StreamClosed": (BROKEN, "receive"),
    "StreamConsumed": (BROKEN, "receive"),
    "StreamError": (BROKEN, "receive"),
    "TimeoutException": (LATE, None),
    "TooManyRedirects": (InvalidResponseError, "redirect"),
    "TransportError": (BROKEN, "receive"),
    "UnsupportedProtocol": (ConfigurationError, None),
    "WriteError": (BROKEN, "send"),
    "WriteTimeout": (LATE, "send"),
}


def exceptions_of(library: ModuleType) -> list[type[Exception]]:
    """Every exception class that a library shows."""
    shown = (getattr(library, name) for name in dir(library))
    return [
        item
        for item in shown
        if isinstance(item, type) and issubclass(item, Exception) and not issubclass(item, Warning)
    ]


FOREIGN: Final = [cls for library in LIBRARIES for cls in exceptions_of(library)]


def said(
    error: Exception,
    kind: type[E],
    *,
    phase: Phase | None = None,
    cause: BaseException | None = None,
) -> E:
    """The translation of ``error``, which must be exactly of ``kind``."""
    error.__cause__ = cause
    known = translate(error, host="api.example", seconds=1.25, phase=phase)
    assert type(known) is kind
    return known


@pytest.mark.parametrize("cls", FOREIGN, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_class_is_mapped(cls: type[Exception]) -> None:
    """C5: each exception class of the HTTP libraries has its meaning; a new one has none yet."""
    kind, detail = MEANINGS[cls.__name__]
    known = said(cls.__new__(cls), kind)
    assert getattr(known, "phase", getattr(known, "reason", None)) == detail
    assert str(known)


def test_the_libraries_are_looked_through() -> None:
    """C5: every line of the table is needed, so the list of classes is not short by mistake."""
    assert {cls.__name__ for cls in FOREIGN} == MEANINGS.keys()


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (OSError("?"), "send"),
        (ConnectionResetError(errno.ECONNRESET, "?"), "receive"),
        (ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "?"), "tls"),
        (anyio.BrokenResourceError(), "send"),
        (anyio.BusyResourceError("reading"), "receive"),
        (anyio.ClosedResourceError(), "receive"),
        (anyio.ConnectionFailed("?"), "connect"),
        (anyio.DelimiterNotFound(10), "receive"),
        (anyio.EndOfStream(), "receive"),
        (anyio.IncompleteRead(), "receive"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_what_sockets_and_streams_raise(error: Exception, phase: Phase) -> None:
    """C5: OSError, an EOF under TLS and anyio's stream errors are no answer, and retryable."""
    known = said(error, TransportError, phase=phase)
    assert (known.phase, known.host, known.retryable) == (phase, "api.example", True)
    assert said(error, TransportError).phase == "receive"


def test_a_timeout_of_the_system() -> None:
    """C5: TimeoutError, an OSError too, is a deadline."""
    error = TimeoutError(errno.ETIMEDOUT, "?")
    assert said(error, DeadlineExceededError, phase="connect").phase == "connect"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        RuntimeError("a bug"),
        UnicodeError("a bug"),
        ExceptionGroup("two", [httpx.ReadError("broken")]),
        UserWarning("old"),
    ],
)
def test_what_is_not_of_http(error: Exception) -> None:
    """C5, E: an exception that is not of HTTP is not ours to translate."""
    assert translate(error, host="api.example", seconds=1.25) is None


def test_our_own_errors() -> None:
    """C5: an error of ours stays itself."""
    error = ServerError(status_code=503)
    assert translate(error, host="api.example", seconds=1.25) is error


@pytest.mark.parametrize(
    ("error", "cause", "phase", "text"),
    [
        pytest.param(
            httpx.ConnectError("All connection attempts failed"),
            ExceptionGroup("both", [ConnectionRefusedError(errno.ECONNREFUSED, "?")]),
            "connect",
            "no answer from api.example: connection refused, while connecting (after 1.25 s)",
            id="refused-on-every-address",
        ),
        pytest.param(
            httpx.ConnectError(""),
            socket.gaierror(socket.EAI_NONAME, "?"),
            "connect",
            "no answer from api.example: the host name is not known, while connecting"
            " (after 1.25 s)",
            id="name",
        ),
        pytest.param(
            httpx.ConnectError(""),
            ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "?"),
            None,
            "no answer from api.example: the server closed the connection, in the TLS handshake"
            " (after 1.25 s)",
            id="eof-in-the-handshake",
        ),
        pytest.param(
            httpx.ConnectError(""),
            ConnectionResetError(errno.ECONNRESET, "?"),
            "tls",
            "no answer from api.example: connection reset by peer, in the TLS handshake"
            " (after 1.25 s)",
            id="reset-in-the-handshake",
        ),
        pytest.param(
            httpx2.RemoteProtocolError("peer closed connection without sending complete body"),
            None,
            "receive",
            "no answer from api.example: the answer was cut off, while waiting for the answer"
            " (after 1.25 s)",
            id="cut",
        ),
        pytest.param(
            httpx.RemoteProtocolError("Server disconnected without sending a response."),
            None,
            "receive",
            "no answer from api.example: the server closed the connection, while waiting for the"
            " answer (after 1.25 s)",
            id="disconnected",
        ),
        pytest.param(
            httpx.RemoteProtocolError("illegal status line: b'SSH-2.0'"),
            None,
            "receive",
            "no answer from api.example: the answer is not HTTP, while waiting for the answer"
            " (after 1.25 s)",
            id="not-http",
        ),
        pytest.param(
            httpx.LocalProtocolError("Illegal header value b'secret'"),
            None,
            "send",
            "no answer from api.example: the request is not HTTP, while sending (after 1.25 s)",
            id="illegal-header",
        ),
        pytest.param(
            httpx.WriteError(""),
            anyio.BrokenResourceError(),
            "send",
            "no answer from api.example: the connection broke, while sending (after 1.25 s)",
            id="broken",
        ),
    ],
)
def test_why_no_answer_came(
    error: Exception, cause: BaseException | None, phase: Phase | None, text: str
) -> None:
    """C5: a message names host, reason, phase and seconds, never what the library quotes."""
    assert str(said(error, TransportError, phase=phase, cause=cause)) == text


@pytest.mark.parametrize(
    ("error", "phase", "text"),
    [
        (httpx.ConnectTimeout(""), "connect", "while connecting"),
        (httpx.ConnectTimeout(""), "tls", "in the TLS handshake"),
        (httpx2.WriteTimeout(""), "send", "while sending"),
        (httpx.ReadTimeout(""), "receive", "while waiting for the answer"),
        (httpx.PoolTimeout(""), None, "while waiting for a connection"),
    ],
)
def test_what_took_too_long(error: Exception, phase: Phase | None, text: str) -> None:
    """C5: a timeout of the library names host, seconds and phase, the TLS handshake too."""
    known = said(error, DeadlineExceededError, phase=phase)
    assert known.phase == phase
    assert str(known) == f"no answer from api.example within 1.25 s, {text}"


def verification(message: str) -> ssl.SSLError:
    """A certificate refused, for the reason that OpenSSL gives."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = message
    return error


def handshake(reason: str) -> ssl.SSLError:
    """A handshake that failed, for the reason that OpenSSL gives."""
    error = ssl.SSLError(1, "?")
    error.reason = reason
    return error


YOURS = "If the server is yours, pass an ssl_context that trusts its authority"


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (verification("self-signed certificate"), f"self-signed certificate. {YOURS}"),
        (verification(""), f"certificate verification failed. {YOURS}"),
        (
            handshake("WRONG_VERSION_NUMBER"),
            "it does not speak TLS (wrong version number): is https in base_url right?",
        ),
        (
            handshake("HTTP_REQUEST"),
            "it does not speak TLS (http request): is https in base_url right?",
        ),
        (
            handshake("RECORD_LAYER_FAILURE"),
            "it does not speak TLS (record layer failure): is https in base_url right?",
        ),
        (handshake("NO_CIPHERS"), "the TLS handshake failed (no ciphers)"),
        (handshake(""), "the TLS handshake failed (protocol error)"),
    ],
)
def test_tls_refused(cause: ssl.SSLError, text: str) -> None:
    """C5, R2: an SSLError that is no EOF is a TLSError, not retryable, and says what to do."""
    known = said(httpx.ConnectError(""), TLSError, cause=cause)
    assert (known.phase, known.retryable) == ("tls", False)
    assert str(known) == f"cannot trust api.example: {text}"


def test_causes_that_go_in_a_circle() -> None:
    """C5: a chain of causes that comes back to itself ends all the same."""
    error, cause = httpx.ReadError("broken"), ValueError("of")
    cause.__context__ = error
    assert said(error, TransportError, cause=cause).phase == "receive"


@pytest.mark.parametrize(
    "error",
    [
        httpx.RemoteProtocolError("Invalid URL in location header: Invalid port."),
        httpx2.InvalidURL("For absolute URLs, path must be empty or begin with '/'"),
        idna.core.InvalidCodepoint("Codepoint U+0080 not allowed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_redirect_to_a_malformed_place(error: Exception) -> None:
    """B3: a redirect whose Location the library cannot parse is refused, not asked for again."""
    known = said(error, InvalidResponseError, phase="receive")
    assert (known.reason, known.retryable) == ("redirect", False)


@pytest.mark.parametrize("error", [httpx.InvalidURL("Invalid IPv4 address"), idna.IDNAError("?")])
def test_a_url_that_the_library_refuses(error: Exception) -> None:
    """C5: before anything was sent, a URL refused by the library can only be base_url."""
    assert "base_url" in str(said(error, ConfigurationError))
