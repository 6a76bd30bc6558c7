"""The programs in `examples/`, run as their reader would run them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from decaptcha_async.sandbox import Sandbox

EXAMPLES = Path(__file__).parent / "examples"


@pytest.mark.asyncio
async def test_low_balance_says_so_and_ends_when_told() -> None:
    """Docs: the tutorial's program tells a low balance at once, and SIGTERM ends it with 0."""
    async with asyncio.timeout(60), Sandbox(balance="199.99").serve() as base_url:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            EXAMPLES / "low_balance.py",
            env=os.environ | {"DECAPTCHA_BASE_URL": base_url, "DECAPTCHA_API_KEY": "sandbox"},
            stdout=asyncio.subprocess.PIPE,
        )
        assert program.stdout is not None  # noqa: S101
        assert await program.stdout.readline() == b"low: 199.99\n"  # noqa: S101
        program.terminate()
        assert await program.wait() == 0  # noqa: S101
