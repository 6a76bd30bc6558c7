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
from decaptcha_async._delivery import Notifier
from decaptcha_async._http import HTTPClient
from decaptcha_async._monitor import BalanceMonitor
from decaptcha_async._readings import BalanceReading
from decaptcha_async._state import MonitorState
from decaptcha_async._subscription import Subscription
from decaptcha_async._watch import Interval, PollFailed, SupportsWait
from decaptcha_async.alerts import Alert, LowBalance, LowRunway
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
from decaptcha_async.forecast import Adaptive, BurnRate
from decaptcha_async.middleware import (
    CircuitBreaker,
    CircuitState,
    Coalesce,
    Exponential,
    Retry,
    RetryBudget,
    Timeout,
    default_middleware,
)

__all__ = [
    "APIError",
    "Adaptive",
    "Alert",
    "Attempt",
    "AuthenticationError",
    "BalanceClient",
    "BalanceMonitor",
    "BalanceReading",
    "BurnRate",
    "Call",
    "CallLog",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitState",
    "ClientClosedError",
    "Coalesce",
    "ConfigurationError",
    "DeadlineExceededError",
    "DecaptchaError",
    "Exponential",
    "HTTPClient",
    "Handler",
    "Interval",
    "InvalidResponseError",
    "LowBalance",
    "LowRunway",
    "Middleware",
    "MonitorState",
    "Notifier",
    "PollFailed",
    "RateLimitedError",
    "Retry",
    "RetryBudget",
    "Seconds",
    "ServerError",
    "Subscription",
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
