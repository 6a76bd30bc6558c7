"""Work that goes on beside the caller: plain tasks on asyncio, a nursery on trio.

A nursery has to be left in the task that entered it. Plain tasks need not be, so on asyncio what
owns a :class:`Background` may be entered and left in different tasks, as pytest-asyncio's fixtures
and aiohttp's clean-up do. A piece of work must not raise: nobody would hear of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Self, TypeVar

import anyio
import anyio.abc
import attrs

_END_WITHIN: Final = 1.0

T = TypeVar("T")
Work = Callable[[], Awaitable[None]]


def _shield() -> anyio.CancelScope:
    return anyio.CancelScope(shield=True)


@attrs.define(eq=False)
class Job:
    """One piece of work."""

    # Shielded: in a nursery it would be cancelled with its owner, who has yet to say good-bye.
    _scope: anyio.CancelScope = attrs.field(factory=_shield, init=False)
    _ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    # The event loop keeps no strong reference to a task.
    task: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    async def run(self, work: Work) -> None:
        """Do ``work`` until it ends or is cancelled."""
        with self._scope:
            await work()

    def end(self) -> None:
        """Say that it has ended."""
        self._ended.set()

    def cancel(self) -> None:
        """Ask it to end."""
        self._scope.cancel()

    async def wait(self) -> None:
        """Wait until it has ended."""
        await self._ended.wait()


@attrs.define(eq=False)
class Background:
    """Where work goes on; an async context manager that cancels what is left, and waits for it.

    It waits for at most 1 s on asyncio; a nursery cannot leave work behind that resists.
    """

    _group: anyio.abc.TaskGroup | None = attrs.field(default=None, init=False)
    _jobs: set[Job] = attrs.field(factory=set[Job], init=False)

    async def __aenter__(self) -> Self:
        """Begin."""
        if not _on_asyncio():
            self._group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel what is still going on, and wait until it has ended."""
        for job in self._jobs:
            job.cancel()
        if self._group is not None:
            group, self._group = self._group, None
            # It is not told of the caller's exception, which it would wrap in a group.
            await group.__aexit__(None, None, None)
            return
        with anyio.move_on_after(_END_WITHIN, shield=True):
            for job in tuple(self._jobs):
                await job.wait()

    def start(self, work: Work, name: str) -> Job:
        """Do ``work`` from now on; ``name`` is its task's."""
        job = Job()
        if self._group is None:
            job.task = asyncio.get_running_loop().create_task(job.run(work), name=name)
            # Not by a `finally` in it: cancelled before its first step, a task runs none.
            job.task.add_done_callback(partial(self._end, job))
        else:
            self._group.start_soon(self._run, job, work, name=name)
        self._jobs.add(job)
        return job

    async def _run(self, job: Job, work: Work) -> None:
        try:
            await job.run(work)
        finally:
            self._end(job)

    def _end(self, job: Job, _: object = None) -> None:
        self._jobs.discard(job)
        job.end()


async def contained(work: Awaitable[T]) -> T:
    """What ``work`` returns; a cancellation that is not meant for this task becomes an error.

    On asyncio whoever awaits another task that is cancelled gets the same exception as who is
    cancelled, and would silently end by it.

    Raises:
        RuntimeError: what ``work`` waited for was cancelled.
    """
    try:
        return await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
    message = "what it waited for was cancelled"
    raise RuntimeError(message)


def _on_asyncio() -> bool:
    # Not whether an asyncio loop runs: a trio that is a guest in one has that, too.
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
