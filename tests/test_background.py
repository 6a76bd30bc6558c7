"""Work beside the caller: begun, ended, cancelled and waited for, on asyncio and trio."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
import pytest
import trio
from fakes import eager_loop, on_asyncio

from decaptcha_async._background import Background, contained

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Worker:
    """Sleeps for so long, and tells what became of it."""

    def __init__(self, seconds: float = 3600.0, *, resists: float = 0.0) -> None:
        self.seconds = seconds
        self.resists = resists
        self.became = "not begun"

    async def __call__(self) -> None:
        """Sleep."""
        self.became = "begun"
        try:
            await anyio.sleep(self.seconds)
            self.became = "done"
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(self.resists)
            self.became = "cancelled"
            raise


async def test_work_goes_on_beside_the_caller() -> None:
    """M8: work begins, goes on while the caller does, and its end can be waited for."""
    short, long = Worker(1), Worker()
    async with Background() as background:
        job = background.start(short, "short")
        background.start(long, "long")
        await anyio.wait_all_tasks_blocked()
        assert (short.became, long.became) == ("begun", "begun")
        names = {task.name for task in anyio.get_running_tasks()}
        assert {"short", "long"} <= names
        await job.wait()
        assert (short.became, long.became) == ("done", "begun")
        assert anyio.current_time() == 1
    assert long.became == "cancelled"


async def test_leaving_waits_for_what_it_cancelled() -> None:
    """M8: when it is left, nothing of it is still at work, not even what cleans up."""
    worker = Worker(resists=0.5)
    async with Background() as background:
        background.start(worker, "cleans up")
        await anyio.wait_all_tasks_blocked()
    assert worker.became == "cancelled"
    assert anyio.current_time() == 0.5


async def test_leaving_waits_even_when_cancelled() -> None:
    """M8: so it does when who leaves it is cancelled too."""
    worker = Worker(resists=0.5)
    with anyio.move_on_after(1) as scope:
        async with Background() as background:
            background.start(worker, "cleans up")
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert worker.became == "cancelled"
    assert anyio.current_time() == 1.5


async def test_work_outlives_the_cancellation_of_its_owner() -> None:
    """M4, M8: it is cancelled when it is left, not before: an owner may wait for it, shielded."""
    worker = Worker(2)
    with anyio.move_on_after(1):
        async with Background() as background:
            job = background.start(worker, "last words")
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await job.wait()
    assert worker.became == "done"


async def test_one_job_is_cancelled() -> None:
    """M8: a job can be cancelled by itself, again and again, and the others go on."""
    one, other = Worker(), Worker()
    async with Background() as background:
        job = background.start(one, "one")
        background.start(other, "other")
        await anyio.wait_all_tasks_blocked()
        job.cancel()
        job.cancel()
        await job.wait()
        await job.wait()
        assert (one.became, other.became) == ("cancelled", "begun")


async def test_left_before_the_work_begins() -> None:
    """M8: left at once, before a job took its first step, it waits for nothing."""
    worker = Worker()
    async with Background() as background:
        background.start(worker, "late")
    assert worker.became in {"not begun", "cancelled"}
    assert anyio.current_time() == 0


async def test_the_callers_error_is_not_wrapped() -> None:
    """M7: what the caller's block raises comes out as it is, not in an ExceptionGroup."""

    async def fails() -> None:
        async with Background() as background:
            background.start(Worker(), "beside")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fails()
    with anyio.CancelScope() as scope:
        async with Background():
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


@on_asyncio
async def test_entered_and_left_in_different_tasks() -> None:
    """M8: on asyncio another task may leave it, as pytest-asyncio's fixtures do."""
    stack, worker = AsyncExitStack(), Worker(resists=0.1)
    background = await asyncio.create_task(stack.enter_async_context(Background()))
    background.start(worker, "beside")
    await asyncio.sleep(0.1)
    await asyncio.create_task(stack.aclose())
    assert worker.became == "cancelled"


@on_asyncio
async def test_cancelled_by_somebody_before_its_first_step() -> None:
    """M8: a task cancelled before its first step, as when a loop ends, is not waited for."""
    async with Background() as background:
        job = background.start(Worker(), "doomed")
        assert job.task is not None
        job.task.cancel()
    assert job.task.cancelled()
    assert anyio.current_time() == 0


@on_asyncio
async def test_work_that_resists_is_left_behind() -> None:
    """M4: on asyncio who leaves waits a second for work that resists, and no longer."""
    worker = Worker(resists=30)
    async with Background() as background:
        background.start(worker, "stubborn")
        await anyio.wait_all_tasks_blocked()
    assert anyio.current_time() == 1
    gc.collect()
    await asyncio.sleep(30)
    assert worker.became == "cancelled"


@on_asyncio
async def test_the_loop_forgets_no_work() -> None:
    """M8: work that nothing else refers to is not collected as garbage; when done, it is."""
    worker = Worker(60)
    gone = weakref.ref(worker)
    async with Background() as background:
        background.start(worker, "forgotten")
        del worker
        await asyncio.sleep(1)
        gc.collect()
        assert gone() is not None
        await asyncio.sleep(60)
        assert gone() is None


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": eager_loop})], ids=[""])
async def test_eager_tasks() -> None:
    """M8: where tasks begin at once, work may be done before `start` returns."""
    worker = Worker(0)
    async with Background() as background:
        job = background.start(worker, "quick")
        await job.wait()
    assert worker.became == "done"


@on_asyncio
async def test_trio_as_a_guest() -> None:
    """M8: a trio that is a guest in an asyncio loop gets a nursery, too."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()

    async def guest() -> str:
        worker = Worker()
        async with Background() as background:
            job = background.start(worker, "in the guest")
            assert job.task is None
            await trio.testing.wait_all_tasks_blocked()
        return worker.became

    trio.lowlevel.start_guest_run(
        guest,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=lambda outcome: ended.set_result(outcome.unwrap()),
    )
    assert await ended == "cancelled"


# Whose cancellation is it


async def test_contained_returns_and_raises() -> None:
    """M4: what is contained returns and raises as ever."""

    async def returns() -> int:
        return 1

    async def raises() -> int:
        raise ValueError("mine")

    assert await contained(returns()) == 1
    with pytest.raises(ValueError, match="mine"):
        await contained(raises())


async def test_contained_is_cancelled() -> None:
    """M4: a cancellation that is meant for the task goes through."""
    with anyio.move_on_after(1) as scope:
        await contained(anyio.sleep_forever())
    assert scope.cancelled_caught


@on_asyncio
async def test_contained_task_cancel() -> None:
    """M4: so does asyncio's own `Task.cancel()`."""
    task = asyncio.ensure_future(contained(asyncio.sleep(3600)))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def a_cancelled_future() -> None:
    """Wait for what is cancelled already."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def a_cancelled_task() -> None:
    """Wait for a task that somebody cancels meanwhile."""
    task = asyncio.ensure_future(asyncio.sleep(3600))
    asyncio.get_running_loop().call_later(1, task.cancel)
    await task


@on_asyncio
@pytest.mark.parametrize("wait", [a_cancelled_future, a_cancelled_task])
async def test_contained_leak(wait: Callable[[], Awaitable[None]]) -> None:
    """M4: one that leaks from a task or future that was cancelled elsewhere becomes an error."""
    with pytest.raises(RuntimeError, match="what it waited for was cancelled") as caught:
        await contained(wait())
    assert caught.value.__context__ is None
