"""One poller for a whole application: many subscribers, one request at a time, alerts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from copy import copy
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from random import uniform
from typing import Final, Self

import anyio
import attrs

from decaptcha_async import _clock
from decaptcha_async._background import Background, Job, contained
from decaptcha_async._client import BalanceClient
from decaptcha_async._clock import Seconds
from decaptcha_async._delivery import Delivery, Notifier
from decaptcha_async._readings import BalanceReading
from decaptcha_async._settings import duration, refuse_async, threshold
from decaptcha_async._state import MonitorState, Status
from decaptcha_async._subscription import Inbox, Subscription
from decaptcha_async._watch import Interval, Plan, PollFailed, watch
from decaptcha_async.alerts import Alert, LowBalance, LowRunway, Staleness
from decaptcha_async.errors import ClientClosedError, DecaptchaError
from decaptcha_async.forecast import BurnRate

logger: Final = logging.getLogger(__name__)

_FRESH_FOR_GAPS: Final = 1.5
_MOST_UNREAD: Final = 100
_CALM: Final = 300.0
_BREATH: Final = 1.0
_NOT_ENTERED: Final = "the monitor is not open: enter it with `async with`"


class BalanceMonitor:
    """Polls a balance once for everybody who wants to know; an async context manager.

    There is never more than one poll in flight, whoever asks. With ``rules`` or ``stale_after`` it
    polls from enter to exit, without while there are subscribers. Outages do not end it, see
    :meth:`BalanceClient.watch`. Nor does a refused key: whoever is subscribed hears of it, and
    the next who asks begins anew, so a rotated key heals it.

    On asyncio it may be entered and left in different tasks; on trio in one. On leaving, pending
    alerts have 5 s to be delivered, and a notifier that resists one more. The client stays open.

    Args:
        client: whom to ask.
        interval: seconds between polls (default 60), or a callable such as :class:`Adaptive`.
        jitter: how far each interval may stray, as in :meth:`BalanceClient.watch` (default 0.05).
        rules: when to raise alerts. They are copied, so one list may serve several monitors.
        stale_after: seconds without a reading after which a ``"stale"`` alert is raised, so that
            an outage cannot hide an empty account (default ``None``: never).
        notify: async callables that are given each alert. One that raises or hangs is tried again,
            and holds up nothing.
        max_age: seconds for which a reading counts as fresh (default: one and a half times the
            time between polls).
        label: a name of the account for people, put before the messages of alerts. Never the key.

    Raises:
        ConfigurationError: an argument that cannot be.
        TypeError: a rule that is none, a notifier that is no async callable.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        client: BalanceClient,
        *,
        interval: Seconds | Interval = 60.0,
        jitter: float = 0.05,
        rules: Iterable[LowBalance | LowRunway] = (),
        stale_after: Seconds | None = None,
        notify: Iterable[Notifier] = (),
        max_age: Seconds | None = None,
        label: str = "",
    ) -> None:
        self._client = client
        self._plan = Plan.make(
            interval=interval,
            jitter=jitter,
            initial_delay=0.0,
            changes_only=False,
            on_error="yield",
            give_up_after=None,
            stop=None,
        )
        self._rules = [_own(rule) for rule in rules]
        stale = None if stale_after is None else duration(stale_after, "stale_after")
        self._staleness = None if stale is None else Staleness(stale)
        self._max_age = None if max_age is None else duration(max_age, "max_age")
        self._label = label
        self._delivery = Delivery(notify)
        self._background = Background()
        self._jobs: list[Job] = []
        self._open: bool | None = None

        self._readings: set[Inbox[BalanceReading]] = set()
        self._alerts: set[Inbox[Alert]] = set()
        self._hurried = False
        self._nap: anyio.CancelScope | None = None

        self._rate = BurnRate()
        self._condition: Status = "idle"
        self._since = datetime.now(UTC)
        self._reading: BalanceReading | None = None
        self._error: Exception | None = None
        self._error_holds_until = 0.0
        self._outcomes = 0
        self._learned = anyio.Event()
        self._started = 0.0
        self._good_at = 0.0
        self._gap = self._plan.usual_interval

    async def __aenter__(self) -> Self:
        """Begin.

        Raises:
            ClientClosedError: it was entered before.
        """
        if self._open is not None:
            message = "a monitor is entered once: make a new one"
            raise ClientClosedError(message)
        self._open = True
        self._good_at = _clock.now()
        await self._background.__aenter__()
        self._delivery.start(self._background)
        self._jobs = [self._background.start(self._poll_while_open, "balance monitor")]
        if self._staleness is not None:
            wait = partial(self._wait_for_staleness, self._staleness)
            self._jobs.append(self._background.start(wait, "balance staleness"))
        return self

    async def __aexit__(self, *_: object) -> None:
        """End: subscriptions end, a poll in flight is cancelled, pending alerts have 5 s."""
        self._end()
        for job in self._jobs:
            job.cancel()
        try:
            await self._delivery.aclose()
        finally:
            await self._background.__aexit__()

    @property
    def rules(self) -> tuple[LowBalance | LowRunway, ...]:
        """Its rules, as copies that have seen no reading; what you feed them stays with you.

        .. versionadded:: 0.1.0
        """
        return tuple(_own(rule) for rule in self._rules)

    @property
    def label(self) -> str:
        """The name of the account for people, empty if there is none.

        .. versionadded:: 0.1.0
        """
        return self._label

    @property
    def state(self) -> MonitorState:
        """How it stands now, without asking anybody.

        .. versionadded:: 0.1.0
        """
        status, since = self._condition, self._since
        reading, burn = self._reading, self._rate.per_second
        if status == "ok" and reading and not (self._is_wanted() or self._is_fresh(reading)):
            status, since = "idle", reading.taken_at
        runway = None if reading is None else self._rate.runway(reading.amount)
        return MonitorState(status, reading, _as_ours(self._error), since, burn, runway)

    async def get(self, max_age: Seconds | None = None) -> BalanceReading:
        """A fresh reading: the last one if it is, else that of a poll, shared by all who ask.

        A poll that began goes on when those who asked are cancelled, and answers the next.

        Args:
            max_age: seconds for which a reading counts as fresh; ``None`` (default) as the monitor
                has it, 0 never. None is fresh after a failure that does not pass by itself.

        Raises:
            DecaptchaError: what the poll failed with. It is raised again without a poll for as long
                as the service asked to wait, at least a second; after a failure that does not pass
                by itself, until an interval has gone by.
            ClientClosedError: the monitor is not entered, or ends meanwhile.

        .. versionadded:: 0.1.0
        """
        self._check_open()
        age = None if max_age is None else duration(max_age, "max_age", zero=True)
        if self._reading is not None and self._is_fresh(self._reading, age):
            return self._reading
        if _clock.now() >= self._error_holds_until:
            seen = self._outcomes
            self._hurried = True
            self._wake()
            while self._outcomes == seen:
                await self._next_outcome()
        if self._error is None and self._reading is not None:
            return self._reading
        error = _copy(self._error or _ended())
        try:
            raise error
        finally:
            del error

    def subscribe(self) -> Subscription[BalanceReading]:
        """The readings to come, and the last one at once if it is fresh.

        A subscriber that is slow finds the latest reading, not all of them.

        .. versionadded:: 0.1.0
        """
        return Subscription(Inbox(1), self._enter_readings, self._readings.discard)

    def alerts(self) -> Subscription[Alert]:
        """The alerts to come, each of them.

        Of a subscriber that falls behind by more than 100 the oldest are dropped, with a warning
        in the log.

        .. versionadded:: 0.1.0
        """
        return Subscription(Inbox(_MOST_UNREAD), self._enter_alerts, self._alerts.discard)

    async def wait_for(
        self,
        condition: Decimal | int | str | Callable[[BalanceReading], bool],
        *,
        spread: Seconds = 0.0,
    ) -> BalanceReading:
        """Wait, through outages, until the balance is good enough.

        For a limit of time use ``anyio.fail_after`` or ``asyncio.timeout``.

        Args:
            condition: the least amount; or a function of a reading. A fresh reading is asked first.
            spread: whoever had to wait goes on at a random moment within so many seconds
                (default 0), so that a top-up does not free a whole fleet in one instant.

        Raises:
            ConfigurationError: an amount or a duration that cannot be.
            TypeError: an async function.
            DecaptchaError: polling failed for a reason that does not pass by itself.
            ClientClosedError: the monitor is not entered, or ends meanwhile.

        .. versionadded:: 0.1.0
        """
        met = _condition(condition)
        longest = duration(spread, "spread", zero=True)
        self._check_open()
        if self._reading is not None and self._is_fresh(self._reading) and met(self._reading):
            return self._reading
        async with self.subscribe() as readings:
            async for reading in readings:
                if met(reading):
                    await anyio.sleep(uniform(0, longest))
                    return reading
        raise _ended()

    def _check_open(self) -> None:
        if not self._open:
            raise _ended() if self._open is False else ClientClosedError(_NOT_ENTERED)

    def _is_wanted(self) -> bool:
        return bool(self._open and (self._rules or self._staleness or self._readings))

    def _is_fresh(self, reading: BalanceReading, age: float | None = None) -> bool:
        if self._condition == "failed":
            return False  # who comes now begins anew
        if age is None:
            age = self._max_age or _FRESH_FOR_GAPS * self._gap
        return age > 0 and reading.age <= age

    def _end(self) -> None:
        self._open = False
        for readings in self._readings:
            readings.end()
        for alerts in self._alerts:
            alerts.end()
        self._tell()

    def _enter_readings(self, inbox: Inbox[BalanceReading]) -> None:
        self._check_open()
        if self._reading is not None and self._is_fresh(self._reading):
            inbox.put(self._reading)
        self._readings.add(inbox)
        self._wake()

    def _enter_alerts(self, inbox: Inbox[Alert]) -> None:
        self._check_open()
        self._alerts.add(inbox)

    async def _poll_while_open(self) -> None:
        try:
            await self._poll_for_ever()
        finally:
            # Whoever cancelled it: without it nobody would be told anything any more.
            self._end()

    async def _poll_for_ever(self) -> None:
        while True:
            try:
                async with aclosing(watch(self._poll, self._plan, self._pause)) as outcomes:
                    async for outcome in outcomes:
                        self._learn(outcome)
            except Exception as error:  # noqa: BLE001
                self._fail(error)
            await self._pause(self._started + self._gap, unasked=self._started + _CALM)

    async def _poll(self, max_attempts: int | None) -> BalanceReading:
        self._started = _clock.now()
        return await contained(self._client.get_balance(max_attempts=max_attempts))

    async def _pause(self, due: float, *, unasked: float = 0.0) -> bool:
        """Sleep until ``due`` and while nobody wants a reading; or until somebody cannot wait.

        While nobody has asked, ``unasked`` is what is due if it is later.
        """
        if self._condition == "ok":
            least = 0.0 if callable(self._plan.interval) else self._plan.interval
            self._gap = max(least, due - self._started)
        while not self._hurried:
            with anyio.CancelScope() as self._nap:
                if not self._is_wanted():
                    await anyio.sleep_forever()
                await _clock.sleep_until(due if self._readings else max(due, unasked))
                if self._is_wanted():
                    break
        self._nap = None
        return True

    def _wake(self) -> None:
        if self._nap is not None:
            self._nap.cancel()

    async def _next_outcome(self) -> None:
        await self._learned.wait()
        self._check_open()

    def _learn(self, outcome: BalanceReading | PollFailed) -> None:
        if isinstance(outcome, PollFailed):
            stale = self._staleness is not None and self._staleness.raised_at is not None
            asked = min(outcome.error.retry_after or 0.0, outcome.next_delay)
            self._error_holds_until = _clock.now() + max(asked, min(_BREATH, self._gap))
            # A traceback holds frames, they the monitor: a cycle until the next collection.
            error = outcome.error.with_traceback(None)
            self._note("stale" if stale else "degraded", error)
            return
        # A cache in the middleware answers with a reading that is known, and proves nothing new.
        known = outcome == self._reading
        self._error_holds_until = 0.0
        self._reading = outcome
        self._note("ok", None)
        for inbox in self._readings:
            inbox.put(outcome)
        if known:
            return
        self._good_at = _clock.now()
        self._rate.feed(outcome)
        for rule in (*self._rules, *([self._staleness] if self._staleness else ())):
            self._raise_alert(rule.feed(outcome))

    def _fail(self, error: Exception) -> None:
        if self._condition != "failed":
            # A bug, in a middleware perhaps, is found by its traceback.
            bug = None if isinstance(error, DecaptchaError) else error
            logger.error(
                "the balance cannot be asked for: %s",
                type(error).__name__ if bug else error,
                exc_info=bug,
            )
        self._error_holds_until = self._started + self._gap
        self._note("failed", _copy(error))
        for inbox in self._readings:
            inbox.end(_copy(error))
        self._readings.clear()

    def _note(self, condition: Status, error: Exception | None) -> None:
        if condition != self._condition:
            self._condition, self._since = condition, datetime.now(UTC)
        self._error = error
        self._outcomes += 1
        self._hurried = False
        self._tell()

    def _tell(self) -> None:
        learned, self._learned = self._learned, anyio.Event()
        learned.set()

    async def _wait_for_staleness(self, staleness: Staleness) -> None:
        while True:
            # Of the loop's own clock: a machine that was suspended is not late at once.
            left = self._good_at + staleness.after - _clock.now()
            if left > _clock.INSTANT:
                await anyio.sleep(left)
                continue
            if staleness.raised_at is None:
                now = datetime.now(UTC)
                if self._condition != "failed":
                    self._condition, self._since = "stale", now
                reason = "" if self._error is None else str(self._error)
                self._raise_alert(staleness.overdue(self._reading, reason, now))
            await self._learned.wait()

    def _raise_alert(self, alert: Alert | None) -> None:
        if alert is None:
            return
        if self._label:
            alert = attrs.evolve(alert, message=f"{self._label}: {alert.message}")
        level = logging.INFO if alert.kind == "recovered" else logging.WARNING
        logger.log(level, "%s: %s", alert.kind, alert.message)
        for inbox in self._alerts:
            inbox.put(alert)
        self._delivery.send(alert)


Rule = LowBalance | LowRunway


def _own(rule: object) -> Rule:
    """A rule that has seen nothing yet."""
    if not isinstance(rule, LowBalance | LowRunway):
        message = f"a rule is a LowBalance or a LowRunway, not {type(rule).__name__}"
        raise TypeError(message)
    return attrs.evolve(rule)


def _condition(
    condition: Decimal | int | str | Callable[[BalanceReading], bool],
) -> Callable[[BalanceReading], bool]:
    if callable(condition):
        refuse_async(condition, "condition")
        return condition
    least = threshold(condition, "condition")
    return lambda reading: reading.amount >= least


def _copy(error: Exception) -> Exception:
    """The same error without its traceback, for somebody else to raise."""
    try:
        return copy(error).with_traceback(None)
    except Exception:  # noqa: BLE001 - of an exception that is not ours
        return error.with_traceback(None)


def _as_ours(error: Exception | None) -> DecaptchaError | None:
    if error is None or isinstance(error, DecaptchaError):
        return error
    # A callable for the key may raise anything, and the state is published.
    return DecaptchaError(f"{type(error).__name__}, which the log tells more about")


def _ended() -> ClientClosedError:
    return ClientClosedError("the monitor has ended: make a new one")
