"""The dashboard without a browser: what it serves, to whom, and what it remembers."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any, cast

import anyio
import anyio.lowlevel
import attrs
import httpx
import pytest
from canary import CANARY
from fakes import on_asyncio
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message

from decaptcha_async import (
    Alert,
    BalanceMonitor,
    BalanceReading,
    ConfigurationError,
    LowBalance,
    LowRunway,
    MonitorState,
)
from decaptcha_async.dashboard import create_app
from decaptcha_async.dashboard._chart import chart, summary
from decaptcha_async.dashboard._history import History, TopUp
from decaptcha_async.dashboard._nodes import Node, node, to_html, to_json
from decaptcha_async.dashboard._page import view
from decaptcha_async.errors import AuthenticationError
from decaptcha_async.sandbox import Fault, Sandbox
from decaptcha_async.testing import sandbox_client

anyio_test = pytest.mark.anyio
virtual_time = pytest.mark.virtual_time

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def taken(second: float, amount: str) -> BalanceReading:
    """A reading so many seconds after noon."""
    at = NOON + timedelta(seconds=second)
    return BalanceReading(amount=Decimal(amount), raw=amount, taken_at=at, latency=0.1)


def remembering(*amounts: str, rules: tuple[LowBalance | LowRunway, ...] = ()) -> History:
    """A history of one reading a minute."""
    history = History(rules, 86400)
    for minute, amount in enumerate(amounts):
        history.add(taken(60 * minute, amount))
    return history


def state_of(
    amount: str | None = "1250.75", burn: str | None = None, **changes: Any
) -> MonitorState:
    """A state as a monitor tells it."""
    reading = None if amount is None else taken(0, amount)
    rate = None if burn is None else Decimal(burn)
    runway = None
    if reading is not None and rate is not None:
        runway = float(reading.amount / rate) if rate else float("inf")
    state = MonitorState("ok", reading, None, NOON, rate, runway)
    return attrs.evolve(state, **changes)


def text_of(nodes: object) -> str:
    """What a person reads in nodes, by their JSON form."""
    if isinstance(nodes, str):
        return nodes
    items = cast("list[object]", nodes)
    if len(items) == 3 and isinstance(items[1], dict):
        return text_of(items[2])
    return "".join(text_of(each) for each in items)


def part(state: MonitorState, history: History, name: str, label: str = "") -> str:
    """What a person reads in one part of the page."""
    return text_of(to_json(view(state, history, label).parts[name]))


class Reader(HTMLParser):
    """Reads a page: the text in each element that has an id, and every tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link"}:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag: str) -> None:
        """An element ends; it has to be the one that began last."""
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        """A text, inside all that is open."""
        for _, name in self._open:
            if name is not None:
                self.texts[name] = self.texts.get(name, "") + data


