"""The command line: what is printed where, and the exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest
from anyio.from_thread import start_blocking_portal
from canary import CANARY

from decaptcha_async import _cli
from decaptcha_async.sandbox import Fault, Sandbox

COMMAND = [sys.executable, "-m", "decaptcha_async"]
GUARD = 60

TERMINAL = """
import os, pty, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
"""


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without a key, put back after what a command changes in it."""
    for name in ("DECAPTCHA_API_KEY", "DECAPTCHA_API_KEY_FILE", "DECAPTCHA_BASE_URL", "NO_COLOR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in process."""

    def run(*args: str) -> Outcome:
        code = _cli.run(args)
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return run


@contextmanager
def served(sandbox: Sandbox) -> Generator[str]:
    """The base URL of a sandbox that is served by another thread."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(sandbox.serve()) as base_url,
    ):
        yield base_url


def showing(*amounts: str) -> Sandbox:
    """A sandbox that shows these amounts, one after the other."""
    template = '{{"isSuccess": true, "statusCode": 200, "errorMessage": null, "data": "{}"}}'
    return Sandbox(
        api_key=CANARY, script=[Fault(body=template.format(amount)) for amount in amounts]
    )


def in_terminal(*args: str, until: bytes, typed: bytes = b"") -> tuple[int, bytes]:
    """Run the command in a terminal; when ``until`` was printed, type; the code and the screen."""
    with subprocess.Popen(
        [sys.executable, "-c", TERMINAL, *COMMAND, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm-256color"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        screen = b""
        while until not in screen:
            byte = process.stdout.read(1)
            assert byte, screen
            screen += byte
        rest, _ = process.communicate(typed, timeout=GUARD)
        return process.returncode, screen + rest


def test_balance(run: Run) -> None:
    """`balance` prints the amount, with the sandbox's note beside it, and nothing else."""
    assert run("balance", "--sandbox") == (0, "1,250.75\n", "Sandbox: an invented account.\n")


def test_balance_in_json(run: Run) -> None:
    """`--json` prints `to_dict()` on one line, amounts as exact strings, and no note."""
    code, out, err = run("balance", "--sandbox", "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    reading = json.loads(out)
    assert list(reading) == ["amount", "raw", "taken_at", "latency", "attempts", "source"]
    assert reading["amount"] == "1250.75"


@pytest.mark.parametrize(
    ("below", "code", "line"),
    [
        ("1250.75", 0, "1,250.75\n"),
        ("1,250.76", 3, "1,250.75   LOW: below 1,250.76\n"),
    ],
)
def test_balance_below(below: str, code: int, line: str, run: Run) -> None:
    """A balance under `--below` is called low, and the code is 3."""
    assert run("balance", "--sandbox", "--below", below)[:2] == (code, line)


def test_watch(run: Run) -> None:
    """`watch` prints time, amount and change: none at first, 0 for the same, signed else."""
    with served(showing("10.00", "10.00", "1234.5", "0.25")) as base_url:
        os.environ["DECAPTCHA_API_KEY"] = CANARY
        code, out, err = run("watch", "--base-url", base_url, "--interval", "0.05", "--count", "4")
    assert (code, err) == (0, "")
    times, lines = zip(*((line[:8], line[8:]) for line in out.splitlines()), strict=True)
    assert all(re.fullmatch(r"[0-2]\d:[0-5]\d:[0-5]\d", time) for time in times)
    assert lines == (
        "         10.00",
        "         10.00            0",
        "       1,234.5    +1,224.50",
        "          0.25    -1,234.25",
    )


def test_watch_changes_only(run: Run) -> None:
    """W8: with `--changes-only`, the first reading, then amounts that differ."""
    with served(showing("10.00", "10.00", "10.0", "9.00")) as base_url:
        os.environ["DECAPTCHA_API_KEY"] = CANARY
        args = "watch", "--json", "--changes-only", "--interval", "0.05", "--count", "2"
        code, out, _ = run(*args, "--base-url", base_url)
    assert code == 0
    assert [json.loads(line)["amount"] for line in out.splitlines()] == ["10.00", "9.00"]


def test_watch_until_low(run: Run) -> None:
    """`--until-low` ends the watch with 3 at the first low reading, which is marked."""
    args = "--below", "1250.70", "--until-low", "--interval", "0.05"
    code, out, err = run("watch", "--sandbox", *args)
    assert code == 3
    assert ["LOW: below 1,250.70" in line for line in out.splitlines()] == [False, True]
    assert err == "Sandbox: an invented account, spent as you watch. Ctrl-C ends.\n"


def test_watch_below(run: Run) -> None:
    """Without `--until-low`, low readings are marked and the watch goes on."""
    code, out, _ = run("watch", "--sandbox", "--below", "2000", "--count", "1")
    assert code == 0
    assert out.endswith("   LOW: below 2,000\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_watch_through_a_failure(as_json: bool, run: Run) -> None:  # noqa: FBT001
    """W5: a passing failure is one line on stderr, and the watch goes on."""
    script = [Fault(), Fault(302), Fault()]
    with served(Sandbox(api_key=CANARY, script=script)) as base_url:
        os.environ["DECAPTCHA_API_KEY"] = CANARY
        args = ["watch", "--base-url", base_url, "--interval", "0.05", "--count", "2"]
        code, out, err = run(*args, *["--json"] * as_json)
    assert code == 0
    assert out.count("\n") == 2
    assert err.count("\n") == 1
    if as_json:
        assert json.loads(err)["error"] == "InvalidResponseError"
    else:
        assert re.fullmatch(
            r"decaptcha-async: the answer is a redirect .+\. Next try in 0\.\d+ s\.\n", err
        )


@pytest.mark.parametrize(
    ("command", "fault", "code", "error", "advice"),
    [
        ("balance", Fault(401), 4, "AuthenticationError", "Check the key in DECAPTCHA_API_KEY,"),
        ("watch", Fault(403), 4, "AuthenticationError", "Check the key in DECAPTCHA_API_KEY,"),
        ("balance", Fault(404), 1, "APIError", "Check --base-url and the network."),
        ("watch", Fault(body="<html>"), 1, "InvalidResponseError", "Check --base-url and the"),
        ("balance", Fault(429, headers={"Retry-After": "99"}), 1, "RateLimitedError", "Try again"),
    ],
)
def test_failures(
    *, command: str, fault: Fault, code: int, error: str, advice: str, run: Run
) -> None:
    """An error is one line on stderr that says what to do, and the code tells its kind."""
    os.environ["DECAPTCHA_API_KEY"] = CANARY
    with served(Sandbox(api_key=CANARY, script=[fault, fault])) as base_url:
        for_people = run(command, "--base-url", base_url)
        for_programs = run(command, "--base-url", base_url, "--json")
    assert for_people[:2] == for_programs[:2] == (code, "")
    assert for_people.err.startswith("decaptcha-async: ")
    assert advice in for_people.err
    assert for_people.err.count("\n") == for_programs.err.count("\n") == 1
    printed = json.loads(for_programs.err)
    assert list(printed) == ["error", "message"]
    assert printed["error"] == error
    assert printed["message"] in for_people.err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["balance"], "no API key"),
        (["balance", "--base-url", "ftp://x"], "no API key"),
        (["balance", "--api-key-file", "/nowhere/key"], "cannot read the API key file"),
        (["balance", "--sandbox", "--below", "12,50"], "not an amount"),
        (["balance", "--sandbox", "--api-key-file", "x"], "--sandbox goes without --api-key-file"),
        (["balance", "--sandbox", "--base-url", "x"], "See decaptcha-async balance --help."),
        (["balance", "--api-key", "x"], "No such option"),
        (["watch", "--sandbox", "--until-low"], "--until-low needs --below AMOUNT"),
        (["watch", "--sandbox", "--interval", "0"], "--interval"),
        (["watch", "--sandbox", "--interval", "inf"], "interval must be a finite number"),
        (["watch", "--sandbox", "--count", "0"], "--count"),
        (["sandbox", "--balance", "-1"], "write money like '1250.75'"),
        (["sandbox", "--spend-per-second", "nan"], "See decaptcha-async sandbox --help."),
        (["dance"], "No such command"),
    ],
)
def test_misuse(args: list[str], told: str, run: Run) -> None:
    """Wrong usage and configuration are one line on stderr, and the code is 2."""
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert told in err
    assert err.startswith("decaptcha-async: ")
    assert err.count("\n") == 1


