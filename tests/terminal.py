"""A pseudo-terminal with a command in it, and what somebody who sits at it sees."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Self

import pyte
from anyio.from_thread import start_blocking_portal
from canary import CANARY

from decaptcha_async.sandbox import Fault, Sandbox

COMMAND: Final = [sys.executable, "-m", "decaptcha_async"]
GUARD: Final = 60
CTRL_C: Final = b"\x03"

# Ctrl-C reaches those whose controlling terminal it is typed at.
_LOG_IN: Final = """
import os, signal, sys
os.login_tty(0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A context manager that runs the command with these arguments until it ends, or is ended.

    Attributes:
        written: every byte that was written to it.
        screen: what it shows.
    """

    def __init__(self, *args: str, columns: int = 80, lines: int = 24, **environment: str) -> None:
        self.written = b""
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._keyboard, end = os.openpty()
        self.resize(columns, lines)
        without_size = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOG_IN, *COMMAND, *args],
            stdin=end,
            stdout=end,
            stderr=end,
            env={**without_size, "TERM": "xterm-256color", **environment},
        )
        os.close(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._keyboard)

    @property
    def lines(self) -> list[str]:
        """What it shows, without what is empty at the end of lines and below the last."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip().split("\n")

    def until(self, *texts: str) -> None:
        """Wait until one line after the other holds these texts, in this order."""
        deadline = time.monotonic() + GUARD
        while not _in_order(texts, self.lines):
            assert self._read(deadline), f"ended with {self.lines}"

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._keyboard, keys)

    def resize(self, columns: int, lines: int) -> None:
        """Make it larger or smaller."""
        self.screen.resize(lines, columns)
        fcntl.ioctl(self._keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def end(self) -> int:
        """Wait until the command has ended; its exit code."""
        deadline = time.monotonic() + GUARD
        while self._read(deadline):
            pass
        return self._process.wait(GUARD)

    def _read(self, deadline: float) -> bool:
        left = max(0.0, deadline - time.monotonic())
        assert select.select([self._keyboard], [], [], left)[0], f"still {self.lines}"
        try:
            more = os.read(self._keyboard, 4096)
        except OSError:  # Linux says so when the last writer has gone
            return False
        self.written += more
        self._stream.feed(more)
        return bool(more)


def _in_order(texts: tuple[str, ...], lines: list[str]) -> bool:
    left = iter(lines)
    return all(any(text in line for line in left) for text in texts)


@contextmanager
def served(sandbox: Sandbox) -> Generator[str]:
    """The base URL of a sandbox that is served by another thread."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(sandbox.serve()) as base_url,
    ):
        yield base_url


def showing(*amounts: str, then: tuple[Fault, ...] = ()) -> Sandbox:
    """A sandbox that shows these amounts, one after the other, and ``then`` fails so."""
    template = '{{"isSuccess": true, "statusCode": 200, "errorMessage": null, "data": "{}"}}'
    script = [Fault(body=template.format(amount)) for amount in amounts]
    return Sandbox(api_key=CANARY, script=[*script, *then])
