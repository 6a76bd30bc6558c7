"""The alerts of the command `watch`: low, and unknown for too long."""

from __future__ import annotations

from decimal import Decimal

import anyio
import pytest
from fakes import reading

from decaptcha_async import AuthenticationError, ServerError
from decaptcha_async._alarm import Alarm

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

DOWN = ServerError("the service failed (503)")


async def test_a_low_balance_is_told_once_by_name() -> None:
    """M1: once below, once recovered, each with the account's label before it."""
    alarm = Alarm(Decimal(100), 600, "eu-1")
    told = [
        alert.message
        for amount in ("120", "99", "98", "120")
        for alert in alarm.learned(reading(amount))
    ]
    assert [text.partition(" is ")[0] for text in told] == ["eu-1: Balance 99", "eu-1: Balance 120"]


async def test_an_outage_is_told_once_when_it_lasts() -> None:
    """M3: failures are told once after ten minutes without a reading, then that it is over."""
    alarm = Alarm(Decimal(100), 600, "")
    assert list(alarm.learned(reading("120"))) == []
    told: list[tuple[float, str]] = []
    for _ in range(15):
        await anyio.sleep(60)
        told += [(anyio.current_time(), alert.message) for alert in alarm.failed(DOWN)]
    [(at, text)] = told
    assert at == 600
    assert text.startswith("No balance for 10 min (the service failed (503)); the last was 120.")
    assert [alert.kind for alert in alarm.learned(reading("120"))] == ["recovered"]


async def test_what_ends_a_watch_is_told_at_once() -> None:
    """M3: a refused key ends the watch, and is told before."""
    alarm = Alarm(Decimal(100), 600, "")
    await anyio.sleep(3)
    [alert] = alarm.failed(AuthenticationError("the API key is refused (401)"), at_once=True)
    assert alert.kind == "stale"
    assert "the API key is refused (401)" in alert.message
    assert list(alarm.failed(DOWN, at_once=True)) == []


async def test_without_a_threshold_nothing_is_told() -> None:
    """API: alerts come with `--below` only."""
    alarm = Alarm(None, 600, "eu-1")
    assert list(alarm.learned(reading("0"))) == []
    assert list(alarm.failed(DOWN, at_once=True)) == []
