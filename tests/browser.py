"""The dashboard as a person meets it: in headless Chromium (`nox -s browser`)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import uvicorn
from canary import CANARY
from playwright.async_api import Browser, Page, Request, Response, async_playwright, expect

from decaptcha_async import BalanceMonitor, LowBalance
from decaptcha_async.dashboard import create_app
from decaptcha_async.sandbox import Fault, Sandbox
from decaptcha_async.testing import sandbox_client

pytestmark = pytest.mark.asyncio

ALONE: Final = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",  # a container's root has none
]
SIZES: Final = [(360, 740), (1280, 800), (1920, 1080)]


@asynccontextmanager
async def chromium() -> AsyncGenerator[Browser]:
    """The browser that CHROMIUM names, or playwright's own."""
    async with async_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or None
        browser = await playwright.chromium.launch(executable_path=path, args=ALONE)
        yield browser
        await browser.close()


@attrs.define(eq=False)
class Witness:
    """What went over the wire for a page, and what the page complained of."""

    complaints: list[str] = attrs.field(factory=list[str])
    urls: list[str] = attrs.field(factory=list[str])
    responses: list[Response] = attrs.field(factory=list[Response])

    def look(self, page: Page) -> None:
        """Look at everything from now on."""
        page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.urls.append(request.url))
        # As it is, append() has no attributes, which playwright sets.
        page.on("response", lambda response: self.responses.append(response))  # noqa: PLW0108


@asynccontextmanager
async def opened(
    sandbox: Sandbox, label: str = "crawler", **context: Any
) -> AsyncGenerator[tuple[Page, Witness, str]]:
    """A page that shows an account, what is seen of it, and its address."""
    rules = [LowBalance(100)]
    async with (
        chromium() as browser,
        sandbox_client(sandbox, middleware=[]) as client,
        BalanceMonitor(client, interval=0.2, jitter=0, rules=rules, label=label) as monitor,
        served(monitor) as url,
        await browser.new_context(**context) as looks,
    ):
        page = await looks.new_page()
        witness = Witness()
        witness.look(page)
        await page.goto(url)
        yield page, witness, url


@asynccontextmanager
async def served(monitor: BalanceMonitor) -> AsyncGenerator[str]:
    """The dashboard on a free port of 127.0.0.1."""
    server = uvicorn.Server(uvicorn.Config(create_app(monitor), log_config=None))
    server.capture_signals = nullcontext  # type: ignore[assignment, method-assign]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        await serving


