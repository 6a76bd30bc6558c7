"""One key for the whole test run, and a witness that looks for it wherever a run can show it.

K2: log records of every library at DEBUG, exceptions with the locals of their frames, pickles,
reprs, warnings, task names, and what was printed, here and by other processes. A test run in which
the key was seen fails; so does a whole run in which nothing was looked at.

httpcore's DEBUG log shows the headers of answers, so a test whose server echoes the key *there* has
a key of its own.
"""

from __future__ import annotations

import base64
import functools
import itertools
import logging
import pickle
import subprocess
import sys
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import anyio
import pytest

from decaptcha_async import BalanceClient, BalanceReading

CANARY: Final = "CaNaRy-f2c81e5b-this-key-is-never-to-be-seen"
"""The key of every test that needs no particular one."""

TESTS: Final = Path(__file__).parent

EVERY_KIND: Final = (
    "exceptions",
    "locals",
    "log records",
    "outputs",
    "pickles",
    "reprs",
    "task names",
    "warnings",
)
"""What a whole run has to have looked at."""

DEEPEST: Final = 40
"""Frames of a traceback that are looked at, from the outermost: more than a call has."""


class Witness:
    """Looks for one key, in any letter case and inside base64.

    Attributes:
        looked: how many things it looked at, by kind.
        sightings: the kind of each thing that showed the key, and where it was.
    """

    # No __dict__, so that whoever shows the frames of the wrapper below does not show the key.
    __slots__ = ("_needles", "looked", "sightings")

    def __init__(self, key: str) -> None:
        self.looked: Counter[str] = Counter()
        self.sightings: Counter[str] = Counter()
        self._needles = {key.casefold(), *(coded.casefold() for coded in _in_base64(key))}

    def look(self, kind: str, shown: str, *, where: str = "") -> None:
        """Search a text."""
        self.looked[kind] += 1
        folded = shown.casefold()
        if any(needle in folded for needle in self._needles):
            self.sightings[f"{kind}: {where}" if where else kind] += 1

    def look_at_value(self, value: object) -> None:
        """Search what a value says of itself, and what it takes along to another process."""
        where = type(value).__qualname__
        self.look("reprs", f"{value!r} {value}", where=where)
        try:
            pickled = pickle.dumps(value)
        except Exception:  # noqa: BLE001 - an exception of anybody's, raised by anything inside
            return
        self.look("pickles", pickled.decode("latin-1"), where=where)

    def look_at_exception(self, error: BaseException) -> None:
        """Search an exception as an error reporter would, and all that hangs on it."""
        waiting: list[BaseException | None] = [error]
        seen: set[int] = set()
        while waiting:
            found = waiting.pop()
            if found is None or id(found) in seen:
                continue
            seen.add(id(found))
            shown = f"{found.args!r} {vars(found)!r}"
            self.look("exceptions", shown, where=type(found).__qualname__)
            self.look_at_value(found)
            self._look_at_frames(found)
            waiting += found.__cause__, found.__context__
            if isinstance(found, BaseExceptionGroup):
                waiting += cast("tuple[BaseException, ...]", found.exceptions)

    def look_at_record(self, record: logging.LogRecord) -> None:
        """Search a log record: message, arguments, extra fields and exception."""
        shown = f"{record.getMessage()} {vars(record)!r}"
        self.look("log records", shown, where=record.name)
        if record.exc_info and record.exc_info[1] is not None:
            self.look_at_exception(record.exc_info[1])

    def _look_at_frames(self, error: BaseException) -> None:
        # An error that a fake raises again and again has the frames of every time.
        for frame, line in itertools.islice(traceback.walk_tb(error.__traceback__), DEEPEST):
            # A test knows its own key, and so may its fakes.
            if frame.f_code.co_filename.startswith(str(TESTS)):
                continue
            for name, value in frame.f_locals.items():
                if _is_a_test(value.__class__.__module__):
                    continue
                where = f"{name} of {frame.f_code.co_qualname}, line {line}"
                self.look("locals", _inside_out(value), where=where)


