"""Ten thousand watches on one event loop, beside as many bare sleeping loops: `nox -s watchers`.

Each watch has a client, a key and an account of its own, and all share one list of middleware. What
answers is in this process and takes no time, so that the figures are of this library and the event
loop. Each contender runs in a process of its own, first without and then with memory being traced.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import multiprocessing
import random
import statistics
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from decaptcha_async import BalanceClient, default_middleware

COUNT: Final = 10_000
INTERVAL: Final = 10.0
WEIGHED: Final = 2_000
BELIEVED_IN_TIME: Final = 0.05
"""Seconds; a watch that is no later than this keeps to its plan, and else plans anew."""

Note = Callable[[float], None]
"""Told how many seconds late something began."""

Contender = Callable[[int, float, Note], Coroutine[Any, Any, None]]
"""One of the many: its number, the seconds before it begins, and whom it tells."""


class Answer:
    """A good answer, of which the body was read."""

    status_code = 200
    headers: Final = {"content-type": "application/json"}
    content = b'{"isSuccess":true,"statusCode":200,"errorMessage":null,"data":"1250.75"}'
    is_stream_consumed = True

    async def aclose(self) -> None:
        """Nothing is open."""

    def aiter_raw(self) -> AsyncIterator[bytes]:
        """Nothing is left to read."""
        raise NotImplementedError


class Service:
    """Stands for an `httpx.AsyncClient`, and knows when it ought to be asked."""

    def __init__(self, delay: float, note: Note) -> None:
        self._due = time.monotonic() + delay
        self._note = note

    def build_request(self, *_: object, **__: object) -> None:
        """Note how late this request is, and when the next is due."""
        now = time.monotonic()
        late = now - self._due
        self._note(late)
        self._due = (self._due if late < BELIEVED_IN_TIME else now) + INTERVAL

    async def send(self, *_: object, **__: object) -> Answer:
        """Answer at once."""
        return Answer()


async def bare(_: int, delay: float, note: Note) -> None:
    """Sleep, again and again."""
    while True:
        due = time.monotonic() + delay
        await asyncio.sleep(delay)
        note(time.monotonic() - due)
        delay = INTERVAL


async def watch(number: int, delay: float, note: Note, *, middleware: list[Any]) -> None:
    """Watch an account."""
    service = Service(delay, note)
    async with BalanceClient(
        f"key-{number}",
        base_url="https://sandbox.invalid",
        http_client=service,
        middleware=middleware,
    ) as client:
        async for _ in client.watch(INTERVAL, jitter=0, initial_delay=delay):
            pass


CONTENDERS: Final[dict[str, Contender]] = {
    "asyncio.sleep": bare,
    "watch()": functools.partial(watch, middleware=default_middleware()),
}

ROWS: Final = [
    ("late, median", 1e3, "ms"),
    ("late, 99th percentile", 1e3, "ms"),
    ("late, 99th percentile, without the garbage collector", 1e3, "ms"),
    ("a full garbage collection", 1e3, "ms"),
    ("memory each", 1 / 1024, "KiB"),
]


async def lateness(contender: Contender) -> tuple[float, ...]:
    """Seconds: half and 99 of 100 are less late; 99 of 100 without collector; a full collection."""
    late: list[float] = []
    delays = (random.uniform(0.3, 1.3) * INTERVAL for _ in range(COUNT))
    tasks = [asyncio.create_task(contender(*each, late.append)) for each in enumerate(delays)]
    await asyncio.sleep(1.3 * INTERVAL)
    late.clear()
    await asyncio.sleep(0.5 * INTERVAL)
    usual = statistics.quantiles(late, n=100)
    gc.disable()
    late.clear()
    await asyncio.sleep(0.5 * INTERVAL)
    uncollected = statistics.quantiles(late, n=100)
    began = time.monotonic()
    gc.collect()
    collection = time.monotonic() - began
    gc.enable()
    await end(tasks)
    return usual[49], usual[98], uncollected[98], collection


async def size(contender: Contender) -> float:
    """Bytes that each holds while it sleeps after it first began."""
    begun = asyncio.Semaphore(0)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tasks = [
        asyncio.create_task(contender(number, 0, lambda _: begun.release()))
        for number in range(WEIGHED)
    ]
    for _ in range(WEIGHED):
        await begun.acquire()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await end(tasks)
    return (after - before) / WEIGHED


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel them all."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def measure(title: str) -> tuple[float, ...]:
    """What the rows of the table show."""
    contender = CONTENDERS[title]
    return *asyncio.run(lateness(contender)), asyncio.run(size(contender))


def main() -> None:
    """Measure each in a process of its own, and print the table."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        measured = processes.map(measure, CONTENDERS, chunksize=1)
    table = [
        [f"{COUNT:,} on one loop, every {INTERVAL:g} s", *CONTENDERS, "ratio"],
        ["---"] * (len(CONTENDERS) + 2),
    ]
    for (title, scale, unit), pair in zip(ROWS, zip(*measured, strict=True), strict=True):
        cells = [f"{scale * figure:.2f} {unit}" for figure in pair]
        table.append([title, *cells, f"{pair[1] / pair[0]:.1f} ×"])
    print(*(f"| {' | '.join(cells)} |" for cells in table), sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
