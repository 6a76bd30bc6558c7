"""Ready-made middleware. Any ``async def (call, call_next)`` is one, too.

The order is the policy: the first of the list is outermost. ``default_middleware()`` is
``[Timeout(30), Retry(attempts=4), Timeout(10)]``: half a minute for the whole call, ten seconds for
each attempt.
"""

from __future__ import annotations

from decaptcha_async._chain import Call, CallLog, Handler, Middleware
from decaptcha_async._clock import Seconds
from decaptcha_async.middleware.backoff import Exponential
from decaptcha_async.middleware.budget import RetryBudget
from decaptcha_async.middleware.circuit_breaker import CircuitBreaker, CircuitState
from decaptcha_async.middleware.coalesce import Coalesce
from decaptcha_async.middleware.retry import Retry
from decaptcha_async.middleware.timeout import Timeout

__all__ = [
    "Call",
    "CallLog",
    "CircuitBreaker",
    "CircuitState",
    "Coalesce",
    "Exponential",
    "Handler",
    "Middleware",
    "Retry",
    "RetryBudget",
    "Timeout",
    "default_middleware",
]


def default_middleware(
    *, timeout: Seconds = 30.0, attempts: int = 4, attempt_timeout: Seconds = 10.0
) -> list[Middleware]:
    """What a client uses unless told otherwise, as a new list to extend.

    Args:
        timeout: seconds for the whole call, waits included (default 30).
        attempts: most HTTP requests of a call (default 4).
        attempt_timeout: seconds for each attempt (default 10).

    Raises:
        ConfigurationError: a duration or a number that cannot be.

    .. versionadded:: 0.1.0
    """
    return [Timeout(timeout), Retry(attempts), Timeout(attempt_timeout)]