def browser(app: ASGIApp, host: str = "localhost:8000") -> httpx.AsyncClient:
    """What asks for the page, in process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


@asynccontextmanager
async def started(app: Starlette) -> AsyncGenerator[None]:
    """The application between startup and shutdown, as a server has it."""
    to_app, from_app = (anyio.create_memory_object_stream[Message](1) for _ in range(2))
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    async with anyio.create_task_group() as group:
        group.start_soon(app, scope, to_app[1].receive, from_app[0].send)
        for stage in ("startup", "shutdown"):
            await to_app[0].send({"type": f"lifespan.{stage}"})
            assert (await from_app[1].receive())["type"] == f"lifespan.{stage}.complete"
            if stage == "startup":
                yield
    for stream in (*to_app, *from_app):
        stream.close()


# The page.


@anyio_test
@virtual_time
async def test_the_page_without_its_script() -> None:
    """I4: the page is complete as served: amount, state, age, runway, rate, chart, alerts."""
    sandbox = Sandbox(balance="1250.75", spend_per_second="1")
    async with (
        sandbox_client(sandbox) as client,
        BalanceMonitor(client, interval=60, jitter=0, rules=[LowBalance(100)], label="EU") as m,
        started(app := create_app(m)),
        browser(app) as http,
    ):
        await anyio.sleep(310)
        answer = await http.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Reader(answer.text)
    assert page.texts["current-balance"] == "950.75"
    assert page.texts["label"] == "EU"
    assert page.texts["change"] == "▼ −60.00 in 1 min"
    assert page.texts["state"].startswith("✓OKsince ")
    assert page.texts["age"] == "10 s ago"
    assert page.texts["runway"] == "15 min14 min until 100"
    assert page.texts["burn"].replace("\xa0", " ") == "3,600.00 / h86,400.00 a day"
    assert "threshold 100" in page.texts["chart"]
    assert page.texts["alerts"] == "None so far."
    assert page.texts["readings"].count("▼ −60.00") == 5
    assert '<noscript><meta http-equiv="refresh" content="30"></noscript>' in answer.text


@anyio_test
@virtual_time
async def test_the_banner_comes_and_goes() -> None:
    """I4: below the threshold a banner is above the container; after a top-up it is gone."""
    sandbox = Sandbox(balance="130", spend_per_second="1")
    async with (
        sandbox_client(sandbox) as client,
        BalanceMonitor(client, interval=10, jitter=0, rules=[LowBalance(100)], label="EU") as m,
        started(app := create_app(m)),
        browser(app) as http,
    ):
        pages = [(await http.get("/")).text]
        await anyio.sleep(41)
        pages.append((await http.get("/")).text)
        sandbox.top_up(25)  # above the threshold, and below the rearm of the alert
        await anyio.sleep(10)
        pages.append((await http.get("/")).text)
    danger = [{"class": "alert alert-danger", "role": "alert"}]
    found = [[a for _, a in Reader(page).tags if "alert-danger" in str(a)] for page in pages]
    assert found == [[], danger, []]
    low = Reader(pages[1])
    assert re.fullmatch(r"Low balance Below 100 since .* UTC: top up\.", low.texts["banners"])
    assert low.texts["alerts"].startswith("▼LowBalance 90.00 is below 100.")
    assert pages[1].index("alert-danger") < pages[1].index('class="container"')
    assert "<title>⚠ 90.00 · EU</title>" in pages[1]
    assert "+15.00" in Reader(pages[2]).texts["chart"]
    assert "Recovered" not in Reader(pages[2]).texts["alerts"]


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("1250.75", "1250.75"),
        ("1250.7", "1250.70"),
        ("99.999", "99.99"),
        ("-0.001", "-0.01"),
        ("999999999999999.999999999999999999", "999999999999999.99"),
        ("0", "0.00"),
    ],
)
def test_two_decimals(amount: str, shown: str) -> None:
    """I4: the amount has two decimals, never more than there is; its title has every digit."""
    state = state_of(amount)
    nodes = view(state, remembering(), "").parts["current-balance"]
    assert text_of(to_json(nodes)) == shown
    assert cast("Node", nodes[0]).attributes["title"] == amount


def test_before_the_first_reading() -> None:
    """I4: before the first reading the page says so, and makes no number up."""
    state = state_of(None, status="idle")
    shown = view(state, remembering(), "")
    assert (shown.title, shown.age, shown.spoken) == (
        "– · DeCaptcha balance",
        None,
        ("Balance –.", "Idle."),
    )
    names = ["current-balance", "change", "runway", "burn", "summary", "chart", "banners"]
    assert [part(state, remembering(), name) for name in names] == [
        "–",
        "waiting for the first reading",
        "–not known yet",
        "–not known yet",
        "No reading yet",
        "",
        "",
    ]
    assert Reader(shown.to_html()).texts["age"] == "–"


@pytest.mark.parametrize(
    ("burn", "thresholds", "shown"),
    [
        (None, [], "–not known yet"),
        ("0", [100], "∞nothing is spent"),
        ("0.01", [], "1 d 10 huntil nothing is left"),
        ("0.01", [100, 200], "1 d 10 h1 d 5 h until 200"),
        ("0.01", [(1250.75).__ceil__(), 100], "1 d 10 h1 d 7 h until 100"),
        ("0.01", [2000], "1 d 10 huntil nothing is left"),
    ],
)
def test_runway(burn: str | None, thresholds: list[int], shown: str) -> None:
    """I4: how long the money lasts, and how long until the next threshold below it."""
    rules = tuple(LowBalance(threshold) for threshold in thresholds)
    assert part(state_of(burn=burn), remembering(rules=rules), "runway") == shown


@pytest.mark.parametrize(
    ("amounts", "shown"),
    [
        (["5"], "first reading"),
        (["5", "5.0"], "± 0 in 1 min"),
        (["5", "4.25"], "▼ −0.75 in 1 min"),
        (["5", "1005"], "▲ +1,000 in 1 min"),
    ],
)
def test_change(amounts: list[str], shown: str) -> None:
    """I4: the change since the reading before, exactly, with a sign that needs no colour."""
    assert part(state_of(), remembering(*amounts), "change") == shown


def test_states_have_words_and_signs() -> None:
    """I4: a state is told by a word and a sign; an error by its text."""
    error = AuthenticationError("Invalid API key", status_code=401)
    refused = state_of(status="failed", error=error)
    stale = state_of(None, status="stale")
    nothing = remembering()
    assert part(refused, nothing, "state") == f"✕Failed{error}"
    assert part(refused, nothing, "banners") == f"No balance The amount is old: {error}"
    assert part(stale, nothing, "state") == "!Stalesince 12:00 UTC"
    assert (
        part(stale, nothing, "banners") == "No balance There was none yet: no reading for too long"
    )
    assert part(state_of(status="degraded", error=error), nothing, "banners") == ""


def test_a_short_runway_has_a_banner() -> None:
    """I4: while a LowRunway of the monitor's complains, a banner says so; the worst one."""
    rules = LowRunway(3600), LowRunway(60)
    short = remembering("100", "90", rules=rules)
    expected = "Runs out soon Fell below 1 h at 22 Nov 12:01 UTC: top up."
    assert part(state_of(), short, "banners") == expected
    short.add(taken(3600, "5000"))
    assert part(state_of(), short, "banners") == ""


