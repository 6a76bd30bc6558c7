"""A FastAPI application that takes jobs only while there is money for them."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from decimal import Decimal

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from decaptcha_async import DecaptchaError, LowBalance
from decaptcha_async.integrations.fastapi import Monitor, balance_lifespan, router

RESERVE = Decimal("20.00")
INTERVAL = float(os.environ.get("BALANCE_INTERVAL", "60"))

app = FastAPI(
    lifespan=balance_lifespan(
        interval=INTERVAL,
        rules=[LowBalance(100)],
        stale_after=timedelta(minutes=30),
    )
)
app.include_router(router)


@app.post("/jobs", status_code=202)
async def take_job(monitor: Monitor) -> dict[str, str]:
    reading = await monitor.get()
    if reading.amount < RESERVE:
        raise HTTPException(402, f"{reading.amount} left, no jobs below {RESERVE}")
    return {"job": "taken"}


@app.exception_handler(DecaptchaError)
async def balance_unknown(request: Request, error: DecaptchaError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
