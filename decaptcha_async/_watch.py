"""The polling loop behind ``watch()``: an async generator that holds nothing while it yields.

No cancel scope, task group, lock or connection is open across a ``yield``, so that breaking out,
closing, cancelling or forgetting the generator leaves nothing behind.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from random import uniform
from typing import Final, Literal, Protocol, TypeVar

import anyio
import anyio.lowlevel
import attrs

from decaptcha_async import _clock, _schedule
from decaptcha_async._clock import Seconds
from decaptcha_async._readings import BalanceReading
from decaptcha_async._settings import duration, fraction, refuse_async
from decaptcha_async.errors import (
    APIError,
    ClientClosedError,
    ConfigurationError,
    DecaptchaError,
    InvalidResponseError,
    TLSError,
)
from decaptcha_async.forecast import BurnRate

logger = logging.getLogger(__name__)

_REFUSALS_BELIEVED: Final = 3
_TIMER_LATENESS: Final = 0.05
_USUAL_INTERVAL: Final = 60.0
"""Seconds; what counts as the interval before a callable was first asked."""

Poll = Callable[[int | None], Awaitable[BalanceReading]]
"""Takes the most HTTP attempts that the poll may make, None for no limit."""

Pause = Callable[[float], Awaitable[bool]]
"""Takes the time of the loop's clock at which the next poll is due; whether the watch goes on."""

Interval = Callable[[BalanceReading, Decimal | None], float]
"""Asked after each good reading for the seconds to the next poll.

Takes the reading and the money spent per second, ``None`` while that is unknown.

.. versionadded:: 0.1.0
"""

T = TypeVar("T")


class SupportsWait(Protocol):
    """Anything that can be waited for: an ``asyncio.Event``, ``anyio.Event`` or ``trio.Event``.

    It is waited for anew in each poll and each pause, and let alone in between.

    .. versionadded:: 0.1.0
    """

    async def wait(self) -> object:
        """Return when the watch is to end.

        .. versionadded:: 0.1.0
        """


@attrs.frozen
class PollFailed:
    """A poll that failed for a passing reason; the watch goes on.

    Attributes:
        error: what the poll failed with.
        failures: number of failed polls in a row, this one included.
        next_delay: seconds until the next poll.

    .. versionadded:: 0.1.0
    """

    error: DecaptchaError
    failures: int
    next_delay: float


@attrs.frozen(kw_only=True)
class Plan:
    """The arguments of ``watch()``, checked: durations in seconds."""

    interval: float | Interval
    jitter: float
    initial_delay: float
    changes_only: bool
    yields_failures: bool
    give_up_after: float
    stop: SupportsWait | None

    @property
    def usual_interval(self) -> float:
        """The interval, or what counts as it before a callable was first asked."""
        return _USUAL_INTERVAL if callable(self.interval) else self.interval

    @classmethod
    def make(
        cls,
        *,
        interval: Seconds | Interval,
        jitter: float,
        initial_delay: Seconds | Literal["random"],
        changes_only: bool,
        on_error: str,
        give_up_after: Seconds | None,
        stop: SupportsWait | None,
    ) -> Plan:
        """Check the arguments.

        Raises:
            ConfigurationError: one of them cannot be.
            TypeError: an interval that would have to be awaited.
        """
        refuse_async(interval, "interval")
        every = interval if callable(interval) else duration(interval, "interval")
        if on_error not in ("retry", "yield"):
            message = f'on_error must be "retry" or "yield", not {on_error!r}'
            raise ConfigurationError(message)
        waits = inspect.iscoroutinefunction(getattr(stop, "wait", None))
        if stop is not None and (isinstance(stop, type) or not waits):
            message = f"stop needs an async wait(), as an asyncio.Event() has, not {stop!r}"
            raise ConfigurationError(message)
        return cls(
            interval=every,
            jitter=fraction(jitter, "jitter", below_one=True),
            initial_delay=(
                uniform(0, _USUAL_INTERVAL if callable(every) else every)
                if initial_delay == "random"
                else duration(initial_delay, "initial_delay", zero=True)
            ),
            changes_only=changes_only,
            yields_failures=on_error == "yield",
            give_up_after=(
                math.inf
                if give_up_after is None
                else duration(give_up_after, "give_up_after", zero=True)
            ),
            stop=stop,
        )


