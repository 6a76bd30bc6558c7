"""A deadline as middleware; its place in the list says for what."""

from __future__ import annotations

import anyio
import attrs

from decaptcha_async._chain import DOING, Call, Handler
from decaptcha_async._clock import Seconds
from decaptcha_async._readings import BalanceReading
from decaptcha_async._settings import duration
from decaptcha_async.errors import DeadlineExceededError


def _seconds(value: Seconds) -> float:
    return duration(value, "seconds")


@attrs.frozen
class Timeout:
    """End what is inside after ``seconds``: the whole call outside a Retry, each attempt inside it.

    It ends whatever is going on, a body that drips in byte by byte included, with a retryable
    :class:`~decaptcha_async.errors.DeadlineExceededError`. Deadlines of your own
    (``anyio.fail_after``, ``asyncio.timeout``) stay yours: only its own is translated.

    Args:
        seconds: how long, in seconds or as a timedelta; greater than 0.

    Raises:
        ConfigurationError: not a finite duration greater than 0.

    .. versionadded:: 0.1.0
    """

    seconds: float = attrs.field(converter=_seconds)

    async def __call__(self, call: Call, call_next: Handler) -> BalanceReading:
        """Pass ``call`` on, for at most ``seconds``."""
        with anyio.move_on_after(self.seconds):
            return await call_next(call)
        log = call.log
        doing = f", {DOING[log.phase]}" if log.requests else ""
        message = f"no answer from {log.host or 'the service'} within {self.seconds:g} s{doing}"
        error = DeadlineExceededError(message, phase=log.phase, host=log.host)
        if log.earlier_attempts:
            # Place alone decides: outside a Retry this ends it, inside it judges for itself.
            error.earlier_attempts, error.gave_up = log.earlier_attempts, "deadline"
        try:
            raise error
        finally:
            del error
