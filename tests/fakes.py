"""What stands for the endpoint where no byte is sent: answers by script, and who asked when."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Generic, Literal, NoReturn, TypeVar

import anyio
import pytest

from decaptcha_async import BalanceReading, Call, Seconds, SupportsWait
from decaptcha_async._watch import Plan
from decaptcha_async.testing import virtual_backend

Asked = TypeVar("Asked")

on_asyncio = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(virtual_backend("asyncio"), id="asyncio")]
)


def call_of(account: str = "one", *, max_attempts: int | None = None) -> Call:
    """A call as the client begins it."""
    return Call(operation="balance", account=account, max_attempts=max_attempts)


def plan(
    interval: Seconds = 1.0,
    *,
    jitter: float = 0.0,
    initial_delay: Seconds | Literal["random"] = 0.0,
    changes_only: bool = False,
    on_error: Literal["retry", "yield"] = "retry",
    give_up_after: Seconds | None = None,
    stop: SupportsWait | None = None,
) -> Plan:
    """The arguments of a watch: each second, without jitter."""
    return Plan.make(
        interval=interval,
        jitter=jitter,
        initial_delay=initial_delay,
        changes_only=changes_only,
        on_error=on_error,
        give_up_after=give_up_after,
        stop=stop,
    )


def reading(amount: str = "1250.75") -> BalanceReading:
    """What a good answer becomes."""
    return BalanceReading(
        amount=Decimal(amount), raw=amount, taken_at=datetime.now(UTC), latency=0.0
    )


class Scripted(Generic[Asked]):
    """Plays its script in order and its last line for ever: amounts are answered, errors raised."""

    def __init__(self, *script: str | Exception, takes: float = 0.0) -> None:
        self.asked: list[Asked] = []
        self.times: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._script = script
        self._takes = takes

    async def __call__(self, asked: Asked) -> BalanceReading:
        """Play the next line."""
        line = self._script[min(len(self.asked), len(self._script) - 1)]
        self.asked.append(asked)
        self.times.append(anyio.current_time())
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            await anyio.sleep(self._takes)
        finally:
            self.in_flight -= 1
        if isinstance(line, Exception):
            raise line.with_traceback(None)
        return reading(line)

    @property
    def gaps(self) -> list[float]:
        """Seconds from each start to the next."""
        return [after - before for before, after in itertools.pairwise(self.times)]


Endpoint = Scripted[Call]
Poll = Scripted[int | None]


@types.coroutine
def interrupted(
    work: Coroutine[Any, Any, object], moment: int, interrupt: Callable[[], object]
) -> Generator[Any, Any, NoReturn]:
    """Await ``work``, and call ``interrupt`` where it suspends for the ``moment``-th time.

    That has to end it: a RuntimeError says that it returned all the same.
    """
    step = partial(work.send, None)
    while True:
        trap = step()
        moment -= 1
        if moment == 0:
            interrupt()
        try:
            step = partial(work.send, (yield trap))
        except BaseException as error:  # noqa: BLE001
            step = partial(work.throw, error)
