"""Say once when the balance falls below a threshold, and once when it is back."""

from __future__ import annotations

import asyncio
import signal
from decimal import Decimal

from decaptcha_async import BalanceClient

THRESHOLD = Decimal("200.00")


async def main() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    low = False
    async with BalanceClient() as client:
        async for reading in client.watch(interval=60, changes_only=True, stop=stop):
            if low != (reading.amount < THRESHOLD):
                low = not low
                print(f"{'low' if low else 'recovered'}: {reading.amount}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
