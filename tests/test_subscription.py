"""Subscriptions: the latest reading or each alert, and an end that is always heard."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import anyio
import pytest

from decaptcha_async import Alert, AuthenticationError, Subscription
from decaptcha_async._subscription import Inbox

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Post:
    """What a monitor is to its subscriptions: who listens."""

    def __init__(self, room: int = 1) -> None:
        self.room = room
        self.inboxes: set[Inbox[int]] = set()

    def subscribe(self) -> Subscription[int]:
        """One more subscription."""
        return Subscription(Inbox(self.room), self.inboxes.add, self.inboxes.discard)

    def put(self, *items: int) -> None:
        """Tell everybody."""
        for item in items:
            for inbox in self.inboxes:
                inbox.put(item)

    def end(self, error: Exception | None = None) -> None:
        """End everybody."""
        for inbox in self.inboxes:
            inbox.end(error)


async def drain(subscription: Subscription[int], heard: list[int]) -> None:
    """Hear everything until the end."""
    heard.extend([item async for item in subscription])


@pytest.mark.parametrize(("room", "heard"), [(1, [3]), (2, [2, 3]), (9, [1, 2, 3])])
async def test_who_is_slow_finds_the_latest(room: int, heard: list[int]) -> None:
    """M5: of what came meanwhile a subscriber finds as much as there is room for, the latest."""
    post, found = Post(room), list[int]()
    async with post.subscribe() as subscription:
        post.put(1, 2, 3)
        post.end()
        await drain(subscription, found)
    assert found == heard


async def test_who_waits_is_told_at_once() -> None:
    """M5: a subscriber that waits hears an item when it comes."""
    post = Post()
    async with post.subscribe() as subscription, anyio.create_task_group() as group:
        for item in range(3):
            group.start_soon(post_later, post, item)
            assert await anext(subscription) == item
            assert anyio.current_time() == item + 1


async def post_later(post: Post, item: int) -> None:
    """Tell after a second."""
    await anyio.sleep(1)
    post.put(item)


async def test_the_end() -> None:
    """M5: what waits is heard before the end, and the end again and again."""
    post, heard = Post(), list[int]()
    async with post.subscribe() as subscription:
        post.put(1)
        post.end()
        await drain(subscription, heard)
        await drain(subscription, heard)
        with pytest.raises(StopAsyncIteration):
            await anext(subscription)
    assert heard == [1]


async def test_the_end_wakes_who_waits() -> None:
    """M5: a subscriber that waits for an item hears the end."""
    post = Post()
    async with post.subscribe() as subscription, anyio.create_task_group() as group:
        group.start_soon(drain, subscription, list[int]())
        await anyio.wait_all_tasks_blocked()
        post.end()


async def test_an_error() -> None:
    """M7: an error is heard once, after what waits and unwrapped, then the end."""
    post, error = Post(), AuthenticationError("the key is refused", status_code=401)
    async with post.subscribe() as subscription:
        post.put(1)
        post.end(error)
        assert await anext(subscription) == 1
        with pytest.raises(AuthenticationError) as caught:
            await anext(subscription)
        assert caught.value is error
        await drain(subscription, [])


async def test_leaving() -> None:
    """M5: who leaves is told nothing more; iterating ends, in whatever task it goes on."""
    post, heard = Post(9), list[int]()
    subscription = post.subscribe()
    async with anyio.create_task_group() as group:
        async with subscription:
            group.start_soon(drain, subscription, heard)
            await anyio.wait_all_tasks_blocked()
            post.put(1)
        assert post.inboxes == set()
        post.put(2)
    await drain(subscription, heard)
    assert heard == [1]


async def test_two_tasks_iterate() -> None:
    """M5: two tasks that iterate over one subscription share its items, and both hear the end."""
    post, heard = Post(9), list[int]()
    async with post.subscribe() as subscription, anyio.create_task_group() as group:
        group.start_soon(drain, subscription, heard)
        group.start_soon(drain, subscription, heard)
        await anyio.wait_all_tasks_blocked()
        post.put(1, 2, 3)
        await anyio.wait_all_tasks_blocked()
        post.end()
    assert sorted(heard) == [1, 2, 3]


async def test_cancelled_while_it_waits() -> None:
    """M5: a wait that was cancelled loses nothing: the next finds what came."""
    post = Post()
    async with post.subscribe() as subscription:
        with anyio.move_on_after(1):
            await anext(subscription)
        post.put(1)
        assert await anext(subscription) == 1


async def test_not_entered() -> None:
    """M5: iterating without entering says so, instead of waiting for ever."""
    with pytest.raises(RuntimeError, match="enter the subscription with `async with`"):
        await anext(Post().subscribe())


async def test_entered_twice() -> None:
    """M5: a subscription is entered once; who tries again is told, and is not listened to."""
    post = Post()
    async with post.subscribe() as subscription:
        pass
    with pytest.raises(RuntimeError, match="entered once: make a new one"):
        await subscription.__aenter__()
    assert post.inboxes == set()


def test_made_outside_an_event_loop() -> None:
    """M5: a subscription may be made before any event loop runs."""
    post = Post()
    subscription = post.subscribe()

    async def main() -> int:
        async with subscription:
            post.put(1)
            return await anext(subscription)

    assert anyio.run(main) == 1


async def test_a_dropped_alert_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """M4: an alert that found no room is in the log with its message."""
    inbox = Inbox[Alert](1)
    for message in ("Balance 3.20 is below 100.", "Balance 1.00 is below 100."):
        inbox.put(Alert("low", "rule", 100.0, None, datetime.now(UTC), message))
    assert caplog.record_tuples == [
        (
            "decaptcha_async._subscription",
            logging.WARNING,
            "a subscriber is slow, its oldest alert is dropped: Balance 3.20 is below 100.",
        )
    ]