def test_a_banner_stays_true() -> None:
    """I4: a banner has only what stays true while it is there, so it never belies the amount."""
    rules = LowBalance(100), LowRunway(3600)
    low = remembering("99", "40", rules=rules)
    early = part(state_of("40"), low, "banners")
    low.add(taken(1200, "1"))
    assert part(state_of("1"), low, "banners") == early
    assert early.startswith("Low balance Below 100 since 22 Nov 12:00 UTC: top up.")
    low.add(taken(1260, "0"))
    spent = part(state_of("0"), low, "banners")
    assert spent.startswith("Low balance Nothing is left: top up now.")


@pytest.mark.parametrize(
    ("amount", "changes", "spoken"),
    [
        ("114.42", {}, "Balance 114.42. OK."),
        ("92.16", {}, "Balance 92.16. Low: below 100."),
        ("40", {}, "Balance 40.00. Low: below 50."),
        ("0", {}, "Balance 0.00. Low: nothing is left."),
        ("92.16", {"status": "degraded"}, "Balance 92.16. Low: below 100. Degraded."),
        ("114.42", {"status": "stale"}, "Balance 114.42. Stale."),
    ],
)
def test_what_is_spoken(amount: str, changes: dict[str, str], spoken: str) -> None:
    """I4: who listens to the page hears of a low balance, too, and how things stand."""
    history = remembering(amount, rules=(LowBalance(100), LowBalance(50)))
    assert " ".join(view(state_of(amount, **changes), history, "").spoken) == spoken


