"""`RetryBudget`: what a bucket earns, what it bounds, and what it forgets."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from fakes import Endpoint, call_of

from decaptcha_async import ConfigurationError, Retry, RetryBudget, ServerError
from decaptcha_async.testing import virtual_backend

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def spent(budget: RetryBudget, account: str = "one") -> int:
    """How many retries there were to take."""
    count = 0
    while budget.spend(account):
        count += 1
    return count


async def storm(retry: Retry, *, calls: int, within: float = 0.0) -> int:
    """Requests made by so many calls that all fail, begun evenly ``within`` so many seconds."""
    endpoint = Endpoint(ServerError(), takes=0.1)

    async def fail(number: int) -> None:
        await anyio.sleep(within * number / calls)
        with pytest.raises(ServerError):
            await retry(call_of(), endpoint)

    async with anyio.create_task_group() as group:
        for number in range(calls):
            group.start_soon(fail, number)
    return len(endpoint.asked)


async def test_it_starts_full_and_ends_empty() -> None:
    """R7: a budget holds `burst` retries at first, each spent costs one, an empty one says no."""
    assert spent(RetryBudget()) == 10
    assert spent(RetryBudget(3)) == 3


async def test_each_call_earns() -> None:
    """R7: five calls earn one retry at the default ratio of 0.2."""
    budget = RetryBudget(per_second=0)
    spent(budget)
    for _ in range(5):
        assert not budget.spend("one")
        budget.earn("one")
    assert spent(budget) == 1


async def test_each_second_earns() -> None:
    """R7, R13: time alone earns `per_second` retries a second."""
    budget = RetryBudget(ratio=0, per_second=0.5)
    spent(budget)
    await anyio.sleep(1.5)
    assert not budget.spend("one")
    await anyio.sleep(4.5)
    assert spent(budget) == 3


async def test_it_never_holds_more_than_burst() -> None:
    """R7: neither calls nor hours earn beyond `burst`."""
    budget = RetryBudget(4)
    for _ in range(100):
        budget.earn("one")
    await anyio.sleep(3600)
    budget.earn("one")
    assert spent(budget) == 4
    await anyio.sleep(3600)
    assert spent(budget) == 4


async def test_accounts_are_kept_apart() -> None:
    """R7: an account that spent everything takes nothing from another."""
    budget = RetryBudget(2)
    assert [spent(budget, account) for account in ("one", "two", "one")] == [2, 2, 0]


async def test_an_outage_is_not_multiplied() -> None:
    """R7: 1,000 calls that fail in one instant make at most 1,020 requests, not 4,000."""
    assert 1010 <= await storm(Retry(4), calls=1000) <= 1020


async def test_without_a_budget_an_outage_is_multiplied() -> None:
    """R7: `budget=None` bounds nothing: 1,000 failing calls of 4 attempts are 4,000 requests."""
    assert await storm(Retry(4, budget=None), calls=1000) == 4000


async def test_calls_spread_over_a_second_are_bounded_by_the_ratio() -> None:
    """R7: 1,000 failing calls spread over a second make about 1.2 times as many requests."""
    assert 1190 <= await storm(Retry(4), calls=1000, within=1.0) <= 1230


async def test_a_quiet_client_always_has_its_attempts() -> None:
    """R7: a call every half minute has its 4 attempts each time, through the longest outage."""
    endpoint = Endpoint(ServerError())
    retry = Retry(4)
    for count in range(1, 101):
        with pytest.raises(ServerError) as caught:
            await retry(call_of(), endpoint)
        assert caught.value.gave_up == "attempts"
        assert len(endpoint.asked) == 4 * count
        await anyio.sleep(30)


async def test_full_buckets_are_forgotten() -> None:
    """R7: accounts that come and go leave nothing behind, and those in debt are remembered."""
    budget = RetryBudget(2)
    for number in range(1024):
        assert budget.spend(f"{number}")
    await anyio.sleep(1.5)
    spent(budget, "indebted")
    assert set(budget._buckets) == {"indebted"}
    for number in range(1023):
        budget.earn(f"{number}")
    budget.earn("new")
    assert set(budget._buckets) == {"indebted", "new"}
    assert not budget.spend("indebted")


def test_a_clock_that_is_behind_takes_nothing_away() -> None:
    """R7: used from another event loop, whose clock reads less, a budget keeps what it holds."""
    budget = RetryBudget(3)

    async def later() -> None:
        await anyio.sleep(1000)
        assert budget.spend("one")

    async def anew() -> int:
        return spent(budget)

    backend, options = virtual_backend("asyncio")
    anyio.run(later, backend=backend, backend_options=options)
    assert anyio.run(anew, backend=backend, backend_options=options) == 2


def test_repr_shows_the_arguments() -> None:
    """House: a budget prints as the call that makes it."""
    assert repr(RetryBudget()) == "RetryBudget(burst=10, ratio=0.2, per_second=1.0)"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param({"burst": 0}, "burst must be a whole number ≥ 1, not 0", id="burst-zero"),
        pytest.param({"burst": 1.5}, "burst must be a whole number ≥ 1, not 1.5", id="burst-part"),
        pytest.param({"burst": True}, "burst must be a whole number", id="burst-bool"),
        pytest.param({"ratio": -0.1}, "ratio must be a finite number ≥ 0, not -0.1", id="ratio"),
        pytest.param({"ratio": math.nan}, "ratio must be", id="ratio-nan"),
        pytest.param({"ratio": "1"}, "ratio must be a finite number ≥ 0, not '1'", id="text"),
        pytest.param({"per_second": math.inf}, "per_second must be", id="infinite"),
        pytest.param({"per_second": False}, "per_second must be", id="bool"),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], problem: str) -> None:
    """R7: an argument that cannot be is refused at construction, by name."""
    with pytest.raises(ConfigurationError) as caught:
        RetryBudget(**arguments)
    assert str(caught.value).startswith(problem)