def test_misuse_in_json(run: Run) -> None:
    """With `--json`, wrong usage is told in JSON too."""
    code, out, err = run("watch", "--json", "--count", "x")
    assert (code, out) == (2, "")
    assert json.loads(err)["error"] == "BadParameter"


def test_no_command(run: Run) -> None:
    """Without a command the help is printed, on stderr, and the code is 2."""
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Exit codes: 0 good" in err


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_help(option: str, run: Run) -> None:
    """Help and version are printed on stdout, and the code is 0."""
    code, out, err = run(option)
    assert (code, err) == (0, "")
    assert out.startswith(("Usage: decaptcha-async ", "decaptcha-async "))


def test_api_key_file(tmp_path: Path, run: Run) -> None:
    """`--api-key-file` wins over the environment's key; the line's end is dropped."""
    file = tmp_path / "key"
    file.write_text(f"{CANARY}\n")
    os.environ["DECAPTCHA_API_KEY"] = "wrong"
    with served(Sandbox(api_key=CANARY)) as base_url:
        assert run("balance", "--base-url", base_url)[0] == 4
        assert run("balance", "--base-url", base_url, "--api-key-file", str(file))[0] == 0


@pytest.fixture
def interruptible() -> Generator[None]:
    """Ctrl-C interrupts, even where the suite was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupting(io.StringIO):
    """A screen at which someone presses Ctrl-C when a text appears."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.awaited = text

    def write(self, text: str, /) -> int:
        """Write, and be interrupted first where the text comes."""
        if self.awaited in text:
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