class Ears(logging.Handler):
    """Hears every log record for a witness."""

    def __init__(self, witness: Witness) -> None:
        super().__init__(logging.NOTSET)
        self._witness = witness

    def emit(self, record: logging.LogRecord) -> None:
        """Search one record."""
        self._witness.look_at_record(record)


class Plugin:
    """Has a witness look on during a whole pytest run."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._ears = Ears(witness)
        self._patch = pytest.MonkeyPatch()
        self._ran: set[str] = set()

    def pytest_configure(self) -> None:
        """Begin to look."""
        logging.root.setLevel(logging.DEBUG)
        logging.root.addHandler(self._ears)
        look = self._witness.look
        self._after(pytest.ExceptionInfo, "fill_unfilled", self._expected)
        self._after(pytest.CaptureFixture, "readouterr", lambda _, out: look("outputs", str(out)))
        self._after(subprocess.Popen, "communicate", lambda _, out: look("outputs", str(out)))
        self._after(
            warnings.WarningMessage,
            "__init__",
            lambda warning, _: look("warnings", f"{warning} {warning.source!r}"),
        )
        self._patch.setattr(BalanceClient, "_call", self._witnessed(BalanceClient._call))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Search what a test printed."""
        self._ran.add(Path(report.location[0]).name)
        self._witness.look("outputs", f"{report.capstdout}{report.capstderr}", where=report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Stop looking; fail the run that showed the key, or the whole run that showed nothing."""
        self._patch.undo()
        logging.root.removeHandler(self._ears)
        if session.exitstatus == pytest.ExitCode.OK and (self._witness.sightings or self._blind()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was looked at, and where the key was seen."""
        looked = self._witness.looked
        kinds = ", ".join(f"{looked[kind]} {kind}" for kind in EVERY_KIND)
        seen = self._witness.sightings
        terminalreporter.write_line(f"canary key: {seen.total()} sightings in {kinds}")
        for where, times in seen.items():
            terminalreporter.write_line(f"canary key seen, {times} times: {where}", red=True)
        for kind in self._blind():
            terminalreporter.write_line(f"canary key: no {kind} were looked at", red=True)

    def _blind(self) -> list[str]:
        """The kinds that a run of every test file never looked at."""
        whole = {path.name for path in TESTS.glob("test_*.py")} <= self._ran
        return [kind for kind in EVERY_KIND if whole and not self._witness.looked[kind]]

    def _expected(self, caught: pytest.ExceptionInfo[BaseException], _: object) -> None:
        self._witness.look_at_exception(caught.value)

    def _after(self, owner: type, name: str, look: Callable[[Any, Any], None]) -> None:
        method = getattr(owner, name)

        @functools.wraps(method)
        def looking(instance: object, *args: Any, **kwargs: Any) -> Any:
            outcome = method(instance, *args, **kwargs)
            look(instance, outcome)
            return outcome

        self._patch.setattr(owner, name, looking)

    def _witnessed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        async def watched(client: BalanceClient, max_attempts: int | None) -> BalanceReading:
            self._witness.look("task names", anyio.get_current_task().name or "")
            self._witness.look_at_value(client)
            try:
                reading: BalanceReading = await method(client, max_attempts)
            except BaseException as error:
                self._witness.look_at_exception(error)
                raise
            self._witness.look_at_value(reading)
            return reading

        return watched


def _in_base64(key: str) -> Iterator[str]:
    """The key as it looks at each of the three places where base64 can meet it."""
    for before in range(3):
        whole = (len(key) + before) // 3 * 3
        coded = base64.b64encode((b" " * before + key.encode())[:whole]).decode()
        yield coded[4:] if before else coded


@functools.cache
def _is_a_test(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return str(file).startswith(str(TESTS))


def _inside_out(value: object) -> str:
    """What a debugger shows of a value: its repr, and its attributes'."""
    try:
        if isinstance(value, type | types.ModuleType):
            return repr(value)
        return f"{value!r} {getattr(value, '__dict__', None)!r}"
    except Exception:  # noqa: BLE001 - what is half made cannot always be shown
        return ""
