"""Watch several accounts: one key file each, named after the account, in the folder given.

    python accounts.py keys/       # keys/eu-1.key, keys/us-2.key

A file is read again at every attempt, so a key can be rotated while this runs.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import httpx

from decaptcha_async import Alert, BalanceClient, BalanceMonitor, DecaptchaError, LowBalance

INTERVAL = float(os.environ.get("BALANCE_INTERVAL", "60"))


def read_key(file: Path) -> str:
    return file.read_text().strip()


async def tell(alert: Alert) -> None:
    print(f"{alert.kind}: {alert.message}", flush=True)


async def follow(name: str, monitor: BalanceMonitor) -> None:
    while True:
        try:
            async with monitor.subscribe() as readings:
                async for reading in readings:
                    print(f"{name}  {reading.amount:>12,}", flush=True)
        except (DecaptchaError, OSError) as error:
            # An account with a bad key, or none, leaves the others alone, and heals with its file.
            print(f"{name}  {error}", flush=True)


async def main(files: list[Path]) -> None:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        for file in files:
            client = BalanceClient(partial(read_key, file), http_client=http)
            monitor = BalanceMonitor(
                await stack.enter_async_context(client),
                interval=INTERVAL,
                rules=[LowBalance(100)],
                notify=[tell],
                label=file.stem,
            )
            await stack.enter_async_context(monitor)
            group.create_task(follow(file.stem, monitor))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    try:
        asyncio.run(main(sorted(Path(sys.argv[1]).glob("*.key"))))
    except KeyboardInterrupt:
        sys.exit(130)
