"""One request for many callers."""

from __future__ import annotations

from copy import copy
from typing import Any, Final

import anyio
import anyio.lowlevel
import attrs

from decaptcha_async import _clock
from decaptcha_async._chain import Call, Handler
from decaptcha_async._clock import Seconds, Stamp
from decaptcha_async._readings import BalanceReading
from decaptcha_async._settings import duration
from decaptcha_async.errors import (
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
)

_NEAR: Final = 0.1 + _clock.INSTANT
"""Seconds before the deadline of its caller that an attempt may end by timeouts of its own."""


def _ttl(value: Seconds) -> float:
    return duration(value, "ttl", zero=True)


@attrs.define(eq=False)
class _Flight:
    """One call under way that others wait for, and what its caller alone allowed it."""

    call: Call
    deadline: float
    landed: anyio.Event = attrs.field(factory=anyio.Event)
    outcome: BalanceReading | DecaptchaError | None = None

    def failed_for_its_own_sake(self, error: DecaptchaError, follower: Call) -> bool:
        """Whether ``error`` came of the leading client or caller, not of what both share."""
        if isinstance(error, ClientClosedError | ConfigurationError):
            return True
        most, allowed = self.call.max_attempts, follower.max_attempts
        if error.gave_up == "attempts" and most is not None and (allowed is None or allowed > most):
            return True
        now, deadline = _clock.now(), anyio.current_effective_deadline()
        if error.gave_up == "deadline" and self.call.log.refused_delay is not None:
            return self.deadline <= now + self.call.log.refused_delay < deadline
        near = isinstance(error, DeadlineExceededError) and self.deadline <= now + _NEAR
        return near and self.deadline < deadline


@attrs.define(eq=False)
class Coalesce:
    """Calls of one account at the same time share one call; a short cache besides.

    The first caller makes the call in its own task, and the others wait for it. They get the same
    reading, with ``source="coalesced"``, or their own copy of the error. When the first is
    cancelled, or fails by a deadline or a limit of attempts that is its alone, or by a client that
    is closed, one of the waiting calls instead. Every caller's own deadlines and cancellation hold.
    Accounts are kept apart.

    Put it outside :class:`Retry`, so that the attempts are shared too, and inside the
    :class:`Timeout` of the whole call, which is then each caller's own.

    Args:
        ttl: seconds for which a reading is handed out again, as ``source="cache"`` (default 0:
            never). Errors are not kept.

    Raises:
        ConfigurationError: not a finite duration of at least 0.

    .. versionadded:: 0.1.0
    """

    ttl: float = attrs.field(default=0.0, kw_only=True, converter=_ttl)
    _flights: dict[tuple[str, Any], _Flight] = attrs.field(
        factory=dict[tuple[str, Any], _Flight], init=False, repr=False
    )
    _kept: dict[str, tuple[Stamp, BalanceReading]] = attrs.field(
        factory=dict[str, tuple[Stamp, BalanceReading]], init=False, repr=False
    )

    async def __call__(self, call: Call, call_next: Handler) -> BalanceReading:
        """Answer from a call under way, or a recent one; else pass ``call`` on."""
        # A flight of another event loop cannot be waited for here.
        here = call.account, anyio.lowlevel.current_token()
        while True:
            if self.ttl and (kept := self._fresh(call.account)) is not None:
                # Who asks again at once shall not keep all others from running.
                await anyio.lowlevel.checkpoint()
                return attrs.evolve(kept, source="cache")
            flight = self._flights.get(here)
            if flight is None:
                return await self._lead(here, call, call_next)
            if flight.call.log is call.log:  # it stands in a list twice, and must not await itself
                return await call_next(call)
            await flight.landed.wait()
            match flight.outcome:
                case BalanceReading() as reading:
                    return attrs.evolve(reading, source="coalesced")
                case DecaptchaError() as error if not flight.failed_for_its_own_sake(error, call):
                    mine = copy(error)
                    try:
                        raise mine
                    finally:
                        del mine, error
                case _:
                    pass  # The leader was cancelled, say: the first to get here leads.

    async def _lead(self, here: tuple[str, Any], call: Call, call_next: Handler) -> BalanceReading:
        flight = self._flights[here] = _Flight(call, anyio.current_effective_deadline())
        try:
            flight.outcome = reading = await call_next(call)
        except DecaptchaError as error:
            # A copy has no traceback, which would hold this frame, which holds the flight.
            flight.outcome = copy(error)
            raise
        finally:
            del self._flights[here]
            flight.landed.set()
        if self.ttl:
            self._keep(call.account, reading)
        return reading

    def _fresh(self, account: str) -> BalanceReading | None:
        stamp, reading = self._kept.get(account, (None, None))
        return reading if stamp is not None and stamp.age() < self.ttl else None

    def _keep(self, account: str, reading: BalanceReading) -> None:
        self._kept.pop(account, None)
        self._kept[account] = Stamp.take(), reading
        # The oldest come first. Keys come and go; the dictionary must not grow.
        while (oldest := next(iter(self._kept))) != account:
            if self._fresh(oldest) is not None:
                break
            del self._kept[oldest]
