"""A bot that tells a chat about the balance: alerts when there are any, and an answer to /balance.

``send`` is any coroutine that posts a text; here it prints. The chat's messages come from stdin.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from decaptcha_async import Alert, BalanceClient, BalanceMonitor, DecaptchaError, LowBalance

INTERVAL = float(os.environ.get("BALANCE_INTERVAL", "60"))
SIGNS = {"low": "🔴", "reminder": "🔴", "runway": "🟠", "stale": "⚪", "recovered": "🟢"}


async def run(send: Callable[[str], Awaitable[None]], messages: AsyncIterator[str]) -> None:
    async def tell(alert: Alert) -> None:
        # If it raises, the alert is delivered again later.
        await send(f"{SIGNS[alert.kind]} {alert.message}")

    async with (
        BalanceClient() as client,
        BalanceMonitor(
            client,
            interval=INTERVAL,
            rules=[LowBalance(500), LowBalance(100, remind=timedelta(hours=6))],
            stale_after=timedelta(minutes=30),
            notify=[tell],
        ) as monitor,
    ):
        async for message in messages:
            if message == "/balance":
                try:
                    reading = await monitor.get()
                    await send(f"{reading.amount:,} left")
                except DecaptchaError as error:
                    await send(f"I cannot tell: {error}")


async def lines_of_stdin() -> AsyncIterator[str]:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    # Not in a thread: the program could not end before the next line came.
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        yield line.decode().strip()


async def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(run(say, lines_of_stdin()))
    except KeyboardInterrupt:
        sys.exit(130)
