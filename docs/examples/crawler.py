"""A crawler that pays for captchas: it pauses at a low balance, and goes on after a top-up."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Iterator
from decimal import Decimal

from decaptcha_async import BalanceClient, BalanceMonitor, LowBalance

RESERVE = Decimal("20.00")
ENOUGH = Decimal("50.00")
INTERVAL = float(os.environ.get("BALANCE_INTERVAL", "60"))


async def fetch(page: int) -> None:
    """Stands for the work: download page number ``page`` and have its captcha solved."""
    await asyncio.sleep(0.01)


async def crawl(pages: Iterator[int], monitor: BalanceMonitor) -> None:
    for page in pages:
        # The state costs no request. In an outage it is the last that is known.
        reading = monitor.state.reading
        if reading is not None and reading.amount < RESERVE:
            print(f"paused before page {page}: {reading.amount}", flush=True)
            # Not all workers of a fleet in one instant, so a spread.
            reading = await monitor.wait_for(ENOUGH, spread=INTERVAL / 10)
            print(f"goes on: {reading.amount}", flush=True)
        await fetch(page)


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    rule = LowBalance(RESERVE, rearm=ENOUGH)  # with a rule, the monitor polls all the time
    async with (
        BalanceClient() as client,
        BalanceMonitor(client, interval=INTERVAL, rules=[rule]) as monitor,
    ):
        await monitor.get()  # a refused key ends the program here, not in the night
        pages = itertools.count(1)
        workers = [asyncio.create_task(crawl(pages, monitor)) for _ in range(3)]
        ended = asyncio.create_task(stop.wait())
        await asyncio.wait([*workers, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in (*workers, ended):
            task.cancel()
        for outcome in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


if __name__ == "__main__":
    asyncio.run(main())
