"""Readings: values that know their age."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import anyio
import attrs
import pytest

from decaptcha_async._clock import Stamp
from decaptcha_async._readings import BalanceReading, Source

TAKEN_AT = datetime(2026, 11, 22, 12, 30, 15, 250_000, tzinfo=UTC)


def reading(
    amount: str = "1250.70",
    *,
    taken_at: datetime = TAKEN_AT,
    source: Source = "network",
    stamp: Stamp | None = None,
) -> BalanceReading:
    """A reading made by hand."""
    return BalanceReading(
        amount=Decimal(amount),
        raw="1,250.70",
        taken_at=taken_at,
        latency=0.125,
        attempts=2,
        source=source,
        stamp=stamp,
    )


def test_a_reading_as_json() -> None:
    """API: to_dict is exactly this, amounts as text with their scale, time with its offset."""
    expected = {
        "amount": "1250.70",
        "raw": "1,250.70",
        "taken_at": "2026-11-22T12:30:15.250000+00:00",
        "latency": 0.125,
        "attempts": 2,
        "source": "network",
    }
    made = reading().to_dict()
    assert made == expected
    assert list(made) == list(expected)
    assert json.loads(json.dumps(made)) == expected


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("0.00", "0.00"), ("1E-18", "0.000000000000000001"), ("-3.20", "-3.20"), ("1E+3", "1000")],
)
def test_amounts_are_written_out(amount: str, shown: str) -> None:
    """API: to_dict never writes an exponent."""
    assert reading(amount).to_dict()["amount"] == shown


def test_defaults() -> None:
    """API: a reading by hand needs amount, raw, taken_at and latency; one attempt, network."""
    made = BalanceReading(amount=Decimal(1), raw="1", taken_at=TAKEN_AT, latency=0.1)
    assert (made.attempts, made.source) == (1, "network")


def test_equality_is_of_what_was_read() -> None:
    """API: source and stamp are no part of equality or hash; every other field is."""
    one = reading()
    coalesced = attrs.evolve(one, source="coalesced")
    assert coalesced == one
    assert hash(coalesced) == hash(one)
    assert reading("1250.71") != one
    assert attrs.evolve(one, raw="1250.70") != one
    assert attrs.evolve(one, taken_at=TAKEN_AT + timedelta(seconds=1)) != one
    assert attrs.evolve(one, attempts=1) != one
    assert attrs.evolve(one, latency=1.0) != one


def test_a_reading_does_not_change() -> None:
    """House: values are frozen."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        reading().amount = Decimal(0)  # type: ignore[misc]


def test_repr_is_made_of_what_was_read() -> None:
    """House: repr shows the public fields, not the clocks behind age."""
    assert repr(reading()) == (
        "BalanceReading(amount=Decimal('1250.70'), raw='1,250.70', taken_at=datetime.datetime(2026,"
        " 11, 22, 12, 30, 15, 250000, tzinfo=datetime.timezone.utc), latency=0.125, attempts=2,"
        " source='network')"
    )


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))], ids=str)
def test_age_by_the_wall_clock(zone: timezone) -> None:
    """API: a reading built by hand, in any zone, is as old as the wall clock says."""
    taken_at = (datetime.now(UTC) - timedelta(hours=1)).astimezone(zone)
    assert 3600 <= reading(taken_at=taken_at).age < 3600 + 60


def test_age_is_never_negative() -> None:
    """API: a reading from a clock ahead of ours is new."""
    assert reading(taken_at=datetime.now(UTC) + timedelta(hours=1)).age == 0


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_age_by_the_loop() -> None:
    """R13: a reading of the client grows old in virtual time, whatever its date; so do copies."""
    stamped = reading(stamp=Stamp.take())
    copies = [
        stamped,
        copy.copy(stamped),
        copy.deepcopy(stamped),
        attrs.evolve(stamped, source="cache"),
    ]
    await anyio.sleep(120)
    assert [copied.age for copied in copies] == pytest.approx([120] * 4, abs=1e-6)


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
async def test_a_pickled_reading_ages_by_the_wall_clock(protocol: int) -> None:
    """API: in another process the wall clock tells the age; all fields arrive."""
    sent = reading(taken_at=datetime.now(UTC), source="cache", stamp=Stamp.take())
    await anyio.sleep(3600)
    arrived = pickle.loads(pickle.dumps(sent, protocol))  # noqa: S301
    assert arrived == sent
    assert arrived.to_dict() == sent.to_dict()
    assert sent.age >= 3600 - 1
    assert arrived.age < 60
