"""The same on trio: wait for a top-up, give up after a minute."""

from __future__ import annotations

import os
import sys

import trio

from decaptcha_async import BalanceClient, BalanceMonitor

INTERVAL = float(os.environ.get("BALANCE_INTERVAL", "5"))


async def main() -> int:
    async with BalanceClient() as client, BalanceMonitor(client, interval=INTERVAL) as monitor:
        reading = await monitor.get()
        print(f"{reading.amount} now", flush=True)
        with trio.move_on_after(60):
            reading = await monitor.wait_for("1000.00")
            print(f"{reading.amount} will do", flush=True)
            return 0
    print("no top-up within a minute", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(trio.run(main))
