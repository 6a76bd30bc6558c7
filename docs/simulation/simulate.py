"""What the defaults are good for, drawn and counted: `nox -s simulation`.

The herd and the outage are run: clients, `Retry` and `watch()` as they are, in virtual time, beside
the same without our policy. The adaptive interval and the burn rate are computed with `_schedule`
and `forecast`. Each picture is an SVG beside this file, each table a CSV, and both are shown in
`docs/why-these-defaults.md`. The same seed gives the same files.
"""

from __future__ import annotations

import asyncio
import csv
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final, Literal

import anyio
import attrs
import matplotlib as mpl
from matplotlib.figure import Figure

from decaptcha_async import (
    Adaptive,
    BalanceClient,
    BalanceReading,
    BurnRate,
    Call,
    DecaptchaError,
    Exponential,
    Handler,
    Interval,
    Middleware,
    Retry,
    ServerError,
    _schedule,
)
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import VirtualTimeLoop, sandbox_client

HERE: Final = Path(__file__).parent
SEED: Final = 20261122
CLIENTS: Final = 500
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
MIDNIGHT: Final = datetime(2026, 11, 22, tzinfo=UTC)
WITHOUT, BETWEEN, WITH = "#c2603a", "#9a9a9a", "#1c6e8c"

Live = Callable[[BalanceClient], Coroutine[Any, Any, None]]
"""What a client does with its time."""

Row = Sequence[object]


# What stands for the service


def reading(amount: float, now: float = 0.0) -> BalanceReading:
    """A reading to the cent, ``now`` seconds after midnight."""
    return BalanceReading(
        amount=Decimal(round(amount * 100)).scaleb(-2),
        raw="",
        taken_at=MIDNIGHT + timedelta(seconds=now),
        latency=0.0,
    )


@attrs.define(eq=False)
class Service:
    """The innermost middleware: knows when it was asked, and fails while it is down."""

    down_from: float = math.inf
    down_to: float = math.inf
    asked: list[float] = attrs.field(factory=list[float])

    async def __call__(self, _: Call, __: Handler) -> BalanceReading:
        """Answer at once, or fail at once."""
        now = anyio.current_time()
        self.asked.append(now)
        if self.down_from <= now < self.down_to:
            raise ServerError
        return reading(1000)

    def per(self, seconds: float, until: float) -> list[int]:
        """Requests in each such stretch of time."""
        counts = Counter(int(now / seconds + 1e-6) for now in self.asked)
        return [counts[number] for number in range(round(until / seconds))]