HEAR: Final = """{
    window.heard = [];
    const live = document.getElementById("spoken");
    new MutationObserver(() => heard.push(live.textContent)).observe(live, { childList: true });
}"""
BECOME: Final = """state => {
    Object.defineProperty(document, "hidden", { value: state === "hidden", configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
OUTSIDE: Final = """[...document.querySelectorAll("body *")].filter(element => {
    const { left, right, width } = element.getBoundingClientRect();
    const card = document.querySelector("figure").getBoundingClientRect();
    const room = element.closest("svg") ? card : { left: 0, right: innerWidth };
    return width > 0 && (left < room.left || right > room.right);
}).map(element => element.outerHTML)"""


def is_stream(request: Request) -> bool:
    """Whether it is the one for server-sent events."""
    return request.url.endswith("/events")


async def line(page: Page) -> str:
    """The line of the chart."""
    return await page.locator("#chart .line").get_attribute("d") or ""


async def test_the_banner_comes_and_goes_without_a_reload() -> None:
    """I4: the balance drains, the banner appears; after a top-up it leaves; the chart grows."""
    sandbox = Sandbox(balance="150", spend_per_second="10", api_key=CANARY)
    async with opened(sandbox) as (page, witness, url):
        await page.evaluate("window.notReloaded = true")
        await expect(page.locator("#current-balance")).to_have_text(re.compile(r"^1\d\d\.\d\d$"))
        await expect(page.locator(".alert.alert-danger")).to_have_count(0)
        before = await line(page)
        banner = page.locator("#banners + .container").locator("xpath=..").locator(".alert-danger")
        await expect(banner).to_contain_text("Below 100 since", timeout=15_000)
        assert await banner.get_attribute("role") == "alert"
        await expect(page).to_have_title(re.compile("^⚠ "))
        assert len(await line(page)) > len(before)
        sandbox.top_up("1000")
        await expect(banner).to_have_count(0)
        await expect(page.locator("#current-balance")).to_have_text(re.compile(r"^10\d\d\.\d\d$"))
        await expect(page.locator("#chart .top-up")).to_contain_text("+")
        await expect(page.locator("#alerts li")).to_have_count(2)
        assert await page.evaluate("window.notReloaded")
        bodies = [await page.content()]
        bodies += [
            await response.text()
            for response in witness.responses
            if not response.url.endswith("/events")  # which has no end; the page shows it
        ]
        assert len(bodies) >= 5
        assert CANARY not in "".join([*bodies, *witness.urls])
        assert [seen for seen in witness.urls if not seen.startswith(url)] == []
    assert witness.complaints == []


async def test_a_crossing_is_spoken_at_once() -> None:
    """I4: who listens hears of a crossing at once, and of a mere amount once a minute."""
    sandbox = Sandbox(balance="130", spend_per_second="10")
    async with opened(sandbox) as (page, _, _):
        spoken = page.locator("#spoken")
        await expect(spoken).to_have_text(re.compile(r"^Balance 1\d\d\.\d\d\. OK\.$"))
        await page.evaluate(HEAR)
        await expect(spoken).to_have_text(re.compile(r"Low: below 100\.$"), timeout=15_000)
        words = await page.locator(".alert-danger").inner_text()
        shown = await page.locator("#current-balance").inner_text()
        await expect(page.locator("#current-balance")).not_to_have_text(shown)
        assert await page.locator(".alert-danger").inner_text() == words
        sandbox.top_up("1000")
        await expect(spoken).to_have_text(re.compile(r"OK\.$"))
        await expect(spoken).to_have_text("", timeout=15_000)
        assert [len(each.split(". ")) for each in await page.evaluate("heard")] == [2, 2, 1]


async def test_a_hidden_page_gives_its_stream_back() -> None:
    """I4: a hidden page holds no connection, of which a browser has six; visible, it goes on."""
    async with opened(Sandbox(balance="1000", spend_per_second="5")) as (page, _, _):
        async with page.expect_event("requestfailed", is_stream):
            await page.evaluate(BECOME, "hidden")
        async with page.expect_event("request", is_stream):
            await page.evaluate(BECOME, "visible")


async def test_without_a_stream_it_asks() -> None:
    """I4: where server-sent events do not come through, the page asks now and then."""
    async with opened(Sandbox(spend_per_second="5")) as (page, _, url):
        await page.route("**/events", lambda route: route.abort())
        await page.goto(url)
        shown = await page.locator("#current-balance").inner_text()
        for _ in range(2):
            await expect(page.locator("#current-balance")).not_to_have_text(shown, timeout=10_000)
            shown = await page.locator("#current-balance").inner_text()


async def test_an_outage_is_told() -> None:
    """I4: what the service failed with is text on the page, whatever is in it."""
    hostile = '{"isSuccess": false, "statusCode": 503, "errorMessage": "<b id=x>", "data": null}'
    async with opened(Sandbox(script=[Fault(), Fault(503, hostile, times=99)])) as (page, seen, _):
        await expect(page.locator("#state")).to_contain_text("Degraded")
        await expect(page.locator("#state")).to_contain_text("<b id=x>")
        await expect(page.locator("#x")).to_have_count(0)
    assert seen.complaints == []


PROGRAM = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import uvicorn
from decaptcha_async import BalanceMonitor
from decaptcha_async.dashboard import create_app
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client

async def main(port, balance):
    async with sandbox_client(Sandbox(balance=balance)) as client:
        async with BalanceMonitor(client, interval=0.2) as monitor:
            config = uvicorn.Config(create_app(monitor), port=int(port), log_config=None)
            await uvicorn.Server(config).serve()

try:
    asyncio.run(main(*sys.argv[1:]))
except KeyboardInterrupt:
    pass
"""