async def watch(
    poll: Poll, plan: Plan, pause: Pause | None = None
) -> AsyncGenerator[BalanceReading | PollFailed, None]:
    """Poll by ``plan`` and yield what is learned, until stopped or something fatal happens.

    Another ``pause`` may end earlier or later than the plan says; intervals count from its end.
    """
    pause = pause or partial(pause_until, stop=plan.stop)
    pace = _Pace(plan)
    outage: _Outage | None = None
    latest: BalanceReading | None = None
    due = _clock.now() + plan.initial_delay
    while await pause(due):
        started = _began(due, pace.interval)
        outcome = await _race(partial(_once, poll, 1 if outage else None), plan.stop)
        if outcome is None:
            return
        if isinstance(outcome, BalanceReading):
            if outage is not None:
                outage.end()
                outage = None
            spread = _schedule.first_gap if latest is None else _schedule.gap
            due = started + spread(pace.after(outcome), plan.jitter)
            changed = latest is None or outcome.amount != latest.amount
            latest = outcome
            if changed or not plan.changes_only:
                yield outcome
        else:
            outage = outage or _Outage(ever_good=latest is not None)
            failed = outage.judge(outcome, pace.interval, plan.give_up_after)
            if failed is None:
                try:
                    raise outcome
                finally:
                    del outcome
            due = _clock.now() + failed.next_delay
            if plan.yields_failures:
                yield failed


class _Pace:
    """The interval in force, and the burn rate that a callable decides by."""

    def __init__(self, plan: Plan) -> None:
        self._decide = plan.interval if callable(plan.interval) else None
        self._rate = BurnRate() if callable(plan.interval) else None
        self.interval = plan.usual_interval

    def after(self, reading: BalanceReading) -> float:
        if self._decide is not None and self._rate is not None:
            self._rate.feed(reading)
            decided = self._decide(reading, self._rate.per_second)
            self.interval = duration(decided, "the interval that the callable returned")
        return self.interval


@attrs.define(eq=False)
class _Outage:
    """Failed polls in a row, and what they amount to."""

    ever_good: bool
    began: float = attrs.field(factory=_clock.now)
    failures: int = 0
    refusals: int = 0

    def judge(
        self, error: DecaptchaError, interval: float, give_up_after: float
    ) -> PollFailed | None:
        """One more poll failed: how long to wait now, or None if that was the last."""
        self.failures += 1
        refused = isinstance(error, APIError) and not error.retryable
        self.refusals = self.refusals + 1 if refused else 0
        left = self.began + give_up_after - _clock.now()
        if left <= _clock.INSTANT or self._is_fatal(error):
            return None
        delay = _schedule.probe_delay(self.failures, interval, error.retry_after)
        # Shortened even below a Retry-After: who gives up then wants to know how it stands then.
        failed = PollFailed(error, self.failures, min(delay, left))
        logger.log(
            logging.WARNING if self.failures == 1 else logging.DEBUG,
            "balance poll %d failed, next in %.1f s: %s",
            self.failures,
            failed.next_delay,
            error,
        )
        return failed

    def end(self) -> None:
        lasted = _clock.now() - self.began
        logger.info("balance is back after %.1f s and %d failed polls", lasted, self.failures)

    def _is_fatal(self, error: DecaptchaError) -> bool:
        match error:
            case ConfigurationError() | ClientClosedError():
                return True
            case TLSError() | InvalidResponseError():
                return not self.ever_good
            case _ if self.refusals:
                return not self.ever_good or self.refusals >= _REFUSALS_BELIEVED
            case _:
                return False


def _began(due: float, interval: float) -> float:
    """When a poll that was due counts as begun: as planned, unless it is really late.

    Or early, by the loop's clock, which does not count the time that the machine was suspended.
    """
    now = _clock.now()
    return due if abs(now - due) < min(_TIMER_LATENESS, interval / 10) else now


async def _once(poll: Poll, max_attempts: int | None) -> BalanceReading | DecaptchaError:
    try:
        return await poll(max_attempts)
    except DecaptchaError as error:
        return error


async def pause_until(until: float, stop: SupportsWait | None) -> bool:
    """Sleep until the loop's clock says ``until``; whether the watch goes on after it."""

    async def sleep() -> bool:
        await _clock.sleep_until(until)
        return True

    is_set = getattr(stop, "is_set", None)
    if is_set is not None and is_set():
        return False
    return await _race(sleep, stop) is not None


async def _race(work: Callable[[], Awaitable[T]], stop: SupportsWait | None) -> T | None:
    """What ``work`` returns; None if ``stop`` came first, and then ``work`` is cancelled."""
    if stop is None:
        return await work()
    failure: Exception | None = None
    async with anyio.create_task_group() as group:

        async def listen() -> None:
            nonlocal failure
            try:
                await stop.wait()
            except Exception as error:  # noqa: BLE001
                failure = error
            group.cancel_scope.cancel()

        group.start_soon(listen)
        try:
            # Who says stop at once is heard before the work; trio runs tasks in any order.
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            return await work()
        except Exception as error:  # noqa: BLE001
            failure = error
        finally:
            group.cancel_scope.cancel()
    # Raised out here, so that a task group's ExceptionGroup never wraps it.
    if failure is not None:
        try:
            raise failure
        finally:
            del failure
    return None