@pytest.mark.usefixtures("interruptible")
def test_sandbox(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`sandbox` serves until Ctrl-C, says what to export, and ends quietly with 130."""
    screen = Interrupting("DECAPTCHA_API_KEY")
    monkeypatch.setattr(sys, "stdout", screen)
    assert _cli.run(["sandbox"]) == 130
    exports = (
        r"  export DECAPTCHA_BASE_URL=http://127\.0\.0\.1:\d+\n  export DECAPTCHA_API_KEY=sandbox\n"
    )
    assert re.fullmatch(exports, screen.getvalue())
    assert capsys.readouterr().err.startswith("Sandbox: an invented account. Ctrl-C ends.")


class Terminal(io.StringIO):
    """A screen that is a terminal's."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.usefixtures("interruptible")
def test_interrupted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends as quietly while the arguments are read; a terminal gets a new line."""
    errors = Terminal()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, "stdout", Interrupting("DECAPTCHA_API_KEY"))
    assert _cli.run(["--help"]) == 130
    assert errors.getvalue().strip() == ""
    assert errors.getvalue().endswith("\n")


def test_sandbox_without_uvicorn(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """I1: without uvicorn, `sandbox` says which extra brings it, and the code is 2."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = run("sandbox")
    assert code == 2
    assert "pip install 'decaptcha-async[sandbox]'" in err


def test_sandbox_on_a_taken_port(run: Run) -> None:
    """A port that is taken is a failure, told in one line."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code, out, err = run("sandbox", "--port", str(listener.getsockname()[1]))
    assert (code, out) == (1, "")
    assert re.fullmatch(r"decaptcha-async: Address already in use.+ Choose another --port\.\n", err)


def test_reader_gone(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """When the reader of a pipe has gone, the watch ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        code, _, err = run("watch", "--sandbox", "--json", "--interval", "0.05")
    assert (code, err) == (0, "")


def test_process_prints_json_lines() -> None:
    """The issue's first light: five lines of JSON, exact amounts as strings, going down."""
    args = "watch", "--sandbox", "--interval", "0.2", "--count", "5", "--json"
    done = subprocess.run([*COMMAND, *args], capture_output=True, timeout=GUARD, check=True)
    amounts = [json.loads(line)["amount"] for line in done.stdout.splitlines()]
    assert amounts[0] == "1250.75"
    assert len(set(amounts)) == 5
    assert sorted(map(Decimal, amounts), reverse=True) == [Decimal(amount) for amount in amounts]
    assert done.stderr == b""


def test_process_with_nothing_listening() -> None:
    """With nothing listening `balance` fails within its deadline: code 1 and one line."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        environment = {**os.environ, "DECAPTCHA_API_KEY": CANARY, "DECAPTCHA_BASE_URL": base_url}
        done = subprocess.run(
            [*COMMAND, "balance"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=GUARD,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert "connection refused" in done.stderr
    assert done.stderr.endswith("Check --base-url and the network.\n")
    assert done.stderr.count("\n") == 1


def test_process_serves_until_terminated() -> None:
    """`sandbox` tells its URL at once, refuses a wrong key, and SIGTERM ends it quietly."""
    with subprocess.Popen(
        [*COMMAND, "sandbox"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        base_url = server.stdout.readline().partition("=")[2].strip()
        environment = {**os.environ, "DECAPTCHA_API_KEY": CANARY, "DECAPTCHA_BASE_URL": base_url}
        asked = subprocess.run(
            [*COMMAND, "balance"], env=environment, capture_output=True, timeout=GUARD, check=False
        )
        server.terminate()
        _, err = server.communicate(timeout=GUARD)
    assert (asked.returncode, asked.stdout, asked.stderr.count(b"\n")) == (4, b"", 1)
    assert server.returncode == -signal.SIGTERM
    assert err.count("\n") == 2


def test_terminal_interrupted() -> None:
    """In a terminal, Ctrl-C ends with 130 and a new line: no traceback, no word."""
    line_end = b"1,250.75\x1b[0m\r\n"
    code, screen = in_terminal("watch", "--sandbox", until=line_end, typed=b"\x03")
    assert code == 130
    assert screen.endswith(b"^C\r\n")
    assert screen.count(b"\r\n") == 3
    assert b"Traceback" not in screen
    assert b"Aborted" not in screen


def test_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours, unless NO_COLOR is set; a pipe gets none."""
    args = "balance", "--sandbox", "--below", "2000"
    code, screen = in_terminal(*args, until=b"LOW")
    assert code == 3
    assert b"\x1b[1;31m   LOW" in screen
    monkeypatch.setenv("NO_COLOR", "1")
    code, screen = in_terminal(*args, until=b"LOW")
    assert code == 3
    assert b"\x1b" not in screen
    piped = subprocess.run([*COMMAND, *args], capture_output=True, timeout=GUARD, check=False)
    assert piped.stdout == b"1,250.75   LOW: below 2,000\n"
