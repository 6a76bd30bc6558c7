"""The witness of the canary key: it sees each kind of leak, and the real paths show it nothing."""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anyio
import attrs
import pytest
import wire
from canary import CANARY, TESTS, Ears, Plugin, Witness

from decaptcha_async import BalanceClient, DecaptchaError, Timeout

PLANTED = "PlAnTeD-5d0e7a31-key"
"""A key that leaks here on purpose."""

logger = logging.getLogger("planted")


@pytest.fixture
def witness() -> Witness:
    """A witness that looks for the planted key."""
    return Witness(PLANTED)


# --- a leak of each kind


@pytest.mark.parametrize(
    "shown",
    [
        PLANTED,
        f"x-api-key: {PLANTED}",
        PLANTED.upper(),
        PLANTED.lower(),
        repr(PLANTED.encode()),
        *(base64.b64encode(f"{user}:{PLANTED}!".encode()).decode() for user in ("a", "ab", "abc")),
    ],
)
def test_a_key_in_a_text_is_seen(shown: str, witness: Witness) -> None:
    """K2: the key is seen alone or among others, in any letter case, and inside base64."""
    witness.look("outputs", shown)
    assert witness.sightings == {"outputs": 1}


def test_other_texts_are_only_counted(witness: Witness) -> None:
    """K2: what does not show the key counts as looked at."""
    witness.look("outputs", PLANTED[:-1])
    witness.look("outputs", base64.b64encode(b"another").decode())
    assert (witness.looked, witness.sightings) == ({"outputs": 2}, {})


def log_message() -> None:
    """Log the key in the message."""
    logger.debug(f"sent {PLANTED}")  # noqa: G004


def log_argument() -> None:
    """Log the key as an argument that the message shows cut."""
    logger.debug("sent %.3s", PLANTED)


def log_extra() -> None:
    """Log the key as an extra field."""
    logger.debug("sent", extra={"key": PLANTED})


def log_traceback() -> None:
    """Log an exception that has the key."""
    try:
        raise ValueError(PLANTED)  # noqa: TRY301 - the leak
    except ValueError:
        logger.exception("not sent")


@pytest.mark.parametrize("leak", [log_message, log_argument, log_extra, log_traceback])
def test_a_key_in_a_log_is_seen(leak: Callable[[], None], witness: Witness) -> None:
    """K2: message, arguments, extra fields and exception of a log record are searched."""
    ears = Ears(witness)
    logger.addHandler(ears)
    try:
        leak()
    finally:
        logger.removeHandler(ears)
    assert witness.looked["log records"] == 1
    assert witness.sightings


class Keeper:
    """Holds the key and does not show it, but takes it along."""

    def __init__(self) -> None:
        self.key = PLANTED

    def __repr__(self) -> str:
        return "<Keeper>"


@attrs.frozen
class Shower:
    """Shows what it holds."""

    key: str = PLANTED


def test_a_key_in_a_repr_is_seen(witness: Witness) -> None:
    """K2: reprs are searched."""
    witness.look_at_value(Shower())
    assert witness.sightings["reprs: Shower"] == 1


def test_a_key_in_a_pickle_is_seen(witness: Witness) -> None:
    """K2: pickles are searched, also of what shows nothing; what cannot be pickled has none."""
    witness.look_at_value(Keeper())
    witness.look_at_value(lambda: PLANTED)
    assert witness.sightings == {"pickles: Keeper": 1}
    assert witness.looked == {"reprs": 2, "pickles": 1}


def message() -> BaseException:
    """An exception whose message has the key."""
    return ValueError(f"bad key {PLANTED}")


def argument() -> BaseException:
    """An exception with the key among its arguments, which its message does not show."""
    return OSError(13, "denied", PLANTED)


def attribute() -> BaseException:
    """An exception with the key as an attribute."""
    error = ValueError()
    error.__dict__["key"] = PLANTED
    return error


def note() -> BaseException:
    """An exception with a note."""
    error = ValueError()
    error.add_note(PLANTED)
    return error


def cause() -> BaseException:
    """An exception that the key's came before."""
    error = ValueError()
    error.__cause__ = message()
    return error


def context() -> BaseException:
    """An exception raised while the key's was handled."""
    error = ValueError()
    error.__context__ = message()
    return error


def member() -> BaseException:
    """A group of groups with the key's exception inside."""
    return ExceptionGroup("", [ExceptionGroup("", [ValueError(PLANTED)])])


def circle() -> BaseException:
    """Two exceptions that are each other's cause."""
    error = cause()
    assert error.__cause__ is not None
    error.__cause__.__cause__ = error
    return error


@pytest.mark.parametrize(
    "leak", [message, argument, attribute, note, cause, context, member, circle]
)
def test_a_key_in_an_exception_is_seen(leak: Callable[[], BaseException], witness: Witness) -> None:
    """K2: all that hangs on an exception is searched, once."""
    witness.look_at_exception(leak())
    assert witness.sightings


def keeping(key: str) -> threading.Thread:
    """A thing of another library that shows nothing of what it keeps."""
    return threading.Thread(args=(key,))


@pytest.mark.parametrize("value", [PLANTED, [PLANTED], keeping(PLANTED)])
def test_a_key_in_a_frame_is_seen(value: object, witness: Witness) -> None:
    """K2: locals of frames are searched, inside and out, except those of the tests themselves."""
    frame: dict[str, Callable[[object], None]] = {}
    exec("def send(key): raise ValueError", frame)  # noqa: S102 - code outside the tests' folder
    with pytest.raises(ValueError, match=r"^$") as caught:
        frame["send"](value)
    witness.look_at_exception(caught.value)
    assert witness.sightings == {"locals: key of send, line 1": 1}


