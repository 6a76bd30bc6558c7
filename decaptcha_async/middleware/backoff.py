"""How long to wait between attempts."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from random import uniform
from typing import Literal, get_args

import attrs

from decaptcha_async._clock import Seconds
from decaptcha_async._settings import duration
from decaptcha_async.errors import ConfigurationError

Jitter = Literal["full", "equal", "none"]


def _base(value: Seconds) -> float:
    return duration(value, "base")


def _cap(value: Seconds) -> float:
    return duration(value, "cap")


def _grows(_: object, __: object, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < inf:
        message = f"factor must be a finite number ≥ 1, not {value!r}"
        raise ConfigurationError(message)


def _known(_: object, __: object, value: object) -> None:
    if value not in get_args(Jitter):
        message = f'jitter must be "full", "equal" or "none", not {value!r}'
        raise ConfigurationError(message)


@attrs.frozen
class Exponential:
    """Delays that grow by ``factor`` from ``base`` up to ``cap``, then are spread at random.

    Iterating gives the delays of one call, in seconds, without end; each iteration begins anew.

    Args:
        base: first delay before spreading, in seconds (default 0.5).
        factor: growth from each delay to the next (default 2, at least 1).
        cap: largest delay before spreading, in seconds (default 8).
        jitter: ``"full"`` (default) spreads over 0 to the delay, ``"equal"`` over its upper half,
            ``"none"`` not at all. A thousand clients that failed in one instant come back as a
            thousand with ``"none"``, spread out with ``"full"``.

    Raises:
        ConfigurationError: a duration, factor or jitter that cannot be.

    .. versionadded:: 0.1.0
    """

    base: float = attrs.field(default=0.5, converter=_base)
    factor: float = attrs.field(default=2.0, kw_only=True, validator=_grows)
    cap: float = attrs.field(default=8.0, kw_only=True, converter=_cap)
    jitter: Jitter = attrs.field(default="full", kw_only=True, validator=_known)

    def __iter__(self) -> Iterator[float]:
        """The delays of one call, in seconds."""
        delay = min(self.base, self.cap)
        while True:
            match self.jitter:
                case "full":
                    yield uniform(0, delay)
                case "equal":
                    yield uniform(delay / 2, delay)
                case _:
                    yield delay
            delay = min(delay * self.factor, self.cap)
