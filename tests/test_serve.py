"""The dashboard as a server of its own: signals, browsers attached, the invented account."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from decimal import Decimal
from functools import partial

import anyio
import httpx
import pytest
from sse_starlette.sse import AppStatus

from decaptcha_async import BalanceMonitor, LowBalance, _cli, _serve
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client

COMMAND = [sys.executable, "-m", "decaptcha_async", "dashboard"]
GUARD = 60

# In real time: uvicorn needs asyncio, and the browsers here are real.
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture(autouse=True)
def status() -> Generator[None]:
    """What sse-starlette remembers of a server's end is of this process, not of one test."""
    yield
    AppStatus.should_exit = False


def visit_then(number: int, url: str, seen: list[str]) -> None:
    """Look at the page, stay attached to its events, and send this process a signal."""
    seen.append(httpx.get(url, trust_env=False).text)
    with httpx.stream("GET", f"{url}events", trust_env=False, timeout=GUARD) as events:
        pieces = events.iter_text()
        seen.append(next(pieces))
        os.kill(os.getpid(), number)
        with contextlib.suppress(httpx.RemoteProtocolError):  # it is cut off where it stands
            for _ in pieces:
                pass


def visiting(number: int, seen: list[str]) -> Callable[[str], None]:
    """An announcement that a visitor hears, in a thread of its own."""

    def announce(url: str) -> None:
        threading.Thread(target=visit_then, args=(number, url, seen)).start()

    return announce


@pytest.mark.anyio
@on_asyncio
@pytest.mark.parametrize(
    ("number", "interrupted"), [(signal.SIGTERM, False), (signal.SIGINT, True)]
)
async def test_a_signal_ends_it_with_a_browser_attached(
    number: int,
    interrupted: bool,  # noqa: FBT001
) -> None:
    """I4: the page is served; a signal ends server and stream, and Ctrl-C is told from the rest."""
    before = signal.getsignal(number)
    seen: list[str] = []
    with anyio.fail_after(GUARD):
        async with sandbox_client(Sandbox(balance="42.50")) as client, BalanceMonitor(client) as it:
            assert await _serve.serve(it, 0, visiting(number, seen)) is interrupted
    assert "current-balance" in seen[0]
    assert seen[1].startswith("data: ")
    assert signal.getsignal(number) == before


@pytest.mark.anyio
@on_asyncio
async def test_a_port_that_is_taken() -> None:
    """I4: a port that is taken is an OSError, and nothing is announced."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monitor = BalanceMonitor(sandbox_client(Sandbox()))
        with pytest.raises(OSError, match="in use"):
            await _serve.serve(monitor, taken.getsockname()[1], pytest.fail)


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("below", ["100", "0"])
async def test_the_invented_account_runs_low_and_is_topped_up(below: str) -> None:
    """API: with `--sandbox` the balance crosses the threshold within seconds, and recovers."""
    account = _serve.invented_account(Decimal(below))
    seen: list[tuple[str, float]] = []
    async with (
        sandbox_client(account) as client,
        BalanceMonitor(client, interval=1, jitter=0, rules=[LowBalance(below or "0")]) as monitor,
        anyio.create_task_group() as group,
        monitor.alerts() as alerts,
    ):
        owner = partial(_serve.top_up_after_alarms, account, monitor, Decimal(below))
        group.start_soon(owner)
        with anyio.move_on_after(30):
            async for alert in alerts:
                seen += [(alert.kind, anyio.current_time())]
        group.cancel_scope.cancel()
    if below == "100":
        (low, at), (recovered, then) = seen
        assert (low, recovered) == ("low", "recovered")
        assert then - at == pytest.approx(10, abs=2)
    else:
        assert seen == []  # nothing is below nothing


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """API: `dashboard --sandbox` says what it is and where, and SIGTERM ends it with 0."""
    seen: list[str] = []
    announce = _cli._announce

    def announced(url: str) -> None:
        announce(url)
        visiting(signal.SIGTERM, seen)(url)

    monkeypatch.setattr(_cli, "_announce", announced)
    assert _cli.run(["dashboard", "--sandbox", "--port", "0"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Dashboard: http://127.0.0.1:")
    assert printed.err == "Sandbox: an invented account. It runs low, and is topped up.\n"
    assert "threshold 100" in seen[0]


def test_the_command_against_an_api(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """API: without --below there is no threshold; an API that is silent ends nothing."""
    seen: list[str] = []
    monkeypatch.setenv("DECAPTCHA_API_KEY", "canary-stand-in")
    monkeypatch.setattr(_cli, "_announce", visiting(signal.SIGINT, seen))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert _cli.run(["dashboard", "--base-url", base_url, "--port", "0"]) == 130
    assert "threshold" not in seen[0]
    assert "canary-stand-in" not in "".join(seen)
    assert capsys.readouterr().out == ""


def test_notify_needs_below(capsys: pytest.CaptureFixture[str]) -> None:
    """API: `--notify` without `--below` has nothing to tell: usage, 2."""
    args = ["dashboard", "--notify", "json://127.0.0.1:9/", "--port", "0"]
    os.environ["DECAPTCHA_API_KEY"] = "stand-in"
    try:
        assert _cli.run(args) == 2
    finally:
        del os.environ["DECAPTCHA_API_KEY"]
    assert "--notify needs --below AMOUNT" in capsys.readouterr().err


def test_ctrl_c_is_quiet() -> None:
    """API: Ctrl-C ends the command with 130, and not a word more on stderr."""
    with subprocess.Popen(
        [*COMMAND, "--sandbox", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"Dashboard: http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=GUARD)
    assert process.returncode == 130
    assert err == b"Sandbox: an invented account. It runs low, and is topped up.\n"