def test_a_short_runway_is_spoken() -> None:
    """I4: who listens to the page hears that the money runs out soon."""
    short = remembering("100", "90", rules=(LowRunway(3600),))
    assert view(state_of("90"), short, "").spoken == ("Balance 90.00.", "Runs out soon.")


def test_of_several_levels_the_lowest_rings() -> None:
    """I4: of several thresholds that are crossed the banner names the lowest."""
    rules = LowBalance(200, confirm=3), LowBalance(100), LowBalance(50)
    assert "Below 100 since" in part(state_of(), remembering("80", rules=rules), "banners")
    assert remembering("80", rules=rules).thresholds == [50, 100, 200]


def test_alerts_newest_first() -> None:
    """I4: the last alerts are listed, newest first, at most 20."""
    history = remembering()
    for second in range(25):
        reading = taken(second, "5")
        at = reading.taken_at
        history.note(Alert("stale", "stale (60 s)", 60.0, reading, at, f"alert {second}."))
    shown = part(state_of(), history, "alerts")
    assert re.findall(r"alert (\d+)\.", shown) == [str(number) for number in range(24, 4, -1)]
    assert shown.startswith("!Stalealert 24.22 Nov 12:00:24 UTC")


def test_an_alert_before_the_page_is_listed_once() -> None:
    """I4: what was low before the page began to listen is listed, and not again when told."""
    history = History([rule := LowBalance(100), LowBalance(90, confirm=2)], 86400)
    first = taken(0, "80")
    history.add(first)
    assert [alert.rule for alert in history.alerts] == ["LowBalance(100)"]
    told = attrs.evolve(rule).feed(first)
    assert told is not None
    history.note(told)
    history.add(taken(60, "70"))
    assert [alert.at for alert in history.alerts] == [NOON]


def test_texts_are_never_markup() -> None:
    """I4: what a service or a person wrote is escaped, as text and in attributes."""
    hostile = """<img src=x onerror="alert(1)">&'"""
    error = AuthenticationError(hostile, status_code=401)
    state = state_of(status="failed", error=error)
    page = Reader(view(state, remembering(), hostile).to_html())
    assert page.texts["label"] == hostile
    assert hostile in page.texts["state"]
    assert "img" not in {tag for tag, _ in page.tags}
    assert to_html([node("b", {"title": '"<'}, "<")]) == '<b title="&quot;&lt;">&lt;</b>'


# The chart and the history.


def attributes(nodes: object, tag: str) -> list[dict[str, str]]:
    """The attributes of each element of a tag, from the JSON form."""
    if not isinstance(nodes, list):
        return []
    items = cast("list[object]", nodes)
    below = [found for each in items for found in attributes(each, tag)]
    return [cast("dict[str, str]", items[1]), *below] if items[:1] == [tag] else below


def texts(nodes: Sequence[Node | str], kind: str) -> list[Node]:
    """The texts of a class that are not inside another element."""
    found = [each for each in nodes if isinstance(each, Node) and each.tag == "text"]
    return [each for each in found if each.attributes["class"] == kind]


def test_chart() -> None:
    """I4: the chart has the readings as a line, thresholds, top-ups, amounts and times."""
    history = remembering("400", "300", "200", "700", rules=(LowBalance(100),))
    drawn = to_json(chart(history.points, history.thresholds, history.top_ups))
    [_, line] = attributes(drawn, "path")
    assert line["d"] == "M0.0 500.0 L333.3 625.0 L666.7 750.0 L1000.0 125.0"
    assert "threshold 100" in text_of(drawn)
    assert "▲+500" in text_of(drawn)
    assert "−2 min" in text_of(drawn)
    assert "0200400600800" in text_of(drawn)


