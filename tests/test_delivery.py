"""Delivery: each notifier in its own time, and nothing that could not be delivered unsaid."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import anyio
import pytest
from fakes import on_asyncio

from decaptcha_async import Alert, Notifier
from decaptcha_async._background import Background
from decaptcha_async._delivery import GRACE, Delivery

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

HUNDRED = Decimal(100)


def alert(message: str = "Balance 3.20 is below 100.") -> Alert:
    """An alert with this message."""
    return Alert("low", "LowBalance(100)", HUNDRED, None, datetime.now(UTC), message)


class Bell:
    """A notifier that fails so often and takes so long, and what it rang at which time."""

    def __init__(self, *, fails: int = 0, takes: float = 0.0) -> None:
        self.fails = fails
        self.takes = takes
        self.tried: list[float] = []
        self.rang: list[tuple[float, str]] = []

    async def __call__(self, alert: Alert) -> None:
        """Ring, or fail."""
        self.tried.append(anyio.current_time())
        await anyio.sleep(self.takes)
        if len(self.tried) <= self.fails:
            raise OSError("no route to host")
        self.rang.append((anyio.current_time(), alert.message))


@asynccontextmanager
async def delivering(*notifiers: Notifier) -> AsyncGenerator[Delivery]:
    """A delivery to these, as a monitor keeps it."""
    delivery = Delivery(notifiers)
    async with Background() as background:
        delivery.start(background)
        try:
            yield delivery
        finally:
            await delivery.aclose()


def undelivered(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says at ERROR."""
    return [record.message for record in caplog.records if record.levelno == logging.ERROR]


async def test_each_alert_to_each_notifier() -> None:
    """M4: each notifier gets each alert, in order; sending returns at once."""
    one, other = Bell(), Bell()
    async with delivering(one, other) as delivery:
        delivery.send(alert("first"))
        delivery.send(alert("second"))
        assert one.rang == []
        await anyio.sleep(1)
        delivery.send(alert("third"))
    assert one.rang == other.rang == [(0, "first"), (0, "second"), (1, "third")]


async def test_slow_and_hanging_and_failing_notifiers_hold_up_no_other() -> None:
    """M4: beside a slow, a hanging and a failing notifier, a good one rings at once each time."""
    good, slow, hangs, fails = Bell(), Bell(takes=10), Bell(takes=1e9), Bell(fails=1000)
    async with delivering(slow, hangs, fails, good) as delivery:
        for second in range(5):
            delivery.send(alert(f"{second}"))
            await anyio.sleep(1)
        assert good.rang == [(i, f"{i}") for i in range(5)]
        await anyio.sleep(60)
        assert [message for _, message in slow.rang] == ["0", "1", "2", "3", "4"]
        assert [at for at, _ in slow.rang] == [10, 20, 30, 40, 50]


async def test_retry(caplog: pytest.LogCaptureFixture) -> None:
    """M4: who fails is tried again after 1, 4, 16 and 60 s; when it works, no ERROR is logged."""
    bell = Bell(fails=4)
    with caplog.at_level(logging.INFO, "decaptcha_async"):
        async with delivering(bell) as delivery:
            delivery.send(alert())
            await anyio.sleep(100)
    assert bell.tried == [0, 1, 5, 21, 81]
    assert len(bell.rang) == 1
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 4
    assert caplog.messages[0] == "Bell failed, again in 1 s: OSError: no route to host"


async def test_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """M4: after five failures the alert is in the log at ERROR, and the next has its turn."""
    bell = Bell(fails=5)
    async with delivering(bell) as delivery:
        delivery.send(alert("Balance 3.20 is below 100."))
        delivery.send(alert("next"))
        await anyio.sleep(100)
    assert bell.rang == [(81, "next")]
    assert undelivered(caplog) == [
        "could not deliver to Bell (OSError: no route to host): Balance 3.20 is below 100."
    ]


async def test_patience(caplog: pytest.LogCaptureFixture) -> None:
    """M4: who does not end within 30 s is cancelled and tried again, and given up at last."""
    bell = Bell(takes=31)
    async with delivering(bell) as delivery:
        delivery.send(alert("late"))
        await anyio.sleep(240)
    assert bell.tried == [0, 31, 65, 111, 201]
    assert undelivered(caplog) == ["could not deliver to Bell (no end within 30 s): late"]


async def test_a_full_queue(caplog: pytest.LogCaptureFixture) -> None:
    """M4: a hundred alerts wait for a notifier; of more, the oldest are logged at ERROR."""
    good, bell = Bell(), Bell(takes=1e9)
    async with delivering(bell, good) as delivery:
        for number in range(103):
            delivery.send(alert(f"{number}"))
            await anyio.wait_all_tasks_blocked()
        assert undelivered(caplog) == [
            f"could not deliver to Bell (too many wait): {number}" for number in range(3)
        ]
        assert len(good.rang) == 103
        bell.takes = 0
        await anyio.sleep(32)
        assert [message for _, message in bell.rang[:2]] == ["0", "3"]
        assert len(bell.rang) == 101


async def test_the_one_under_way_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """M4: an alert dropped from a full queue while it was under way is not delivered twice."""
    bell = Bell(takes=1)
    async with delivering(bell) as delivery:
        for number in range(101):
            delivery.send(alert(f"{number}"))
            await anyio.wait_all_tasks_blocked()
        await anyio.sleep(200)
    assert [message for _, message in bell.rang] == [f"{number}" for number in range(101)]
    assert len(undelivered(caplog)) == 1


# The end


