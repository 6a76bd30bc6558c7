"""What a client learns: one balance, at one moment."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

import attrs

from decaptcha_async._clock import Stamp

Source = Literal["network", "coalesced", "cache", "shared"]
"""Where a reading came from."""


@attrs.frozen(kw_only=True)
class BalanceReading:
    """A balance, exactly as the vendor gave it, and when.

    Attributes:
        amount: the exact balance in the account's currency; its scale is kept, so ``"1250.70"``
            stays ``1250.70`` (vendor's page: response fields, ``data``).
        raw: the amount as the vendor sent it, such as ``"1,250.70"``.
        taken_at: when the answer arrived; aware, in UTC.
        latency: seconds that the attempt took which brought the answer.
        attempts: number of HTTP attempts that the call took.
        source: ``"network"``; or ``"coalesced"``, ``"cache"``, ``"shared"`` when another call
            brought it. Not part of equality.

    .. versionadded:: 0.1.0
    """

    amount: Decimal
    raw: str
    taken_at: datetime
    latency: float
    attempts: int = 1
    source: Source = attrs.field(default="network", eq=False)
    _stamp: Stamp | None = attrs.field(default=None, alias="stamp", eq=False, repr=False)

    @property
    def age(self) -> float:
        """Seconds since the reading was taken, those of a suspended machine included.

        Of a reading built by hand, or sent from another process, the wall clock tells.

        .. versionadded:: 0.1.0
        """
        if self._stamp is not None:
            return self._stamp.age()
        return max(0.0, (datetime.now(UTC) - self.taken_at).total_seconds())

    def seconds_since(self, earlier: BalanceReading) -> float:
        """Seconds from ``earlier`` to this reading, by the clock of :attr:`age`.

        Of readings built by hand, or sent from another process, ``taken_at`` tells.

        .. versionadded:: 0.1.0
        """
        if self._stamp is not None and earlier._stamp is not None:
            return self._stamp.seconds_since(earlier._stamp)
        return (self.taken_at - earlier.taken_at).total_seconds()

    def to_dict(self) -> dict[str, str | float | int]:
        """The reading as JSON-ready values: amounts as text, the time as ISO 8601 with offset.

        Keys: ``amount``, ``raw``, ``taken_at``, ``latency`` (seconds), ``attempts``, ``source``.

        .. versionadded:: 0.1.0
        """
        return {
            "amount": format(self.amount, "f"),
            "raw": self.raw,
            "taken_at": self.taken_at.isoformat(),
            "latency": self.latency,
            "attempts": self.attempts,
            "source": self.source,
        }
