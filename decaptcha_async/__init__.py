"""An asyncio-native client of the DeCaptcha Balance API.

You always know what is left, exactly; you hear of a low balance before your jobs stop; and asking
never hurts your program, your key or the vendor::

    async with BalanceClient() as client:
        reading = await client.get_balance()
        async for reading in client.watch(interval=60):
            print(reading.amount)
"""

from __future__ import annotations

import logging

from decaptcha_async._chain import Call, CallLog, Handler, Middleware
from decaptcha_async._client import BalanceClient
from decaptcha_async._clock import Seconds
from decaptcha_async._http import HTTPClient
from decaptcha_async._readings import BalanceReading
from decaptcha_async._watch import PollFailed, SupportsWait
from decaptcha_async.errors import (
    APIError,
    Attempt,
    AuthenticationError,
    CircuitOpenError,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    InvalidResponseError,
    RateLimitedError,
    ServerError,
    TLSError,
    TransportError,
)
from decaptcha_async.middleware import (
    Exponential,
    Retry,
    RetryBudget,
    Timeout,
    default_middleware,
)

__all__ = [
    "APIError",
    "Attempt",
    "AuthenticationError",
    "BalanceClient",
    "BalanceReading",
    "Call",
    "CallLog",
    "CircuitOpenError",
    "ClientClosedError",
    "ConfigurationError",
    "DeadlineExceededError",
    "DecaptchaError",
    "Exponential",
    "HTTPClient",
    "Handler",
    "InvalidResponseError",
    "Middleware",
    "PollFailed",
    "RateLimitedError",
    "Retry",
    "RetryBudget",
    "Seconds",
    "ServerError",
    "SupportsWait",
    "TLSError",
    "Timeout",
    "TransportError",
    "default_middleware",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> str:
    if name == "__version__":
        from decaptcha_async._settings import version  # noqa: PLC0415

        return version()
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