async def test_pending_alerts_are_delivered_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """M4: what is pending when it ends is delivered, and the end waits no longer than that."""
    bell = Bell(takes=1)
    async with delivering(bell) as delivery:
        delivery.send(alert("one"))
        delivery.send(alert("two"))
    assert bell.rang == [(1, "one"), (2, "two")]
    assert anyio.current_time() == 2
    assert undelivered(caplog) == []


async def test_nothing_pending() -> None:
    """M4: with nothing pending it ends at once."""
    async with delivering(Bell()):
        await anyio.sleep(1)
    assert anyio.current_time() == 1


async def test_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    """M4: it ends within the grace, and logs at ERROR what is still pending, for each notifier."""
    good, hangs = Bell(takes=2), Bell(takes=1e9)
    async with delivering(hangs, good) as delivery:
        for message in ("one", "two", "three"):
            delivery.send(alert(message))
        await anyio.wait_all_tasks_blocked()
    assert anyio.current_time() == GRACE == 5
    assert undelivered(caplog) == [
        "could not deliver to Bell (the monitor ends): one",
        "could not deliver to Bell (the monitor ends): two",
        "could not deliver to Bell (the monitor ends): three",
        "could not deliver to Bell (the monitor ends): three",
    ]


async def test_the_end_shortens_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    """M4: at the end an alert between two tries has them a second apart, so it has a chance."""
    bell = Bell(fails=4)
    async with delivering(bell) as delivery:
        delivery.send(alert("last"))
        await anyio.sleep(10)
    assert bell.tried == [0, 1, 5, 11, 12]
    assert bell.rang == [(12, "last")]
    assert undelivered(caplog) == []


async def test_cancelled_at_the_end() -> None:
    """M4: the grace holds when who leaves is cancelled."""
    bell = Bell(takes=2)
    with anyio.move_on_after(1) as scope:
        async with delivering(bell) as delivery:
            delivery.send(alert("one"))
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert bell.rang == [(2, "one")]


@on_asyncio
async def test_task_cancel_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """M4: cancelled while it ends, as by a second Ctrl-C, it still logs what is pending."""

    async def leave() -> None:
        async with delivering(Bell(takes=1e9)) as delivery:
            delivery.send(alert("unheard"))

    task = asyncio.ensure_future(leave())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert anyio.current_time() == 1
    assert undelivered(caplog) == ["could not deliver to Bell (the monitor ends): unheard"]


async def turns(_: Alert) -> None:
    """Turn a cancellation into an error."""
    try:
        await anyio.sleep_forever()
    except BaseException as error:
        raise ValueError("interrupted") from error


@on_asyncio
async def test_a_notifier_that_resists() -> None:
    """M4: on asyncio one that shields itself costs a second more than the grace, not its will."""

    async def resists(_: Alert) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(60)

    async with delivering(resists) as delivery:
        delivery.send(alert())
    assert anyio.current_time() == GRACE + 1
    await asyncio.sleep(60)


async def test_a_notifier_that_turns_its_cancellation_into_an_error() -> None:
    """M4: nor does one that answers a cancellation by another error hold up the end."""
    async with delivering(turns) as delivery:
        delivery.send(alert())
    assert anyio.current_time() == GRACE


@on_asyncio
async def test_a_cancellation_that_is_not_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """M4: a notifier that waits for something cancelled elsewhere has failed, and rings again."""
    rang: list[str] = []

    async def leaks(alert: Alert) -> None:
        if not rang:
            rang.append("leaked")
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        rang.append(alert.message)

    async with delivering(leaks) as delivery:
        delivery.send(alert("one"))
        await asyncio.sleep(2)
        delivery.send(alert("two"))
    assert rang == ["leaked", "one", "two"]
    assert undelivered(caplog) == []


# What a notifier is


class Chat:
    """Where a password is in the repr, and `post` is a notifier."""

    def __init__(self) -> None:
        self.posted = 0

    def __repr__(self) -> str:
        return "Chat(password='hunter2')"

    async def post(self, alert: Alert, *, to: str = "") -> None:
        """Fail."""
        self.posted += 1
        raise OSError

    __call__ = post


async def plain_function(alert: Alert) -> None:
    """Fail."""
    raise OSError


@pytest.mark.parametrize(
    ("notifier", "name"),
    [
        (plain_function, "plain_function"),
        (Chat(), "Chat"),
        (Chat().post, "Chat.post"),
        (partial(Chat().post, to="hunter2"), "partial"),
    ],
    ids=["function", "object", "method", "partial"],
)
async def test_names(notifier: Notifier, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """M4: a log names a notifier, but shows no repr, which may hold a password."""
    with caplog.at_level(logging.DEBUG):
        async with delivering(notifier) as delivery:
            delivery.send(alert())
            await anyio.wait_all_tasks_blocked()
            tasks = {task.name for task in anyio.get_running_tasks()}
    assert f"alerts for {name}" in tasks
    assert any(text.startswith(f"could not deliver to {name} ") for text in undelivered(caplog))
    assert "hunter2" not in caplog.text + "".join(task or "" for task in tasks)


def not_async(alert: Alert) -> None:
    """Return nothing to wait for."""


@pytest.mark.parametrize(
    ("notifier", "says"),
    [
        (not_async, "that takes an Alert: not_async is not"),
        (Chat, "Chat is not"),
        ("mailto:me", "str is not"),
        (partial(not_async), "partial is not"),
    ],
    ids=["sync", "class", "text", "partial"],
)
def test_what_is_no_notifier(notifier: Any, says: str) -> None:
    """M4: what cannot be awaited is refused when it is given, not when the alarm should ring."""
    with pytest.raises(TypeError, match=says):
        Delivery([notifier])