@pytest.mark.parametrize(
    ("amounts", "thresholds", "least", "most"),
    [
        (["1230000"], ["100"], "0.0 M", "1.5 M"),
        (["1234567.89", "1234000"], [], "1.230 M", "1.235 M"),
        (["250", "99999"], [], "0 k", "150 k"),
        (["999999999999999", "0"], ["100"], "0 T", "1,500 T"),
        (["0", "0"], [], "0.0", "0.5"),
        (["5000000"], ["-1000000"], "-2 M", "6 M"),
    ],
)
def test_the_axis(amounts: list[str], thresholds: list[str], least: str, most: str) -> None:
    """I4: the axis has short numbers, and goes below 0 only if what it shows does."""
    history = remembering(*amounts)
    drawn = chart(history.points, [Decimal(threshold) for threshold in thresholds], [])
    axis = [text_of(to_json(each.children)) for each in texts(drawn, "amount")]
    assert [axis[0], axis[-1]] == [least.replace(" ", "\xa0"), most.replace(" ", "\xa0")]
    assert max(map(len, axis)) <= 8


@pytest.mark.parametrize(
    ("threshold", "shown"),
    [
        ("1250.75", "1,250.75"),
        ("1234567.89", "1,234,567.89"),
        ("12345678.90", "12.35 M"),
        ("-12345678901.5", "-12.35 B"),
        ("99999.000000001", "99,999.00"),
        ("123456.123456", "123.46 k"),
        ("999999999999999", "1,000.00 T"),
    ],
)
def test_long_amounts_in_the_chart_are_rounded(threshold: str, shown: str) -> None:
    """I4: a threshold or a top-up of many digits is told briefly, so it stays in the chart."""
    top_up = TopUp(taken(0, "5"), abs(Decimal(threshold)))
    drawn = text_of(to_json(chart([taken(0, "5")], [Decimal(threshold)], [top_up])))
    drawn = drawn.replace("\xa0", " ")
    assert f"threshold {shown}" in drawn
    assert f"+{shown.removeprefix('-')}" in drawn


def test_summary() -> None:
    """I4: the chart is told in a sentence, too, for those who cannot see it."""
    days = [["5"], ["1250.75", "87.20", "500", "600", "90"], ["9", "8"], ["8", "9"]]
    told = [summary(day.points, day.top_ups) for day in (remembering(*each) for each in days)]
    assert told == [
        "One reading: 5",
        "Last 4 min: from 1,250.75 to 90, lowest 87.20, 2 top-ups",
        "Last 1 min: from 9 to 8",
        "Last 1 min: from 8 to 9, 1 top-up",
    ]


@pytest.mark.parametrize("seconds", [0, 0.5, 3, 40, 3600, 7 * 3600, 86400, 10 * 86400, 10**8])
@pytest.mark.parametrize("amounts", [("0", "0"), ("-5", "1e14"), ("0.01", "0.02"), ("7", "9e5")])
def test_a_chart_of_anything_stays_in_its_frame(seconds: float, amounts: tuple[str, str]) -> None:
    """I4: whatever the amounts and the time: a few lines each way, all within the frame."""
    points = [taken(0, amounts[0]), taken(seconds, amounts[1])]
    drawn = to_json(chart(points, [Decimal(3)], [TopUp(points[1], Decimal(1))]))
    numbers = [
        float(value[:-1])
        for tag in ("text", "line", "circle")
        for found in attributes(drawn, tag)
        for value in found.values()
        if value.endswith("%")
    ]
    assert min(numbers) >= 0
    assert max(numbers) <= 100
    lines = [found["class"] for found in attributes(drawn, "line") if "class" in found]
    assert 2 <= len(lines) <= 8
    times = [t for t in attributes(drawn, "text") if "time" in t.get("class", "")]
    assert 1 <= len(times) <= 5


