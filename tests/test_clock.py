"""The clock: virtual time moves it, suspended time counts."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable

import anyio
import pytest

from decaptcha_async import _clock
from decaptcha_async._clock import Stamp

pytestmark = pytest.mark.anyio


@pytest.fixture
def suspend(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Let the machine be suspended for so many seconds, at a time of the running loop."""

    def plan(seconds: float, at: float) -> None:
        monkeypatch.setattr(
            _clock, "boot_time", lambda: time.monotonic() + (seconds if _clock.now() >= at else 0)
        )

    return plan


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", [0.5, 19, 20, 21, 100.25, 86_400])
async def test_sleep_until_ends_in_time(seconds: float) -> None:
    """R13: a sleep of any length, in slices, ends when the loop's clock says so."""
    began = _clock.now()
    await _clock.sleep_until(began + seconds)
    assert _clock.now() == pytest.approx(began + seconds, abs=1e-6)
    assert _clock.now() >= began + seconds


@pytest.mark.virtual_time
async def test_a_past_deadline_is_no_wait() -> None:
    """W2: after a stall the next poll starts at once."""
    began = _clock.now()
    await _clock.sleep_until(began - 5)
    assert _clock.now() == began


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("asleep", "ends"),
    [
        pytest.param(90, 40, id="the deadline passed meanwhile"),
        pytest.param(30, 70, id="the rest is waited for"),
        pytest.param(0.5, 100, id="too short to notice"),
    ],
)
async def test_suspended_time_counts_as_slept(
    asleep: float, ends: float, suspend: Callable[[float, float], None]
) -> None:
    """W10: 100 s to sleep, suspended at 30 s: awake again, it ends within one slice of 20 s."""
    began = _clock.now()
    suspend(asleep, began + 30)
    await _clock.sleep_until(began + 100)
    assert _clock.now() - began == pytest.approx(ends, abs=0.1)


@pytest.mark.virtual_time
async def test_earlier_suspends_do_not_count(suspend: Callable[[float, float], None]) -> None:
    """W10: only a suspend during the sleep shortens it."""
    began = _clock.now()
    suspend(1000, began)
    await _clock.sleep_until(began + 50)
    assert _clock.now() - began == pytest.approx(50, abs=0.1)


@pytest.mark.virtual_time
async def test_a_sleep_can_be_cancelled() -> None:
    """R1: cancellation ends a sleep at its own time, not at the end of a slice."""
    began = _clock.now()
    with anyio.move_on_after(27.5) as scope:
        await _clock.sleep_until(began + 1000)
    assert scope.cancelled_caught
    assert _clock.now() - began == pytest.approx(27.5, abs=1e-6)


def test_the_boot_clock_counts_on() -> None:
    """R13: the boot clock runs at least as far as the monotonic one, and with it."""
    before = _clock.boot_time()
    assert _clock.boot_time() >= before
    assert _clock.suspended() > -1


def test_without_a_boot_clock_there_is_the_monotonic_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """R13: a system that cannot tell suspended time has its monotonic clock taken."""
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert _clock._find_boot_clock() is time.monotonic


@pytest.mark.virtual_time
async def test_age_follows_the_loop() -> None:
    """R13: in its own event loop a stamp grows old by that loop's clock."""
    stamp = Stamp.take()
    assert stamp.age() < 1
    await anyio.sleep(3600)
    assert stamp.age() == pytest.approx(3600, abs=1e-6)


@pytest.mark.virtual_time
async def test_age_counts_suspended_time(suspend: Callable[[float, float], None]) -> None:
    """API: age is measured on a clock that counts suspend."""
    suspend(500, _clock.now() + 10)
    stamp = Stamp.take()
    await anyio.sleep(20)
    assert stamp.age() == pytest.approx(500, abs=1)


@pytest.mark.parametrize("passed", [5.0, -5.0])
def test_age_outside_its_loop(passed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """API: without a loop, or in another, the boot clock alone tells; age is never negative."""

    async def take() -> Stamp:
        return Stamp.take()

    async def age() -> float:
        return stamp.age()

    monkeypatch.setattr(_clock, "boot_time", lambda: 1000.0)
    stamp = anyio.run(take)
    monkeypatch.setattr(_clock, "boot_time", lambda: 1000.0 + passed)
    expected = max(0.0, passed)
    assert stamp.age() == expected
    assert anyio.run(age) == expected


async def test_a_stamp_stays_in_its_process() -> None:
    """API: deepcopy keeps a stamp; pickled it is None, as its clocks mean nothing elsewhere."""
    stamp = Stamp.take()
    assert copy.deepcopy(stamp) is stamp
    assert pickle.loads(pickle.dumps(stamp)) is None  # noqa: S301
