"""A bound on the retries of all calls together."""

from __future__ import annotations

from math import inf
from typing import Any, Final

import attrs

from decaptcha_async import _clock
from decaptcha_async._settings import whole
from decaptcha_async.errors import ConfigurationError

_FORGET_FULL_ABOVE: Final = 1024


def _number(_: object, field: attrs.Attribute[Any], value: object) -> None:
    whole(value, field.name, least=1)


def _rate(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        message = f"{field.name} must be a finite number ≥ 0, not {value!r}"
        raise ConfigurationError(message)


@attrs.define(eq=False)
class _Bucket:
    tokens: float
    filled_at: float


@attrs.define(eq=False)
class RetryBudget:
    """Retries that all calls of an account share, so that an outage is not multiplied.

    A budget starts with ``burst`` retries, which is also the most it holds. Each call earns
    ``ratio`` of a retry, and each second ``per_second``. When it is empty, a call that could be
    retried fails at once. A quiet client always has its retries; a thousand calls that fail
    together make about 1 % more requests, not four times as many. Accounts are kept apart.

    Args:
        burst: most retries held (default 10, at least 1).
        ratio: retries earned by each call (default 0.2).
        per_second: retries earned by each second (default 1).

    Raises:
        ConfigurationError: a number that cannot be.

    .. versionadded:: 0.1.0
    """

    burst: int = attrs.field(default=10, validator=_number)
    ratio: float = attrs.field(default=0.2, kw_only=True, validator=_rate)
    per_second: float = attrs.field(default=1.0, kw_only=True, validator=_rate)
    _buckets: dict[str, _Bucket] = attrs.field(factory=dict[str, _Bucket], init=False, repr=False)

    def earn(self, account: str) -> None:
        """A call of ``account`` begins.

        .. versionadded:: 0.1.0
        """
        bucket = self._filled(account)
        bucket.tokens = min(self.burst, bucket.tokens + self.ratio)

    def spend(self, account: str) -> bool:
        """Take one retry for ``account``; whether there was one.

        .. versionadded:: 0.1.0
        """
        bucket = self._filled(account)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _filled(self, account: str) -> _Bucket:
        now = _clock.now()
        bucket = self._buckets.get(account)
        if bucket is None:
            self._forget_full(now)
            bucket = self._buckets[account] = _Bucket(self.burst, now)
        self._fill(bucket, now)
        return bucket

    def _fill(self, bucket: _Bucket, now: float) -> None:
        # Another event loop's clock may be behind.
        earned = max(0.0, now - bucket.filled_at) * self.per_second
        bucket.tokens = min(self.burst, bucket.tokens + earned)
        bucket.filled_at = now

    def _forget_full(self, now: float) -> None:
        # A full bucket says no more than a new one. Keys come and go; the dictionary must not grow.
        if len(self._buckets) < _FORGET_FULL_ABOVE:
            return
        for bucket in self._buckets.values():
            self._fill(bucket, now)
        self._buckets = {a: b for a, b in self._buckets.items() if b.tokens < self.burst}
