"""How a monitor stands: a value, for health checks, metrics and pages."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from math import inf
from typing import Literal

import attrs

from decaptcha_async._readings import BalanceReading
from decaptcha_async.errors import DecaptchaError

Status = Literal["idle", "ok", "degraded", "stale", "failed"]
"""How a monitor stands.

.. versionadded:: 0.1.0
"""


@attrs.frozen
class MonitorState:
    """How a :class:`BalanceMonitor` stands, at one moment.

    Attributes:
        status: ``"idle"``: nobody asks, and no fresh reading is at hand. ``"ok"``: the last poll
            was good. ``"degraded"``: the last poll failed for a passing reason. ``"stale"``: and
            no reading came for ``stale_after``. ``"failed"``: the last poll failed for a reason
            that does not pass by itself, such as a refused key.
        reading: the last good reading, ``None`` if there was none.
        error: what the last poll failed with, ``None`` if it was good.
        since: since when the status is what it is; aware, in UTC.
        burn_per_second: money spent per second, ``None`` while unknown.
        runway: seconds until the balance is zero at this rate, ``None`` while unknown,
            ``math.inf`` while nothing is spent.

    .. versionadded:: 0.1.0
    """

    status: Status
    reading: BalanceReading | None
    error: DecaptchaError | None
    since: datetime
    burn_per_second: Decimal | None
    runway: float | None

    @property
    def healthy(self) -> bool:
        """Whether it is ``"ok"``, ``"idle"`` or ``"degraded"``.

        .. versionadded:: 0.1.0
        """
        return self.status in {"ok", "idle", "degraded"}

    def to_dict(self) -> dict[str, object]:
        """The state as JSON-ready values.

        Keys: ``status``, ``healthy``, ``reading`` (its own ``to_dict()`` and ``age`` in seconds, or
        ``None``), ``error`` (``{"error": class name, "message": text}`` or ``None``), ``since``
        (ISO 8601), ``burn_per_second`` (text or ``None``), ``runway`` (seconds; ``None`` while
        unknown, or while nothing is spent).

        .. versionadded:: 0.1.0
        """
        reading, error, burn = self.reading, self.error, self.burn_per_second
        return {
            "status": self.status,
            "healthy": self.healthy,
            "reading": None if reading is None else {**reading.to_dict(), "age": reading.age},
            "error": error and {"error": type(error).__name__, "message": str(error)},
            "since": self.since.isoformat(),
            "burn_per_second": None if burn is None else f"{burn:.6f}",
            "runway": None if self.runway == inf else self.runway,
        }
