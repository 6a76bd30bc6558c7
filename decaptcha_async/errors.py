"""Everything that can go wrong, split by what you can do about it.

::

    DecaptchaError
    ├── ConfigurationError       (also ValueError) fix the key, the URL or the argument
    ├── ClientClosedError        (also RuntimeError) the client was used after its life
    ├── TransportError           no answer came; it may come later
    │   └── TLSError             the server's certificate or protocol was refused
    ├── DeadlineExceededError    (also TimeoutError) no answer came in time
    ├── CircuitOpenError         the circuit breaker lets nothing through for now
    ├── APIError                 the answer says no
    │   ├── AuthenticationError  401, 403: the key is refused
    │   ├── RateLimitedError     429: asked too often
    │   └── ServerError          5xx: the service failed
    └── InvalidResponseError     the answer cannot be trusted

All of them survive :mod:`copy` and :mod:`pickle`, hold plain values only, and never hold a key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, Literal

import attrs

__all__ = [
    "APIError",
    "Attempt",
    "AuthenticationError",
    "CircuitOpenError",
    "ClientClosedError",
    "ConfigurationError",
    "DeadlineExceededError",
    "DecaptchaError",
    "InvalidResponseError",
    "RateLimitedError",
    "ServerError",
    "TLSError",
    "TransportError",
]

GaveUp = Literal["attempts", "backoff", "deadline", "retry_after", "budget", "not_retryable"]
"""Why retrying ended."""

Phase = Literal["connect", "tls", "send", "receive"]
"""What an attempt was doing when it failed."""

_OK: Final = 200
_REQUEST_TIMEOUT: Final = 408
_TOO_MANY_REQUESTS: Final = 429
_FIRST_SERVER_ERROR: Final = 500


class DecaptchaError(Exception):
    """Base of all errors of this library.

    Attributes:
        retryable: whether the same call may well succeed later.
        healthy: whether this outcome proves the service alive (``True``), speaks against it
            (``False``), or says nothing about it (``None``).
        retry_after: seconds that the service asked to wait, ``None`` if it did not ask.
        earlier_attempts: the failed attempts before this one, oldest first; at most the last 16.
        gave_up: why retrying ended; ``None`` when nothing retried. One of ``"attempts"``,
            ``"backoff"``, ``"deadline"``, ``"retry_after"``, ``"budget"``, ``"not_retryable"``.

    .. versionadded:: 0.1.0
    """

    retryable: bool = False
    healthy: bool | None = None
    retry_after: float | None = None
    earlier_attempts: tuple[Attempt, ...] = ()
    gave_up: GaveUp | None = None

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        if retry_after is not None:
            self.retry_after = retry_after

    def __reduce__(self) -> tuple[Callable[..., DecaptchaError], tuple[Any, ...]]:
        return _restore, (type(self), self.args, self.__dict__.copy())


def _restore(
    cls: type[DecaptchaError], args: tuple[Any, ...], facts: dict[str, Any]
) -> DecaptchaError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


@attrs.frozen(kw_only=True)
class Attempt:
    """One attempt that failed and was followed by another.

    Attributes:
        number: which attempt of the call it was, from 1.
        elapsed: seconds from the start of the call to this failure.
        error: what it failed with.
        delay: seconds waited before the next attempt.

    .. versionadded:: 0.1.0
    """

    number: int
    elapsed: float
    error: DecaptchaError
    delay: float


class ConfigurationError(DecaptchaError, ValueError):
    """The key, the base URL or an argument is not usable as it stands.

    The message names the problem, never the value of a key.

    .. versionadded:: 0.1.0
    """


class ClientClosedError(DecaptchaError, RuntimeError):
    """The client was used after closing, from another event loop, or in a forked process.

    .. versionadded:: 0.1.0
    """


class TransportError(DecaptchaError):
    """No answer came: the connection failed or broke off.

    Attributes:
        phase: what failed: ``"connect"``, ``"tls"``, ``"send"`` or ``"receive"``.
        host: the host that was asked, as in the base URL.

    .. versionadded:: 0.1.0
    """

    retryable: bool = True
    healthy: bool | None = False

    def __init__(self, message: str = "", *, phase: Phase = "connect", host: str = "") -> None:
        super().__init__(message)
        self.phase: Phase = phase
        self.host: str = host


class TLSError(TransportError):
    """The server's certificate or TLS protocol was refused; the key was not sent.

    .. versionadded:: 0.1.0
    """

    retryable: bool = False

    def __init__(self, message: str = "", *, phase: Phase = "tls", host: str = "") -> None:
        super().__init__(message, phase=phase, host=host)


class DeadlineExceededError(DecaptchaError, TimeoutError):
    """No good answer came in the time allowed.

    Attributes:
        phase: what was going on when the time ran out, ``None`` if unknown.
        host: the host that was asked, empty if unknown.

    .. versionadded:: 0.1.0
    """

    retryable: bool = True
    healthy: bool | None = False

    def __init__(self, message: str = "", *, phase: Phase | None = None, host: str = "") -> None:
        super().__init__(message)
        self.phase: Phase | None = phase
        self.host: str = host


class CircuitOpenError(DecaptchaError):
    """The circuit breaker is open; ``retry_after`` is the number of seconds to its next probe.

    .. versionadded:: 0.1.0
    """


class APIError(DecaptchaError):
    """The service answered, and the answer says no.

    Attributes:
        status_code: of the HTTP response.
        api_status_code: ``statusCode`` in the body (vendor's page: response fields), ``None``
            where the body has none.
        message: ``errorMessage`` in the body, at most 200 characters, control characters escaped
            and the key masked; empty where the body has none.

    A 408 is ``retryable``; other codes below 500 are so only as :class:`RateLimitedError`.

    .. versionadded:: 0.1.0
    """

    default_status: ClassVar[int] = 400

    def __init__(
        self,
        text: str = "",
        *,
        status_code: int | None = None,
        api_status_code: int | None = None,
        message: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text or message, retry_after=retry_after)
        self.status_code: int = self.default_status if status_code is None else status_code
        self.api_status_code: int | None = api_status_code
        self.message: str = message
        code = api_status_code if self.status_code == _OK and api_status_code else self.status_code
        passing = code in {_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS} or code >= _FIRST_SERVER_ERROR
        self.retryable: bool = passing
        self.healthy: bool | None = not passing


class AuthenticationError(APIError):
    """401 or 403: the key is missing, wrong or revoked (vendor's page: status codes).

    .. versionadded:: 0.1.0
    """

    default_status: ClassVar[int] = 401


class RateLimitedError(APIError):
    """429: asked too often; ``retry_after`` says how long to wait, if the service said so.

    .. versionadded:: 0.1.0
    """

    default_status: ClassVar[int] = 429


class ServerError(APIError):
    """5xx: something went wrong on the vendor's side (vendor's page: status codes).

    .. versionadded:: 0.1.0
    """

    default_status: ClassVar[int] = 500


class InvalidResponseError(DecaptchaError):
    """The answer cannot be trusted: not the documented body, or an amount that is none.

    Attributes:
        reason: one word for it: ``"redirect"``, ``"status"``, ``"encoding"``, ``"too_large"``,
            ``"web_page"``, ``"json"``, ``"body"`` or ``"amount"``.
        status_code: of the HTTP response, ``None`` if unknown.
        content_type: as the response declares it, ``None`` if it does not.

    .. versionadded:: 0.1.0
    """

    healthy: bool | None = False

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "body",
        status_code: int | None = None,
        content_type: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason: str = reason
        self.status_code: int | None = status_code
        self.content_type: str | None = content_type