def run(
    live: Live, service: Service, until: float, retry: Callable[[], Middleware] = Retry
) -> Service:
    """Let all clients live so many virtual seconds, each as in a process of its own."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    sandbox_client(Sandbox(), middleware=[retry(), service])
                )
                for _ in range(CLIENTS)
            ]
            with anyio.move_on_after(until):
                async with anyio.create_task_group() as group:
                    for client in clients:
                        group.start_soon(live, client)

    random.seed(SEED)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
    return service


async def follow(watching: AsyncIterator[BalanceReading]) -> None:
    """Read on and on."""
    async for _ in watching:
        pass


# The herd


async def ask(client: BalanceClient) -> None:
    """One call, which may fail."""
    try:
        await client.get_balance()
    except DecaptchaError:
        return


def calls(jitter: Literal["full", "none"]) -> list[int]:
    """Requests in each 100 ms of calls that all fail, and retry so."""
    return run(ask, Service(0.0), 5.0, lambda: Retry(backoff=Exponential(jitter=jitter))).per(
        0.1, 4.0
    )


def watches(jitter: float) -> list[int]:
    """Requests in each second of watches that begin together."""
    return run(lambda client: follow(client.watch(60, jitter=jitter)), Service(), 300.0).per(
        1.0, 300.0
    )


def herd() -> None:
    """Clients that fail together, and watches that begin together."""
    figure, (failing, watching) = panels(2)
    rows: list[Row] = []
    for colour, retries, polls, jitter in (
        (WITHOUT, calls("none"), watches(0), ("none", 0)),
        (WITH, calls("full"), watches(0.05), ("full", 0.05)),
    ):
        draw(failing, retries, 0.1, colour, f'jitter="{jitter[0]}"')
        draw(watching, polls, 1.0, colour, f"jitter={jitter[1]}")
        rows.append([f'retries, `jitter="{jitter[0]}"`', "100 ms", max(retries[1:])])
        rows.append([f"watches, `jitter={jitter[1]}`", "1 s", max(polls[1:])])
    label(failing, "500 calls that fail together", "seconds", "requests per 100 ms")
    label(watching, "500 watches started together", "seconds", "requests per second")
    save(figure, "herd")
    table("herd", ["500 at once", "in", "most requests after the first"], sorted(rows, key=str))


# The outage


async def each_minute(client: BalanceClient) -> None:
    """What one writes without a watch."""
    while True:
        due = anyio.current_time() + 60
        await ask(client)
        await anyio.sleep_until(due)


async def anywhere_each_minute(client: BalanceClient) -> None:
    """The same, begun at a random moment."""
    await anyio.sleep(random.uniform(0, 60))
    await each_minute(client)


def outage() -> None:
    """Ten minutes without an answer."""
    figure, (axes,) = panels(1)
    rows: list[Row] = []
    lives: list[tuple[str, Live, str]] = [
        ("a loop with retries", anywhere_each_minute, WITHOUT),
        ("`watch()`", lambda client: follow(client.watch(60)), WITH),
    ]
    for name, live, colour in lives:
        service = run(live, Service(10 * MINUTE, 20 * MINUTE), 40 * MINUTE)
        load = service.per(MINUTE, 40 * MINUTE)
        draw(axes, load, 1.0, colour, name.strip("`"))
        means = [round(fmean(stretch)) for stretch in (load[2:10], load[10:20], load[15:20])]
        rows.append([name, *means, max(load[20:30])])
    axes.axvspan(10, 20, color="#000000", alpha=0.06, linewidth=0)
    label(axes, "500 watchers; no service from minute 10 to 20", "minutes", "requests per minute")
    save(figure, "outage")
    heads = ["requests a minute", "before", "in the outage", "in its second half", "most after it"]
    table("outage", heads, rows)


# The adaptive interval


@attrs.frozen
class Account:
    """Money that is spent twenty times as fast from one moment on."""

    amount: float
    jump: float
    per_second: float = 0.01
    threshold: float = 100.0

    @classmethod
    def at_random(cls) -> Account:
        """Some money, and a jump somewhere in the day."""
        return cls(random.uniform(300, 2500), random.uniform(2 * HOUR, 20 * HOUR))

    def left(self, now: float) -> float:
        """The balance at that moment."""
        return self.amount - self.per_second * (now + 19 * max(0.0, now - self.jump))

    @property
    def crossed(self) -> float:
        """When the threshold is reached."""
        at_first = (self.amount - self.threshold) / self.per_second
        return min(at_first, self.jump + max(0.0, at_first - self.jump) / 20)

    def polls(self, interval: float | Interval) -> list[float]:
        """When a watch looks, up to the poll that finds the crossing."""
        decide: Interval = interval if callable(interval) else lambda _, __: interval
        rate, looks, spread = BurnRate(), [0.0], _schedule.first_gap
        while (now := looks[-1]) <= self.crossed:
            seen = reading(self.left(now), now)
            rate.feed(seen)
            looks.append(now + spread(decide(seen, rate.per_second), 0.05))
            spread = _schedule.gap
        return looks


def adaptive() -> None:
    """A fixed interval or one that follows the money."""
    random.seed(SEED)
    accounts = [Account.at_random() for _ in range(200)]
    shown = Account(1500, 9 * HOUR)
    figure, (day, delays) = panels(2)
    rows: list[Row] = []
    hours = [shown.crossed / HOUR * step / 100 for step in range(101)]
    day.plot(hours, [shown.left(hour * HOUR) for hour in hours], color="#333333", linewidth=1)
    day.axhline(shown.threshold, color="#333333", linewidth=0.6, linestyle=":")
    policies: list[tuple[str, float | Interval, str]] = [
        ("every 60 s", 60.0, BETWEEN),
        ("every 30 min", 1800.0, WITHOUT),
        ("`Adaptive(100)`", Adaptive(100), WITH),
    ]
    for number, (name, interval, colour) in enumerate(policies):
        looks = shown.polls(interval)
        if len(looks) < 100:  # noqa: PLR2004 - more would be a bar
            height = [-120 * number] * len(looks)
            day.plot([look / HOUR for look in looks], height, "|", color=colour, markersize=7)
        found = [account.polls(interval) for account in accounts]
        late = sorted(
            polls[-1] - account.crossed for polls, account in zip(found, accounts, strict=True)
        )
        share = [(place + 1) / len(late) for place in range(3, len(late), 4)]
        delays.step([max(1.0, delay) for delay in late[3::4]], share, color=colour, label=name)
        waits = (f"{delay:.0f} s" for delay in (fmean(late), median(late), late[-1]))
        rows.append([name, round(fmean(map(len, found))), *waits])
    delays.set_xscale("log")
    delays.legend([name.strip("`") for name, _, _ in policies], frameon=False, fontsize=8)
    label(day, "one day: the balance, and when each looks", "hours", "balance")
    label(delays, "200 accounts: how late the crossing is found", "seconds", "share of accounts")
    save(figure, "adaptive")
    table("adaptive", ["200 accounts", "polls", "mean delay", "median", "longest"], rows)


# The burn rate


Steps = list[tuple[float, float]]


def ours(steps: Steps) -> float:
    """The sum of the drops by the time of the steps that did not rise."""
    rate = BurnRate()
    for now, left in steps:
        rate.feed(reading(left, now))
    return float(rate.per_second or 0)


def theil_sen(steps: Steps) -> float:
    """The median of the slopes between all readings of a quarter of an hour."""
    pairs = combinations([step for step in steps if step[0] >= steps[-1][0] - 900], 2)
    return median((before[1] - after[1]) / (after[0] - before[0]) for before, after in pairs)


def moving_average(steps: Steps) -> float:
    """All changes, the rises too, of which each new one weighs a fifth."""
    average = 0.0
    for number, (before, after) in enumerate(pairwise(steps)):
        slope = (before[1] - after[1]) / (after[0] - before[0])
        average = average + 0.2 * (slope - average) if number else slope
    return average


def spending(truth: float, top_ups_every: float) -> Iterator[tuple[float, float]]:
    """An hour of an account: jobs of 2 cents at random moments, top-ups of 500 at random ones."""
    now, left = 0.0, 1000.0
    while now < HOUR:
        yield now, left
        gap = _schedule.gap(60.0, 0.05)
        jobs = gap * truth / 0.02
        left -= 0.02 * round(random.gauss(jobs, math.sqrt(jobs)))
        if random.random() < gap / top_ups_every:
            left += 500
        now += gap


def burn_rate() -> None:
    """Three ways to know how fast money goes."""
    estimators: dict[str, Callable[[Steps], float]] = {
        "`BurnRate`: drops by the time of steps that did not rise": ours,
        "Theil–Sen: median of all slopes": theil_sen,
        "moving average of all changes": moving_average,
    }
    truth = 0.5
    rows: list[list[object]] = [[name] for name in estimators]
    for top_ups_every in (math.inf, 1800.0, 600.0):
        random.seed(SEED)
        accounts = [list(spending(truth, top_ups_every)) for _ in range(400)]
        for row, estimate in zip(rows, estimators.values(), strict=True):
            found = [estimate(steps) for steps in accounts]
            far = fmean(abs(rate / truth - 1) > 0.05 for rate in found)  # noqa: PLR2004
            error = median(abs(rate / truth - 1) for rate in found)
            row.append(f"{error:.1%} ({far:.0%}; {fmean(rate < 0 for rate in found):.0%})")
    heads = ["400 accounts", "no top-up", "one in 30 minutes", "one in 10 minutes"]
    table("burn-rate", heads, rows)


# Pictures and tables


def panels(count: int) -> tuple[Figure, list[Any]]:
    """A picture of so many diagrams beside each other."""
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def draw(axes: Any, load: Iterable[int], width: float, colour: str, name: str) -> None:
    """Requests over time."""
    counts = list(load)
    edges = [number * width for number in range(len(counts) + 1)]
    axes.stairs(counts, edges, color=colour, label=name, linewidth=1.1)
    axes.legend(frameon=False, fontsize=8)


def label(axes: Any, title: str, across: str, up: str) -> None:
    """Say what is to be seen."""
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, name: str) -> None:
    """The picture, the same bytes for the same content."""
    path = HERE / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})  # pyright: ignore[reportUnknownMemberType]


def table(name: str, heads: list[str], rows: Sequence[Row]) -> None:
    """The figures, printed and kept."""
    with (HERE / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([heads, *rows])
    print(*("  ".join(map(str, row)) for row in [heads, *rows]), "", sep="\n")  # noqa: T201


if __name__ == "__main__":
    mpl.rcParams.update({"svg.hashsalt": "decaptcha-async", "svg.fonttype": "none"})
    for picture in (herd, outage, adaptive, burn_rate):
        picture()
