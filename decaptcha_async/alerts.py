"""When to raise the alarm, and when to stop: state machines that are fed readings.

They know no clock, no network and no event loop. One object follows one account.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Context, Decimal
from math import inf
from typing import Final, Literal

import attrs

from decaptcha_async._clock import Seconds, in_words
from decaptcha_async._readings import BalanceReading
from decaptcha_async._settings import duration, threshold, whole
from decaptcha_async.errors import ConfigurationError
from decaptcha_async.forecast import BurnRate

__all__ = ["Alert", "LowBalance", "LowRunway"]

AlertKind = Literal["low", "recovered", "stale", "runway", "reminder"]
"""What an alert says."""

_TENTH: Final = Decimal("0.1")
_LITTLE_MORE: Final = 1.1

# The caller's decimal context may round or trap; amounts have at most 33 digits.
_EXACT: Final = Context(prec=60, traps=[])


@attrs.frozen
class Alert:
    """Something that a person should know.

    Attributes:
        kind: ``"low"``: the balance fell below a threshold. ``"reminder"``: it still is.
            ``"runway"``: the money lasts less long than wanted. ``"stale"``: no reading for too
            long, so nobody knows. ``"recovered"``: what ``rule`` complained of is over.
        rule: which rule says so, such as ``"LowBalance(100.00)"``.
        threshold: the amount of a :class:`LowBalance`; of the others, the seconds.
        reading: the reading that led to it; of ``"stale"`` the last one, ``None`` if there was
            none.
        at: when; aware, in UTC. Of all but ``"stale"``, when the reading was taken.
        message: one sentence or two for people: what is left, the threshold, how long it lasts.

    .. versionadded:: 0.1.0
    """

    kind: AlertKind
    rule: str
    threshold: Decimal | float
    reading: BalanceReading | None
    at: datetime
    message: str

    def to_dict(self) -> dict[str, str | float | dict[str, str | float | int] | None]:
        """The alert as JSON-ready values; an amount as text, seconds as a number.

        Keys: those of the attributes, ``reading`` by its own ``to_dict()`` or ``None``.

        .. versionadded:: 0.1.0
        """
        limit = self.threshold
        return {
            "kind": self.kind,
            "rule": self.rule,
            "threshold": format(limit, "f") if isinstance(limit, Decimal) else limit,
            "reading": None if self.reading is None else self.reading.to_dict(),
            "at": self.at.isoformat(),
            "message": self.message,
        }


def _threshold(value: Decimal | int | str) -> Decimal:
    return threshold(value)


def _rearm(value: Decimal | int | str | None) -> Decimal | None:
    return None if value is None else threshold(value, "rearm")


def _not_below_threshold(rule: LowBalance, _: object, rearm: Decimal | None) -> None:
    if rearm is not None and rearm < rule.threshold:
        message = f"rearm must be at least the threshold ({rule.threshold}), not {rearm}"
        raise ConfigurationError(message)


def _confirm(value: int) -> int:
    return whole(value, "confirm", least=1)


def _remind(value: Seconds | None) -> float | None:
    return None if value is None else duration(value, "remind")


@attrs.define(eq=False)
class LowBalance:
    """Raise ``"low"`` once when the balance falls below a threshold, ``"recovered"`` once after it.

    An account that is low at the first reading has fallen below, too. A balance that wavers around
    the threshold raises one alert: it has recovered only at ``rearm``. For several levels use
    several rules.

    Args:
        threshold: the amount that the balance must not fall below: a Decimal, an int, or a text
            such as ``"100.00"``. The vendor's samples use 100.
        rearm: the amount at which it has recovered (default: the threshold and a tenth of its
            size).
        confirm: readings in a row that must be below (default 1).
        remind: seconds after which a ``"reminder"`` is raised while it is below, again and again
            (default ``None``: never).

    Raises:
        ConfigurationError: an amount that is none, a ``rearm`` below the threshold, a number or
            duration that cannot be.

    .. versionadded:: 0.1.0
    """

    threshold: Decimal = attrs.field(converter=_threshold)
    rearm: Decimal | None = attrs.field(
        default=None, kw_only=True, converter=_rearm, validator=_not_below_threshold
    )
    confirm: int = attrs.field(default=1, kw_only=True, converter=_confirm)
    remind: float | None = attrs.field(default=None, kw_only=True, converter=_remind)
    _below: int = attrs.field(default=0, init=False, repr=False)
    _low_since: BalanceReading | None = attrs.field(default=None, init=False, repr=False)
    _told: BalanceReading | None = attrs.field(default=None, init=False, repr=False)
    _rate: BurnRate = attrs.field(factory=BurnRate, init=False, repr=False)

    def feed(self, reading: BalanceReading) -> Alert | None:
        """Learn from the next reading; the alert that it raises, if any.

        .. versionadded:: 0.1.0
        """
        self._rate.feed(reading)
        below = reading.amount < self.threshold
        self._below = self._below + 1 if below else 0
        if self._low_since is None:
            if self._below < self.confirm:
                return None
            self._low_since = self._told = reading
            return self._alert("low", reading, f"is below {self.threshold:,f}")
        lasted = in_words(reading.seconds_since(self._low_since))
        if reading.amount >= self._recovers_at():
            self._low_since = self._told = None
            what = f"is no longer below {self.threshold:,f}, after {lasted}"
            return self._alert("recovered", reading, what)
        if below and self._is_time_to_remind(reading):
            self._told = reading
            what = f"has been below {self.threshold:,f} for {lasted}"
            return self._alert("reminder", reading, what)
        return None

    def _recovers_at(self) -> Decimal:
        if self.rearm is not None:
            return self.rearm
        return _EXACT.add(self.threshold, _EXACT.multiply(_EXACT.abs(self.threshold), _TENTH))

    def _is_time_to_remind(self, reading: BalanceReading) -> bool:
        return (
            self.remind is not None
            and self._told is not None
            and reading.seconds_since(self._told) >= self.remind
        )

    def _alert(self, kind: AlertKind, reading: BalanceReading, what: str) -> Alert:
        message = f"Balance {reading.amount:,f} {what}."
        if kind != "recovered":
            message += f" {_what_to_do(reading.amount, self._rate)}"
        rule = f"LowBalance({self.threshold:f})"
        return Alert(kind, rule, self.threshold, reading, reading.taken_at, message)


def _what_to_do(amount: Decimal, rate: BurnRate) -> str:
    if amount <= 0:
        return "Nothing is left: top up now."
    lasts = rate.runway(amount)
    if lasts is None or lasts == inf:
        return "Top up."
    return f"It lasts about {in_words(lasts)}: top up."


def _within(value: Seconds) -> float:
    return duration(value, "within")


def _rearm_seconds(value: Seconds | None) -> float | None:
    return None if value is None else duration(value, "rearm")


def _not_below_within(rule: LowRunway, _: object, rearm: float | None) -> None:
    if rearm is not None and rearm < rule.within:
        message = f"rearm must be at least within ({rule.within:g} s), not {rearm:g} s"
        raise ConfigurationError(message)


def _window(value: Seconds) -> float:
    return duration(value, "window")


def _rate_over(rule: LowRunway) -> BurnRate:
    return BurnRate(rule.window)


@attrs.define(eq=False)
class LowRunway:
    """Raise ``"runway"`` once when the money lasts less long than wanted, ``"recovered"`` after it.

    How long it lasts is forecast from what was spent lately, see :class:`BurnRate`. It is silent
    while that is unknown.

    Args:
        within: seconds that the money must last.
        rearm: seconds of runway at which it has recovered (default: ``within`` and a tenth of it).
        window: seconds back that the spending is taken from (default 900).

    Raises:
        ConfigurationError: a duration that cannot be, or a ``rearm`` below ``within``.

    .. versionadded:: 0.1.0
    """

    within: float = attrs.field(converter=_within)
    rearm: float | None = attrs.field(
        default=None, kw_only=True, converter=_rearm_seconds, validator=_not_below_within
    )
    window: float = attrs.field(default=900.0, kw_only=True, converter=_window)
    _rate: BurnRate = attrs.field(
        default=attrs.Factory(_rate_over, takes_self=True), init=False, repr=False
    )
    _short_since: BalanceReading | None = attrs.field(default=None, init=False, repr=False)

    def feed(self, reading: BalanceReading) -> Alert | None:
        """Learn from the next reading; the alert that it raises, if any.

        .. versionadded:: 0.1.0
        """
        self._rate.feed(reading)
        lasts = self._rate.runway(reading.amount)
        if lasts is None:
            return None
        wanted = in_words(self.within)
        if self._short_since is None:
            if lasts >= self.within:
                return None
            self._short_since = reading
            what = f"lasts about {in_words(lasts)}, less than {wanted}: top up."
            if reading.amount <= 0:
                what = "does not last any longer: top up now."
            return self._alert("runway", reading, what)
        if lasts < (self.within * _LITTLE_MORE if self.rearm is None else self.rearm):
            return None
        lasted = in_words(reading.seconds_since(self._short_since))
        self._short_since = None
        return self._alert("recovered", reading, f"lasts more than {wanted} again, after {lasted}.")

    def _alert(self, kind: AlertKind, reading: BalanceReading, what: str) -> Alert:
        message = f"Balance {reading.amount:,f} {what}"
        rule = f"LowRunway({self.within:g} s)"
        return Alert(kind, rule, self.within, reading, reading.taken_at, message)


@attrs.define(eq=False)
class Staleness:
    """Raise ``"stale"`` once when readings stay away, ``"recovered"`` when one comes.

    It is told of both, because it knows no clock: of ``after`` seconds without a reading, too.
    """

    after: float
    raised_at: datetime | None = attrs.field(default=None, init=False)

    def overdue(self, last: BalanceReading | None, reason: str, at: datetime) -> Alert | None:
        """No reading came for ``after`` seconds, for a ``reason`` if one is known."""
        if self.raised_at is not None:
            return None
        self.raised_at = at
        known = "there was none yet" if last is None else f"the last was {last.amount:,f}"
        because = f" ({reason})" if reason else ""
        message = f"No balance for {in_words(self.after)}{because}; {known}. Check the account."
        return self._alert("stale", last, at, message)

    def feed(self, reading: BalanceReading) -> Alert | None:
        """A reading came."""
        if self.raised_at is None:
            return None
        lasted = in_words((reading.taken_at - self.raised_at).total_seconds() + self.after)
        self.raised_at = None
        message = f"Balance {reading.amount:,f} is known again, after {lasted}."
        return self._alert("recovered", reading, reading.taken_at, message)

    def _alert(
        self, kind: AlertKind, reading: BalanceReading | None, at: datetime, message: str
    ) -> Alert:
        return Alert(kind, f"stale ({self.after:g} s)", self.after, reading, at, message)
