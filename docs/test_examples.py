"""The programs in `examples/`, run as their reader would run them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from decaptcha_async.sandbox import Sandbox

EXAMPLES = Path(__file__).parent / "examples"

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def running(
    name: str, sandbox: Sandbox, *args: str, **environment: str
) -> AsyncGenerator[Process]:
    """The program ``name`` at work against ``sandbox``, which it polls five times a second."""
    async with asyncio.timeout(60), sandbox.serve() as base_url:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            EXAMPLES / name,
            *args,
            env=os.environ
            | {
                "BALANCE_INTERVAL": "0.2",
                "DECAPTCHA_API_KEY": sandbox.api_key,
                "DECAPTCHA_BASE_URL": base_url,
            }
            | environment,
            stdin=PIPE,
            stdout=PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            yield program
        finally:
            if program.returncode is None:
                program.kill()
            await program.communicate()


async def line(program: Process, part: str) -> str:
    """The next line of ``program`` with ``part`` in it; those before it are passed over."""
    assert program.stdout is not None
    seen: list[str] = []
    while got := (await program.stdout.readline()).decode():
        seen.append(got)
        if part in got:
            return got.rstrip("\n")
    pytest.fail(f"{part!r} never came: {seen}")


async def say(program: Process, text: str) -> None:
    """Type a line."""
    assert program.stdin is not None
    program.stdin.write(text.encode() + b"\n")
    await program.stdin.drain()


async def test_low_balance_says_so_and_ends_when_told() -> None:
    """Docs: the tutorial's program tells a low balance at once, and SIGTERM ends it with 0."""
    async with running("low_balance.py", Sandbox(balance="199.99")) as program:
        assert await line(program, "") == "low: 199.99"
        program.terminate()
        assert await program.wait() == 0


async def test_the_crawler_pauses_and_goes_on() -> None:
    """Docs: below the reserve no page is fetched; after a top-up all three workers go on."""
    sandbox = Sandbox(balance="19.99")
    async with running("crawler.py", sandbox) as program:
        for page in (1, 2, 3):
            assert await line(program, "") == f"paused before page {page}: 19.99"
        sandbox.top_up("100")
        for _ in range(3):
            assert await line(program, "") == "goes on: 119.99"
        program.terminate()
        assert await program.wait() == 0


async def test_the_crawler_ends_with_a_refused_key() -> None:
    """Docs: a refused key ends the crawler before it begins, with the reason last."""
    sandbox = Sandbox()
    async with running("crawler.py", sandbox) as program:
        sandbox.api_key = "another"
        assert "refused (401)" in await line(program, "AuthenticationError")
        assert await program.wait() == 1


async def test_the_bot_tells_alerts_and_answers() -> None:
    """Docs: the bot tells each level once, a top-up, and the balance when asked; it ends at EOF."""
    sandbox = Sandbox(balance="99.50")
    async with running("bot.py", sandbox) as program:
        assert await line(program, "") == "🔴 Balance 99.50 is below 500. Top up."
        assert await line(program, "") == "🔴 Balance 99.50 is below 100. Top up."
        await say(program, "/balance")
        assert await line(program, "") == "99.50 left"
        sandbox.top_up(1000)
        assert (await line(program, "")).startswith("🟢 Balance 1,099.50 is no longer below 500")
        assert (await line(program, "")).startswith("🟢 Balance 1,099.50 is no longer below 100")
        assert program.stdin is not None
        program.stdin.close()
        assert await program.wait() == 0


async def test_the_bot_ends_by_ctrl_c() -> None:
    """Docs: Ctrl-C ends the bot with 130 while it waits for a line."""
    async with running("bot.py", Sandbox(balance="99.50")) as program:
        await line(program, "🔴")
        program.send_signal(signal.SIGINT)
        assert await program.wait() == 130


async def test_the_service_warns_and_ends_cleanly() -> None:
    """Docs: the service logs a low balance as a warning, goes on, and SIGTERM ends it with 0."""
    async with running("service.py", Sandbox(balance="50")) as program:
        assert "WARNING decaptcha_async._monitor low: Balance 50.00 is below 100" in await line(
            program, "WARNING"
        )
        assert await line(program, "INFO") == "INFO service balance 50.00, ok"
        program.terminate()
        assert await line(program, "ended") == "INFO service ended"
        assert await program.wait() == 0


async def test_the_service_does_not_start_with_a_refused_key() -> None:
    """Docs: with a refused key the service says so and exits with 1."""
    sandbox = Sandbox()
    async with running("service.py", sandbox) as program:
        sandbox.api_key = "another"
        assert "the API key is refused" in await line(program, "cannot start")
        assert await program.wait() == 1


async def test_the_trio_program_waits_for_a_top_up() -> None:
    """Docs: the trio program tells what there is, and ends with 0 after a top-up."""
    sandbox = Sandbox(balance="3.20")
    async with running("trio_program.py", sandbox) as program:
        assert await line(program, "") == "3.20 now"
        sandbox.top_up(1000)
        assert await line(program, "") == "1003.20 will do"
        assert await program.wait() == 0


async def test_several_accounts_heal_apart(tmp_path: Path) -> None:
    """Docs: a bad key of one account leaves the other alone, and heals when its file does."""
    sandbox = Sandbox(balance="99")
    (tmp_path / "eu-1.key").write_text("sandbox\n")
    (tmp_path / "us-2.key").write_text("wrong\n")
    async with running("accounts.py", sandbox, str(tmp_path)) as program:
        assert await line(program, "low: ") == "low: eu-1: Balance 99.00 is below 100. Top up."
        assert "the API key is refused" in await line(program, "us-2  ")
        (tmp_path / "us-2.key").write_text("sandbox\n")
        assert await line(program, "us-2   ") == "us-2         99.00"
        (tmp_path / "us-2.key").unlink()
        assert "No such file" in await line(program, "us-2  ")
        program.send_signal(signal.SIGINT)
        assert await program.wait() == 130


async def answer(http: httpx.AsyncClient, path: str, part: str) -> httpx.Response:
    """The first answer with ``part`` in it."""
    while part not in (got := await http.get(path)).text:  # noqa: ASYNC110 - it is asked again
        await asyncio.sleep(0.1)
    return got


@pytest.mark.parametrize("name", ["fastapi_app.py", "aiohttp_app.py"])
async def test_the_web_apps_take_jobs_while_there_is_money(name: str) -> None:
    """Docs: jobs are refused below the reserve and taken after a top-up; SIGTERM ends it."""
    sandbox = Sandbox(balance="19.99")
    async with running(name, sandbox, "0", PYTHONUNBUFFERED="1") as program:
        url = re.search(r"http://[\d.:]+", await line(program, "unning on"))
        assert url is not None
        async with httpx.AsyncClient(base_url=url[0], trust_env=False) as http:
            refused = await http.post("/jobs")
            assert refused.status_code == 402
            assert "19.99 left, no jobs below 20.00" in refused.text
            sandbox.top_up(1000)
            await answer(http, "/balance", "1019.99")
            assert (await http.post("/jobs")).status_code == 202
            assert (await http.get("/balance/health")).json()["status"] == "ok"
            sandbox.api_key = "another"
            health = await answer(http, "/balance/health", '"failed"')
            assert health.status_code == 503
            assert "AuthenticationError" in health.text
            assert "the API key is refused" in (await http.post("/jobs")).text
        program.terminate()
        assert await program.wait() in {0, -signal.SIGTERM}
