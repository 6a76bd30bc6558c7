"""What stands for the endpoint where no byte is sent: answers by script, and who asked when."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import sys
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import anyio
import pytest

from decaptcha_async import BalanceReading, Call, Seconds, SupportsWait
from decaptcha_async._watch import Plan
from decaptcha_async.testing import virtual_backend

Asked = TypeVar("Asked")
Work = Callable[[], Coroutine[Any, Any, object]]

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
) -> Generator[Any, Any, bool]:
    """Await ``work``, and call ``interrupt`` where it suspends for the ``moment``-th time.

    When it returns, whether it came to that.
    """
    step = partial(work.send, None)
    while True:
        try:
            trap = step()
        except StopIteration:
            return moment <= 0
        moment -= 1
        if moment == 0:
            interrupt()
        try:
            step = partial(work.send, (yield trap))
        except BaseException as error:  # noqa: BLE001
            step = partial(work.throw, error)


def eager_loop() -> asyncio.AbstractEventLoop:
    """A loop whose tasks begin at once, where they are made."""
    loop = asyncio.new_event_loop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


_LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "eager": ("asyncio", {"loop_factory": eager_loop}),
}
if sys.platform == "win32":
    del _LOOPS["uvloop"]
if sys.version_info < (3, 12):
    del _LOOPS["eager"]

every_way = pytest.mark.parametrize(
    ("anyio_backend", "native"),
    [
        pytest.param(loop, native, id=f"{name}-{'task.cancel' if native else 'scope'}")
        for name, loop in _LOOPS.items()
        for native in (False, True)
    ]
    + [pytest.param("trio", False, id="trio-scope")],
)
"""Each event loop, in real time, and each way to cancel there."""


async def cancelled_at(moment: int, work: Work, *, native: bool, shielded: bool = False) -> bool:
    """Cancel ``work`` where it suspends for the ``moment``-th time; whether it came to that.

    It is cancelled by a scope, or ``native`` by asyncio's ``Task.cancel()`` in a task of its own.
    Then it may end only by that cancellation, as it is; or return, where a shield keeps its last
    suspensions from it.
    """
    if native:
        task = asyncio.ensure_future(_by_task_cancel(moment, work, shielded=shielded))
        await asyncio.wait([task])
        return task.cancelled() or task.result()
    with anyio.CancelScope() as scope:
        return await _ended(moment, work, scope.cancel, shielded=shielded)
    return True


async def _by_task_cancel(moment: int, work: Work, *, shielded: bool) -> bool:
    task = asyncio.current_task()
    assert task is not None
    later = asyncio.get_running_loop().call_soon
    return await _ended(moment, work, lambda: later(task.cancel), shielded=shielded)


async def _ended(moment: int, work: Work, cancel: Callable[[], object], *, shielded: bool) -> bool:
    try:
        came_to_that = await interrupted(work(), moment, cancel)
    except BaseException as error:
        _, other = BaseExceptionGroup("", [error]).split(anyio.get_cancelled_exc_class())
        if other is not None:
            raise AssertionError from other
        raise
    assert shielded or not came_to_that, "it returned all the same"
    return came_to_that


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncGenerator[None]:
    """No descriptor and no task more than before; a ResourceWarning fails the test by itself."""
    descriptors, tasks = _descriptors(), len(anyio.get_running_tasks())
    yield
    await anyio.wait_all_tasks_blocked()
    gc.collect()
    assert len(anyio.get_running_tasks()) == tasks
    assert _descriptors() == descriptors


def _descriptors() -> int:
    # uvloop keeps /dev/null at hand from the first connection it accepts.
    return sum(not path.is_char_device() for path in Path("/dev/fd").iterdir())
