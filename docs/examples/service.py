"""A plain asyncio service with a monitor beside its work; it ends cleanly on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from datetime import timedelta

from decaptcha_async import BalanceClient, BalanceMonitor, DecaptchaError, LowBalance, LowRunway

INTERVAL = float(os.environ.get("BALANCE_INTERVAL", "60"))

log = logging.getLogger("service")


async def work(monitor: BalanceMonitor) -> None:
    """Stands for what the service does; it reports how the balance stands now and then."""
    while True:
        state = monitor.state
        amount = "unknown" if state.reading is None else state.reading.amount
        log.info("balance %s, %s", amount, state.status)
        await asyncio.sleep(INTERVAL)


async def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)

    # Alerts are logged as warnings by the monitor itself.
    monitor = BalanceMonitor(
        client := BalanceClient(),
        interval=INTERVAL,
        rules=[LowBalance(100), LowRunway(timedelta(hours=2))],
        stale_after=timedelta(minutes=30),
    )
    async with client, monitor:
        try:
            await monitor.get()
        except DecaptchaError as error:
            log.critical("cannot start: %s", error)
            return 1
        job = asyncio.create_task(work(monitor))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, job.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await job
        log.info("ended")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