def test_only_the_last_top_ups_are_named() -> None:
    """I4: every top-up is marked, the last three with their sums, on the side that has room."""
    history = remembering(*(str(amount) for amount in range(5)))
    drawn = to_json(chart(history.points, [], history.top_ups))
    assert text_of(drawn).count("▲") == 4
    assert text_of(drawn).count("+1") == 3
    sides = [found["class"] for found in attributes(drawn, "text") if "dx" in found]
    assert [side for side in sides if side in {"left", "right"}] == ["left", "left", "left"]
    early = chart(history.points, [], list(history.top_ups)[:1])
    assert "right" in str(to_json(early))


def test_history_is_bounded() -> None:
    """I4: a history of any length keeps at most 600 points, even in time, and a day of them."""
    history = History([], 86400)
    for second in range(0, 3 * 86400, 20):
        history.add(taken(second, str(10**6 - second)))
    times = [(point.taken_at - NOON).total_seconds() for point in history.points]
    assert 200 <= len(times) <= 600
    assert times[-1] == 3 * 86400 - 20
    assert 86400 - 600 <= times[-1] - times[0] <= 86400
    gaps = [after - before for before, after in pairwise(times[:-1])]
    assert max(gaps) <= 2 * min(gaps)


def test_old_top_ups_are_forgotten() -> None:
    """I4: a top-up leaves the chart with the readings around it."""
    history = History([], 100)
    for second, amount in [(0, "1"), (10, "2"), (60, "2"), (120, "2")]:
        history.add(taken(second, amount))
    assert list(history.top_ups) == []
    assert len(history.points) == 2


def test_one_reading_is_no_news_twice() -> None:
    """I4: a reading that a new subscription brings again is not counted again."""
    history = remembering()
    reading = taken(0, "5")
    history.add(reading)
    news = history.news
    history.add(reading)
    assert not news.is_set()
    assert list(history.latest) == [reading]


# Whom it answers, and how.


@anyio_test
@pytest.mark.parametrize(
    ("hosts", "allowed", "status"),
    [
        (["localhost"], [], 200),
        (["LocalHost:8000"], [], 200),
        (["127.0.0.1:1"], [], 200),
        (["[::1]"], [], 200),
        (["[::1]:8000"], [], 200),
        (["evil.example"], [], 421),
        (["evil.example:8000"], [], 421),
        (["localhost.evil.example"], [], 421),
        (["127.0.0.1.evil.example"], [], 421),
        (["[::2]"], [], 421),
        (["::1"], [], 421),
        ([""], [], 421),
        ([], [], 421),
        (["localhost", "evil.example"], [], 421),
        (["wall.example:443"], ["Wall.example"], 200),
        (["evil.example"], ["wall.example"], 421),
        (["evil.example"], ["*"], 200),
    ],
)
async def test_hosts(hosts: list[str], allowed: list[str], status: int) -> None:
    """I4: an unknown Host is refused, so no other site can lead a browser here by its own name."""
    app = create_app(BalanceMonitor(sandbox_client(Sandbox())), allowed_hosts=allowed)
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    headers = [(b"host", host.encode()) for host in hosts]
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/style.css"}
    await app(scope | {"headers": headers, "query_string": b""}, receive, send)
    assert said[0]["status"] == status
    assert dict(said[0]["headers"])[b"x-content-type-options"] == b"nosniff"
    if status == 421:
        assert b"allowed_hosts" in said[1]["body"]


PATHS = ["/", "/view.json", "/script.js", "/style.css", "/icon.svg", "/nothing"]