# --- what really happens


def denied(key: str) -> bytes:
    """A refusal that echoes the key."""
    return b'{"isSuccess":false,"statusCode":401,"errorMessage":"no %b","data":null}' % key.encode()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("key", "reply"),
    [
        (CANARY, wire.answer(denied(CANARY.upper()))),
        (PLANTED, wire.answer(denied(PLANTED), f"Content-Type: text/{PLANTED}")),
        (CANARY, wire.Reply(wire.head("Content-Length: 999") + denied(CANARY), "close")),
        (CANARY, wire.Reply(wire.head("Content-Length: 999") + denied(CANARY), "hold")),
    ],
    ids=["body", "content-type", "cut", "stalled"],
)
async def test_an_echo_is_not_seen(key: str, reply: wire.Reply) -> None:
    """K2, B2: what the server echoes in a body or its type is in no error and no frame of one."""
    witness = Witness(key)
    async with (
        wire.serve(reply) as server,
        BalanceClient(key, base_url=server.base_url, middleware=[Timeout(0.5)]) as client,
    ):
        with pytest.raises(DecaptchaError) as caught:
            await client.get_balance()
    witness.look_at_exception(caught.value)
    assert witness.looked["locals"] > 0
    assert witness.sightings == {}


@pytest.mark.anyio
@pytest.mark.parametrize("reply", [wire.SILENT, wire.STALLED], ids=["silent", "stalled"])
async def test_a_cancellation_is_not_seen(reply: wire.Reply, witness: Witness) -> None:
    """K2: a cancellation in the middle of an exchange takes no frame along that has the key."""
    async with (
        wire.serve(reply) as server,
        BalanceClient(PLANTED, base_url=server.base_url, middleware=[]) as client,
        anyio.create_task_group() as tasks,
    ):

        async def ask() -> None:
            try:
                await client.get_balance()
            except BaseException as error:
                witness.look_at_exception(error)
                raise

        tasks.start_soon(ask)
        await server.asked(1)
        tasks.cancel_scope.cancel()
    assert witness.looked["locals"] > 0
    assert witness.sightings == {}


# --- the plugin, in a run of its own


PROGRAM = f"""
import asyncio, logging, subprocess, warnings
import httpx, pytest
from decaptcha_async import BalanceClient
from canary import CANARY

GOOD = {wire.GOOD!r}

class Client(BalanceClient):
    leak = ""
    def __init__(self):
        answer = httpx.MockTransport(lambda _: httpx.Response(200, content=GOOD))
        super().__init__("k", http_client=httpx.AsyncClient(transport=answer))
    def __repr__(self):
        return self.leak

class Leaking(Client):
    leak = CANARY

async def ask(client, name):
    await asyncio.create_task(client.get_balance(), name=name)
"""
LEAKS = {
    "exceptions: ValueError": "with pytest.raises(ValueError): raise ValueError(CANARY)",
    "log records: any": "logging.getLogger('any').debug(CANARY)",
    "outputs: test_leaks.py::test_": "print(CANARY)",
    "outputs": "print(CANARY); capfd.readouterr()",
    "outputs ": "subprocess.run(['echo', CANARY], check=True, capture_output=True)",
    "warnings": "with pytest.warns(UserWarning): warnings.warn(CANARY)",
    "reprs: Leaking": "asyncio.run(ask(Leaking(), 'a name'))",
    "task names": "asyncio.run(ask(Client(), CANARY))",
}


def run_of(folder: Path, *bodies: str) -> tuple[int, list[str]]:
    """Run tests with these bodies under the house's conftest: the exit status and the lines."""
    tests = [f"def test_{n}(capfd):\n    {body}\n" for n, body in enumerate(bodies)]
    (folder / "test_leaks.py").write_text("\n".join([PROGRAM, *tests]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "test_leaks.py"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_a_run_that_shows_the_key_fails(tmp_path: Path) -> None:
    """K2: what passing tests showed fails the run, which names each kind before its last line."""
    status, lines = run_of(tmp_path, *LEAKS.values())
    assert lines[-1].startswith(f"{len(LEAKS)} passed in ")
    assert status == pytest.ExitCode.TESTS_FAILED
    said = "\n".join(lines[:-1])
    for kind in LEAKS:
        assert f": {kind.strip()}" in said
    assert "canary key seen, 2 times: outputs\n" in said


def test_a_run_that_shows_nothing_passes(tmp_path: Path) -> None:
    """K2: without a sighting a run is left alone, even a part of the suite that shows little."""
    status, lines = run_of(tmp_path, "pass")
    assert status == pytest.ExitCode.OK
    assert lines[-2].startswith("canary key: 0 sightings in 0 exceptions, ")


def test_a_whole_run_that_looked_at_nothing_fails() -> None:
    """K2: when every test file ran and nothing was looked at, the run fails."""
    session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    plugin = Plugin(Witness(PLANTED))
    plugin.pytest_sessionfinish(cast("pytest.Session", session))
    assert session.exitstatus == pytest.ExitCode.OK
    for path in TESTS.glob("test_*.py"):
        place = (str(path), 1, "test")
        report = pytest.TestReport("test", place, {}, "passed", None, "call")
        plugin.pytest_runtest_logreport(report)
    plugin.pytest_sessionfinish(cast("pytest.Session", session))
    assert session.exitstatus == pytest.ExitCode.TESTS_FAILED
