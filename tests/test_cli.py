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
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest
from canary import CANARY
from terminal import COMMAND, CTRL_C, GUARD, Terminal, served, showing
from webhook import refusing, webhook

from decaptcha_async import _cli, _delivery
from decaptcha_async.sandbox import Fault, Sandbox


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
    first, low, alert = out.splitlines()
    assert first.endswith("1,250.75")
    assert low.endswith("   LOW: below 1,250.70")
    assert alert.startswith("LOW: Balance 1,250.")
    assert err == "Sandbox: an invented account, spent as you watch. Ctrl-C ends.\n"


def test_watch_below(run: Run) -> None:
    """M1: low readings are marked; falling below is announced once, and so is recovering."""
    amounts = "1999.00", "1998.00", "2100.00", "2200.00"
    with served(showing(*amounts)) as base_url:
        os.environ["DECAPTCHA_API_KEY"] = CANARY
        args = "--base-url", base_url, "--interval", "0.05", "--below", "2000", "--count", "4"
        code, out, err = run("watch", *args)
    assert (code, err) == (0, "")
    assert [line[8:] if line[0].isdigit() else line for line in out.splitlines()] == [
        "      1,999.00   LOW: below 2,000",
        "LOW: Balance 1,999.00 is below 2,000. Top up.",
        "      1,998.00        -1.00   LOW: below 2,000",
        "      2,100.00      +102.00",
        "      2,200.00      +100.00",
        "RECOVERED: Balance 2,200.00 is no longer below 2,000, after 0 s.",
    ]


def test_watch_below_in_json(run: Run) -> None:
    """With `--json` an alert is an object on stderr."""
    args = "--sandbox", "--json", "--below", "2000", "--count", "1"
    code, out, err = run("watch", *args)
    assert (code, json.loads(out)["amount"]) == (0, "1250.75")
    message = "Balance 1,250.75 is below 2,000. Top up."
    assert json.loads(err) == {"alert": "low", "message": message}


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