async def test_a_restart_is_survived() -> None:
    """I4: the server ends within 2 s with a browser attached; started again, the page goes on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def start(balance: str) -> asyncio.subprocess.Process:
        program = (sys.executable, "-c", PROGRAM, str(port), balance)
        server = await asyncio.create_subprocess_exec(*program)
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return server

    server = await start("10.50")
    async with chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"http://localhost:{port}/")
        balance, connection = page.locator("#current-balance"), page.locator("#connection")
        await expect(balance).to_have_text("10.50")
        began = asyncio.get_running_loop().time()
        server.send_signal(signal.SIGTERM)
        await server.wait()
        assert asyncio.get_running_loop().time() - began < 2
        await expect(connection).to_contain_text("has lost its server", timeout=10_000)
        await expect(balance).to_have_text("10.50")
        server = await start("20.50")
        await expect(balance).to_have_text("20.50", timeout=20_000)
        await expect(connection).to_have_text("")
        server.send_signal(signal.SIGTERM)
        await server.wait()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_accessibility(width: int, height: int, scheme: str) -> None:
    """I4: axe-core finds nothing, banner included; nothing is wider than the window."""
    sandbox = Sandbox(balance="90.5", spend_per_second="0.5")
    looks: dict[str, Any] = {
        "viewport": {"width": width, "height": height},
        "color_scheme": scheme,
    }
    async with opened(sandbox, **looks) as (page, seen, _):
        await expect(page.locator(".alert-danger")).to_be_visible()
        await expect(page.locator("#alerts li.low")).to_be_visible()
        await page.get_by_text("Latest readings").click()
        await page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
        found = await page.evaluate("axe.run()")
        assert found["violations"] == []
        assert len(found["passes"]) > 20
        assert await page.evaluate("document.documentElement.scrollWidth") == width
    assert seen.complaints == []


@pytest.mark.parametrize("balance", ["123456.78", "1234567.89", "999999999999900.999999999"])
async def test_long_amounts_and_names_fit_a_phone(balance: str) -> None:
    """I4: at 360 pixels nothing is cut off, at 15 digits and a name of 80 unbroken letters."""
    sandbox = Sandbox(balance=balance, spend_per_second="0.000000001")
    size = {"width": 360, "height": 740}
    async with opened(sandbox, label="crawlers" * 10, viewport=size) as (page, _, _):
        await page.get_by_text("Latest readings").click()
        await expect(page.locator("#readings tr")).not_to_have_count(0)
        sandbox.top_up("12.25")
        await expect(page.locator("#chart .top-up")).not_to_have_count(0)
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        assert await page.evaluate(OUTSIDE) == []


async def test_keyboard() -> None:
    """I4: the readings behind the chart open by keyboard, and stay open while it is updated."""
    async with opened(Sandbox(spend_per_second="5")) as (page, _, _):
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        rows = page.locator("#readings tr")
        await expect(rows.first).to_be_visible()
        await expect(rows).to_have_count(10, timeout=10_000)
        await expect(rows.first).to_be_visible()


async def test_without_javascript() -> None:
    """I4: without JavaScript the page is complete, and refreshes itself."""
    async with opened(Sandbox(balance="50"), java_script_enabled=False) as (page, seen, url):
        await expect(page.locator("#current-balance")).to_have_text(re.compile("50.00|–"))
        await page.goto(url)
        await expect(page.locator("#current-balance")).to_have_text("50.00")
        await expect(page.locator(".alert-danger")).to_be_visible()
        assert await page.locator("meta[http-equiv=refresh]").get_attribute("content") == "30"
    assert [seen for seen in seen.urls if not seen.startswith(url)] == []


async def test_reduced_motion() -> None:
    """I4: where less motion is wanted, nothing moves or fades."""
    async with opened(Sandbox(), reduced_motion="reduce") as (page, _, _):
        moving = "[...document.querySelectorAll('*')].map(e => getComputedStyle(e)).filter(s => "
        moving += "s.transitionDuration !== '0s' || s.animationName !== 'none').length"
        assert await page.evaluate(moving) == 0
