"""The state of a monitor: a value that health checks read and pages show."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from decimal import Decimal

import attrs
import pytest
from fakes import reading

from decaptcha_async import AuthenticationError, MonitorState
from decaptcha_async._state import Status

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
IDLE = MonitorState("idle", None, None, NOON, None, None)


@pytest.mark.parametrize(
    ("status", "healthy"),
    [("idle", True), ("ok", True), ("degraded", True), ("stale", False), ("failed", False)],
)
def test_healthy(status: Status, *, healthy: bool) -> None:
    """M10: idle, ok and degraded are healthy; stale and failed are not."""
    state = attrs.evolve(IDLE, status=status)
    assert state.healthy is healthy
    assert state.to_dict()["healthy"] is healthy


def test_a_state_is_a_value() -> None:
    """M10: it cannot be changed, and equals one that says the same."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        IDLE.status = "ok"  # type: ignore[misc]
    assert attrs.evolve(IDLE) == IDLE


def test_nothing_known() -> None:
    """M10: before anything is known, JSON says null."""
    assert json.loads(json.dumps(IDLE.to_dict())) == {
        "status": "idle",
        "healthy": True,
        "reading": None,
        "error": None,
        "since": "2026-11-22T12:00:00+00:00",
        "burn_per_second": None,
        "runway": None,
    }


def test_everything_known() -> None:
    """M10: a reading with its age, an error by class and message, money as text."""
    last = reading("1250.70")
    error = AuthenticationError("the key is refused", status_code=401)
    state = MonitorState("failed", last, error, NOON, Decimal("0.0012345678"), 3600.5)
    shown = json.loads(json.dumps(state.to_dict()))
    age = shown["reading"].pop("age")
    assert 0 <= age < 60
    assert shown == {
        "status": "failed",
        "healthy": False,
        "reading": last.to_dict(),
        "error": {"error": "AuthenticationError", "message": str(error)},
        "since": "2026-11-22T12:00:00+00:00",
        "burn_per_second": "0.001235",
        "runway": 3600.5,
    }


def test_nothing_spent() -> None:
    """M10: a runway without end is null in JSON, which knows no infinity."""
    state = attrs.evolve(IDLE, burn_per_second=Decimal(0), runway=math.inf)
    shown = json.loads(json.dumps(state.to_dict(), allow_nan=False))
    assert (shown["burn_per_second"], shown["runway"]) == ("0.000000", None)
