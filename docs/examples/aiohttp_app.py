"""An aiohttp application that takes jobs only while there is money for them."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from decimal import Decimal

from aiohttp import web

from decaptcha_async import DecaptchaError, LowBalance
from decaptcha_async.integrations.aiohttp import MONITOR, balance_ctx, routes

RESERVE = Decimal("20.00")
INTERVAL = float(os.environ.get("BALANCE_INTERVAL", "60"))


async def take_job(request: web.Request) -> web.Response:
    try:
        reading = await request.app[MONITOR].get()
    except DecaptchaError as error:
        raise web.HTTPServiceUnavailable(text=str(error)) from error
    if reading.amount < RESERVE:
        raise web.HTTPPaymentRequired(text=f"{reading.amount} left, no jobs below {RESERVE}")
    return web.json_response({"job": "taken"}, status=202)


def make_app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(
        balance_ctx(
            interval=INTERVAL,
            rules=[LowBalance(100)],
            stale_after=timedelta(minutes=30),
        )
    )
    app.add_routes(routes)
    app.router.add_post("/jobs", take_job)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
