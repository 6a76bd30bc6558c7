"""Takes the pictures of docs/dashboard.md: `nox -s screenshots`.

A day of an invented account goes through a real monitor and the real page in a few seconds: a
middleware answers in place of the API, with readings whose times lie five minutes apart.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal

import uvicorn
from playwright.async_api import async_playwright

from decaptcha_async import (
    BalanceClient,
    BalanceMonitor,
    BalanceReading,
    Call,
    Handler,
    LowBalance,
    Middleware,
)
from decaptcha_async.dashboard import create_app

HERE = Path(__file__).parent
SIZES = [(360, 780), (1280, 800), (1920, 1080)]
DAY = 24 * 12


def day(top_up: int) -> Iterator[BalanceReading]:
    """A day in which so much was paid in once."""
    dice = random.Random(7)
    amount = Decimal("820.40")
    start = datetime.now(UTC) - timedelta(minutes=5 * DAY, seconds=-20)
    for number in range(DAY + 1):
        amount -= Decimal(dice.randint(100, 600)) / 100 * (1 + number % 96 // 48)
        if number == DAY // 2:
            amount += top_up
        at = start + timedelta(minutes=5 * number)
        yield BalanceReading(amount=amount, raw=str(amount), taken_at=at, latency=0.2)


def invented(readings: Iterator[BalanceReading]) -> Middleware:
    """Answers in place of the API, and then not at all."""

    async def answer(_: Call, __: Handler) -> BalanceReading:
        for reading in readings:
            return reading
        return await asyncio.Future()

    return answer


@asynccontextmanager
async def served(top_up: int) -> AsyncGenerator[str]:
    """The page over that day, on a free port of 127.0.0.1."""
    days = [invented(day(top_up))]
    async with (
        BalanceClient("invented", middleware=days) as client,
        BalanceMonitor(client, interval=0.01, rules=[LowBalance(200)], label="crawlers") as monitor,
    ):
        server = uvicorn.Server(uvicorn.Config(create_app(monitor), log_config=None))
        server.capture_signals = nullcontext  # type: ignore[assignment, method-assign]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server.serve([listener]))
            await asyncio.sleep(DAY * 0.02)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
            server.should_exit = True
            await serving


async def main() -> None:
    """Light on a good day, dark on one that ends low; a phone, a desk and a wall."""
    schemes: dict[Literal["light", "dark"], int] = {"light": 1900, "dark": 700}
    async with async_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or None
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for scheme, top_up in schemes.items():
            async with served(top_up) as url:
                for width, height in SIZES:
                    page = await browser.new_page(
                        color_scheme=scheme, viewport={"width": width, "height": height}
                    )
                    await page.goto(url)
                    await page.wait_for_timeout(500)
                    await page.screenshot(path=HERE / f"dashboard-{width}-{scheme}.png")
                    await page.close()
        await browser.close()


asyncio.run(main())