@anyio_test
@pytest.mark.parametrize("path", PATHS)
async def test_headers(path: str) -> None:
    """I4: each answer keeps a browser strict: nothing inline, nothing from elsewhere, no trace."""
    async with (
        sandbox_client(Sandbox(api_key=CANARY)) as client,
        BalanceMonitor(client, interval=60) as monitor,
        started(app := create_app(monitor)),
        browser(app) as http,
    ):
        await monitor.get()
        answer = await http.get(path)
    assert answer.status_code == (404 if path == "/nothing" else 200)
    policy = dict(
        rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in str(policy)
    assert set(policy.values()) == {"'none'", "'self'", "'script'"}
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert CANARY not in answer.text + str(answer.headers)


@anyio_test
async def test_nothing_inline_and_nothing_from_elsewhere() -> None:
    """I4: the page has no inline script or style, and every address in it is relative."""
    app = create_app(BalanceMonitor(sandbox_client(Sandbox())))
    async with started(app), browser(app) as http:
        page = (await http.get("/")).text
        files = [(await http.get(f"/{name}")).text for name in ("script.js", "style.css")]
    tags = Reader(page).tags
    assert [a for tag, a in tags if tag in {"script", "style"}] == [
        {"src": "script.js", "defer": None}
    ]
    names = {name for _, found in tags for name in found}
    assert not [name for name in names if name == "style" or name.startswith("on")]
    addresses = [v for _, a in tags for k, v in a.items() if k in {"src", "href"}]
    assert addresses == ["icon.svg", "style.css", "script.js"]
    assert "//" not in re.sub(r"(?m)//.*$", "", files[0])
    assert not re.search(r"innerHTML|insertAdjacent|eval|document\.write", files[0])
    assert "url(" not in files[1]
    assert "@import" not in files[1]


def test_arguments() -> None:
    """House: a history that cannot be, and one text in place of a list, are refused at once."""
    monitor = BalanceMonitor(sandbox_client(Sandbox()))
    with pytest.raises(ConfigurationError, match="history"):
        create_app(monitor, history=0)
    with pytest.raises(TypeError, match=r"\['wall.example'\]"):
        create_app(monitor, allowed_hosts="wall.example")


def test_a_missing_extra_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: without starlette or sse-starlette the ImportError names the extra that brings it."""
    for name in list(sys.modules):
        if name.startswith("decaptcha_async.dashboard"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sse_starlette", None)
    with pytest.raises(ImportError, match=r"pip install 'decaptcha-async\[dashboard\]'") as caught:
        importlib.import_module("decaptcha_async.dashboard")
    assert caught.value.name == "sse_starlette"


# What it does beside answering.


@anyio_test
@virtual_time
@on_asyncio
async def test_mounted_without_a_lifespan() -> None:
    """I4: mounted below a path of another application, it collects from the first request on."""
    sandbox = Sandbox(balance="100", spend_per_second="1")
    async with (
        sandbox_client(sandbox) as client,
        BalanceMonitor(client, interval=10, jitter=0) as monitor,
        browser(Starlette(routes=[Mount("/money", create_app(monitor))])) as http,
    ):
        assert (await http.get("/money", follow_redirects=True)).url.path == "/money/"
        requests = sandbox.requests
        await anyio.sleep(35)
        page = Reader((await http.get("/money/")).text)
        assert page.texts["summary"] == "Last 30 s: from 100.00 to 70.00"
    assert requests <= 1
    await anyio.lowlevel.checkpoint()
    assert [task for task in asyncio.all_tasks() if "dashboard" in task.get_name()] == []


def test_mounted_without_a_lifespan_on_trio() -> None:
    """I4: where no plain task can collect, the error says what to do; and that is enough."""

    async def ask() -> None:
        async with (
            sandbox_client(Sandbox()) as client,
            BalanceMonitor(client, interval=10) as monitor,
            browser(Starlette(routes=[Mount("/money", app := create_app(monitor))])) as http,
        ):
            with pytest.raises(RuntimeError, match=r"app\.router\.lifespan_context\(app\)"):
                await http.get("/money/")
            async with app.router.lifespan_context(app):
                assert (await http.get("/money/")).status_code == 200

    anyio.run(ask, backend="trio")


@anyio_test
@virtual_time
@on_asyncio
async def test_a_monitor_that_is_not_open() -> None:
    """I4: before the monitor is entered, and after it ended, the page answers; it begins anew."""
    async with sandbox_client(Sandbox()) as client:
        monitor = BalanceMonitor(client, interval=10)
        async with browser(create_app(monitor)) as http:
            early = Reader((await http.get("/")).text)
            await anyio.sleep(1)
            async with monitor:
                await http.get("/")
                await anyio.sleep(1)
                there = Reader((await http.get("/")).text)
            late = Reader((await http.get("/")).text)
            await anyio.sleep(1)
    assert [page.texts["current-balance"] for page in (early, there, late)] == [
        "–",
        "1250.75",
        "1250.75",
    ]
    assert [task for task in asyncio.all_tasks() if "dashboard" in task.get_name()] == []


@anyio_test
@virtual_time
async def test_a_refused_key_heals() -> None:
    """M7: a refused key is shown, and once it is good the page goes on without a restart."""
    key = "wrong"
    async with (
        sandbox_client(sandbox := Sandbox(), api_key=lambda: key) as client,
        BalanceMonitor(client, interval=10, jitter=0) as monitor,
        started(app := create_app(monitor)),
        browser(app) as http,
    ):
        await anyio.sleep(25)
        refused = Reader((await http.get("/")).text)
        assert sandbox.requests <= 3
        key = sandbox.api_key
        await anyio.sleep(20)
        healed = Reader((await http.get("/")).text)
    assert "Invalid API key" in refused.texts["banners"]
    assert healed.texts["state"].startswith("✓OK")
    assert healed.texts.get("banners", "") == ""


@anyio_test
@virtual_time
async def test_stream() -> None:
    """I4: a listener gets the view at once, on each reading, on a change of state, each 15 s."""
    views: list[tuple[float, dict[str, Any]]] = []
    began = 1.0
    late = Fault(503, delay=0.5)
    sandbox = Sandbox(balance="1000", spend_per_second="1", script=[Fault(), Fault(), late])
    gone = anyio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        body = message.get("body", b"").decode()
        if body.startswith("data: "):
            views.append((anyio.current_time(), json.loads(body.removeprefix("data: "))))

    async with (
        sandbox_client(sandbox, middleware=[]) as client,
        BalanceMonitor(client, interval=40, jitter=0) as monitor,
        started(app := create_app(monitor)),
        anyio.create_task_group() as group,
    ):
        await anyio.sleep(began)
        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "GET", "path": "/events", "headers": headers}
        group.start_soon(app, scope | {"query_string": b""}, receive, send)
        await anyio.sleep(100)
        gone.set()
    seen = [
        (round(at - began), round(told["age"]), text_of(told["parts"]["state"])[:3])
        for at, told in views
    ]
    good, bad = "✓OK", "!De"
    assert seen[:4] == [(0, 1, good), (15, 16, good), (30, 31, good), (39, 0, good)]
    assert seen[4:] == [(54, 15, good), (69, 30, good), (80, 41, bad), (95, 56, bad)]


PROGRAM = """
import asyncio, sys
import uvicorn
from decaptcha_async import BalanceMonitor
from decaptcha_async.dashboard import create_app
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

async def main():
    async with sandbox_client(Sandbox()) as client, BalanceMonitor(client, interval=60) as monitor:
        config = uvicorn.Config(create_app(monitor), port=0, log_config=None)
        await Server(config).serve()

try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
print("ended", flush=True)
"""


@pytest.mark.asyncio
async def test_sigterm_with_listeners() -> None:
    """I2: under uvicorn, with listeners attached, SIGTERM ends the program within 2 s."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    assert server.stdout is not None
    port = int(await server.stdout.readline())
    listeners = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    for reader, writer in listeners:
        writer.write(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200 OK" in await reader.readline()
        await reader.readuntil(b"data: ")
    loop = asyncio.get_running_loop()
    began = loop.time()
    server.send_signal(signal.SIGTERM)
    with anyio.fail_after(20):
        await server.wait()
    assert loop.time() - began < 2
    for _, writer in listeners:
        writer.close()
