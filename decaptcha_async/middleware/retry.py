"""Try again, when that can help, as long as there is time for it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from random import uniform
from typing import Any, Final

import anyio
import anyio.lowlevel
import attrs

from decaptcha_async import _clock
from decaptcha_async._chain import Call, Handler
from decaptcha_async._clock import Seconds
from decaptcha_async._readings import BalanceReading
from decaptcha_async._settings import duration, refuse_async, whole
from decaptcha_async.errors import Attempt, DecaptchaError, GaveUp
from decaptcha_async.middleware.backoff import Exponential
from decaptcha_async.middleware.budget import RetryBudget

logger: Final = logging.getLogger(__name__)

_MOST_KEPT: Final = 16
_ASKED_SPREAD: Final = 1.1


def _attempts(value: int) -> int:
    return whole(value, "attempts", least=1)


def _max_retry_after(value: Seconds) -> float:
    return duration(value, "max_retry_after", zero=True)


def _begins_anew(_: object, __: object, value: object) -> None:
    if not isinstance(value, Iterable):
        message = f"backoff must be an iterable of seconds, not {type(value).__name__}"
        raise TypeError(message)
    if isinstance(value, Iterator):
        message = "backoff must begin anew for each call, which an iterator cannot: pass a list"
        raise TypeError(message)


def _has_delays(_: object, __: object, value: Iterable[Seconds]) -> None:
    if isinstance(value, Sequence):
        for delay in value:
            _delay(delay)


def _delay(value: Seconds) -> float:
    return duration(value, "backoff", zero=True)


def _is_callable(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        message = f"{field.name} must be a function, not {type(value).__name__}"
        raise TypeError(message)


def _is_budget(_: object, __: object, value: object) -> None:
    if value is not None and not isinstance(value, RetryBudget):
        message = f"budget must be a RetryBudget or None, not {type(value).__name__}"
        raise TypeError(message)


def _not_async(_: object, field: attrs.Attribute[Any], value: object) -> None:
    refuse_async(value, field.name)


@attrs.frozen
class Retry:
    """Repeat an attempt that failed with a ``retryable`` error.

    The last error is raised itself, with ``earlier_attempts`` and ``gave_up`` set. The caller's
    ``anyio`` deadline is the time budget: when the next wait does not fit, the error is raised at
    once. A ``Retry-After`` of the service is waited for in full, and a little longer; never cut
    short.

    Args:
        attempts: most requests of a call, the first included (default 4, at least 1).
        backoff: delays between attempts in seconds; any iterable that begins anew each time it is
            iterated, such as ``[0.5, 1, 5]``. When it ends, retrying ends. Default
            :class:`Exponential`.
        when: decides for an error whether to retry, instead of ``error.retryable``.
        max_retry_after: longest ``Retry-After`` that is waited for, in seconds (default 60).
        budget: shared bound on retries; ``None`` for no bound. Default a new
            :class:`RetryBudget`.
        on_retry: called with an :class:`~decaptcha_async.errors.Attempt` before each wait. What it
            raises is logged and changes nothing.

    Raises:
        ConfigurationError: a duration or number that cannot be.
        TypeError: ``backoff`` is an iterator, which would serve one call only, or no iterable;
            ``when`` or ``on_retry`` is async, or no function; or ``budget`` is none.

    .. versionadded:: 0.1.0
    """

    attempts: int = attrs.field(default=4, converter=_attempts)
    backoff: Iterable[Seconds] = attrs.field(
        factory=Exponential, kw_only=True, validator=[_begins_anew, _has_delays]
    )
    when: Callable[[DecaptchaError], bool] | None = attrs.field(
        default=None, kw_only=True, validator=[_is_callable, _not_async]
    )
    max_retry_after: float = attrs.field(default=60.0, kw_only=True, converter=_max_retry_after)
    budget: RetryBudget | None = attrs.field(
        factory=RetryBudget, kw_only=True, validator=_is_budget
    )
    on_retry: Callable[[Attempt], object] | None = attrs.field(
        default=None, kw_only=True, validator=[_is_callable, _not_async]
    )

    async def __call__(self, call: Call, call_next: Handler) -> BalanceReading:
        """Pass ``call`` on until it succeeds or there is a reason to give up."""
        began = _clock.now()
        delays = iter(self.backoff)
        earlier: deque[Attempt] = deque(maxlen=_MOST_KEPT)
        if self.budget is not None:
            self.budget.earn(call.account)
        number = 0
        while True:
            number += 1
            try:
                return await call_next(attrs.evolve(call, attempt=number))
            except DecaptchaError as error:
                failure = error
            # Out of the except block, so that no error becomes the context of the next; and no
            # longer in this frame than needed, which the error's traceback holds.
            try:
                verdict = self._judge(failure, number, call, delays)
                if verdict == "deadline":
                    # A cancelled call has no time left either, and ends as such.
                    await anyio.lowlevel.checkpoint_if_cancelled()
                if isinstance(verdict, str):
                    failure.earlier_attempts = tuple(earlier)
                    failure.gave_up = verdict
                    raise failure
                attempt = Attempt(
                    number=number,
                    elapsed=_clock.now() - began,
                    error=_without_history(failure),
                    delay=verdict,
                )
            finally:
                del failure
            earlier.append(attempt)
            call.log.earlier_attempts = tuple(earlier)
            self._announce(attempt)
            await anyio.sleep(verdict)

    def _judge(
        self, failure: DecaptchaError, number: int, call: Call, delays: Iterator[Seconds]
    ) -> float | GaveUp:
        """The delay before the next attempt, or why there is none. The budget is asked last."""
        if not (failure.retryable if self.when is None else self.when(failure)):
            return "not_retryable"
        if number in {self.attempts, call.max_attempts}:
            return "attempts"
        backoff = next(delays, None)
        if backoff is None:
            return "backoff"
        delay = _delay(backoff)
        if failure.retry_after is not None:
            if failure.retry_after > self.max_retry_after:
                return "retry_after"
            delay = max(delay, failure.retry_after * uniform(1, _ASKED_SPREAD))
        if _clock.now() + delay >= anyio.current_effective_deadline():
            call.log.refused_delay = delay
            return "deadline"
        if self.budget is not None and not self.budget.spend(call.account):
            return "budget"
        return delay

    def _announce(self, attempt: Attempt) -> None:
        logger.debug("attempt %d failed, next in %.2f s", attempt.number, attempt.delay)
        if self.on_retry is not None:
            try:
                self.on_retry(attempt)
            except Exception:
                logger.exception("on_retry raised; retrying goes on")


def _without_history(error: DecaptchaError) -> DecaptchaError:
    # The same error may be raised again, and must not carry its own past within its past.
    bare = copy(error)
    bare.earlier_attempts = ()
    bare.gave_up = None
    return bare