class Tty(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.usefixtures("interruptible")
def test_interrupted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends as quietly while the arguments are read; a terminal gets a new line."""
    errors = Tty()
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


def test_watch_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets a live view that names the sandbox, or the API that is asked."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("DECAPTCHA_API_KEY", CANARY)
    with served(showing("10.00")) as base_url:
        for args, title in (
            (["--sandbox"], "Sandbox: an invented account"),
            (["--base-url", base_url], base_url),
        ):
            stdout, stderr = Tty(), io.StringIO()
            with redirect_stdout(stdout), redirect_stderr(stderr):
                assert _cli.run(["watch", *args, "--count", "1"]) == 0
            assert title in stdout.getvalue()
            assert stderr.getvalue() == ""


def test_colours() -> None:
    """A terminal gets colours, unless NO_COLOR is set; a pipe gets none."""
    args = "balance", "--sandbox", "--below", "2000"
    with Terminal(*args) as terminal:
        assert terminal.end() == 3
    assert b"\x1b[1;31m   LOW" in terminal.written
    with Terminal(*args, NO_COLOR="1") as terminal:
        assert terminal.end() == 3
    assert b"LOW" in terminal.written
    assert b"\x1b" not in terminal.written
    piped = subprocess.run([*COMMAND, *args], capture_output=True, timeout=GUARD, check=False)
    assert piped.stdout == b"1,250.75   LOW: below 2,000\n"


def test_notify(run: Run) -> None:
    """I5: with `--notify` alerts go to a URL, too; the watch ends when they have arrived."""
    with webhook() as hook:
        args = "--sandbox", "--below", "2000", "--until-low", "--notify", hook.url
        code, out, err = run("watch", *args)
    assert (code, err.count("\n")) == (3, 1)
    assert "LOW: Balance 1,250.75 is below 2,000. Top up.\n" in out
    assert [(note["title"], note["message"], note["type"]) for note in hook.sent] == [
        ("DeCaptcha balance low", "Balance 1,250.75 is below 2,000. Top up.", "warning")
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_notify_nobody(
    as_json: bool,  # noqa: FBT001
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """M4: an alert that reached nobody is one line on stderr; others have it all the same."""
    monkeypatch.setattr(_delivery, "_PAUSES", (0.01,) * 4)
    with refusing() as url, webhook() as hook:
        args = ["watch", "--sandbox", "--below", "2000", "--until-low"]
        args += ["--notify", url.replace("//", "//user:secret@"), "--notify", hook.url]
        code, _, err = run(*args, *["--json"] * as_json)
    assert code == 3
    assert len(hook.sent) == 1
    assert "secret" not in err
    message = (
        "could not deliver to AppriseNotifier (ConnectionError: Apprise could not reach JSON): "
        "Balance 1,250.75 is below 2,000. Top up."
    )
    last = err.splitlines()[-1]
    assert err.count("\n") == 2
    if as_json:
        assert json.loads(last) == {"error": "ConnectionError", "message": message}
    else:
        advice = "Check --notify and the network."
        assert last == f"decaptcha-async: {message} {advice}"


def test_notify_interrupted() -> None:
    """M4: Ctrl-C waits for alerts that are under way."""
    with webhook() as hook:
        hook.answers.clear()
        args = "--sandbox", "--below", "2000", "--interval", "99", "--notify", hook.url
        with Terminal("watch", *args) as terminal:
            terminal.until("LOW: Balance 1,250.75 is below 2,000.")
            terminal.type(CTRL_C)
            hook.answers.set()
            assert terminal.end() == 130
    assert len(hook.sent) == 1
    assert terminal.lines[-1].startswith("LOW:")


@pytest.mark.parametrize("url", ["nope://user:secret@example.com", "secret", "mailto://secret@"])
def test_notify_misused(url: str, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A URL that is none is told by its number, and shown nowhere; the code is 2."""
    args = "--sandbox", "--below", "1", "--notify", "json://127.0.0.1", "--notify", url
    code, out, err = run("watch", *args)
    assert (code, out) == (2, "")
    assert err == (
        "decaptcha-async: Invalid value for '--notify': URL number 2 is not one that Apprise knows."
        " See decaptcha-async watch --help.\n"
    )
    assert "secret" not in caplog.text


def test_notify_by_the_environment(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """I5: `DECAPTCHA_NOTIFY` holds URLs with spaces between them; nobody sees them in arguments."""
    with webhook() as one, webhook() as other:
        monkeypatch.setenv("DECAPTCHA_NOTIFY", f"{one.url} {other.url}")
        args = "--sandbox", "--below", "2000", "--until-low"
        assert run("watch", *args)[0] == 3
    assert len(one.sent) == len(other.sent) == 1


def test_notify_by_the_environment_is_no_order(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """I5: `DECAPTCHA_NOTIFY` is left alone by a command that has no threshold."""
    monkeypatch.setenv("DECAPTCHA_NOTIFY", "json://127.0.0.1:9/")
    assert run("watch", "--sandbox", "--count", "1")[0] == 0


def test_notify_with_a_label(run: Run) -> None:
    """I5: with `--label` the message begins with what people call the account."""
    with webhook() as hook:
        args = "--sandbox", "--below", "2000", "--until-low", "--label", "eu-1"
        assert run("watch", *args, "--notify", hook.url)[0] == 3
    assert hook.sent[0]["message"] == "eu-1: Balance 1,250.75 is below 2,000. Top up."


def test_notify_of_the_end(run: Run) -> None:
    """M3: a key that is refused later on ends the watch, and that is told, too."""
    script = [Fault(), Fault(401, times=9)]
    with webhook() as hook, served(Sandbox(api_key=CANARY, script=script)) as base_url:
        os.environ["DECAPTCHA_API_KEY"] = CANARY
        args = "--base-url", base_url, "--interval", "0.05", "--below", "1", "--notify", hook.url
        assert run("watch", *args)[0] == 4
    [note] = hook.sent
    assert note["title"] == "DeCaptcha balance unknown"
    assert "the API key is refused (401)" in note["message"]


def test_notify_without_a_threshold(run: Run) -> None:
    """Without `--below` there is nothing to notify of: the code is 2."""
    code, out, err = run("watch", "--sandbox", "--notify", "json://127.0.0.1")
    assert (code, out) == (2, "")
    assert "--notify needs --below AMOUNT" in err


def test_notify_without_apprise(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """I1: without apprise, `--notify` says which extra brings it, and the code is 2."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.delitem(sys.modules, "decaptcha_async.integrations.apprise", raising=False)
    code, out, err = run("watch", "--sandbox", "--below", "1", "--notify", "json://127.0.0.1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install 'decaptcha-async[apprise]'" in err
