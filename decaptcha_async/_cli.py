"""The command line: click reads the arguments, and the job they ask for is run here.

Exit codes: 0 good, 1 failed, 2 usage or configuration, 3 low, 4 key refused, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import aclosing, contextmanager
from decimal import Decimal
from functools import partial
from typing import Final

import anyio
import click
from rich.text import Text

import decaptcha_async
from decaptcha_async import (
    Alert,
    BalanceMonitor,
    DecaptchaError,
    LowBalance,
    Notifier,
    PollFailed,
    errors,
)
from decaptcha_async._alarm import Alarm
from decaptcha_async._background import Background
from decaptcha_async._delivery import Delivery
from decaptcha_async._options import NAME, Job, Session, as_json, asks, delivering, interval, notify
from decaptcha_async._screen import (
    complain,
    echo,
    low_mark,
)
from decaptcha_async._settings import BASE_URL_VARIABLE, KEY_FILE_VARIABLE, KEY_VARIABLE
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client

_STALE_AFTER: Final = 600.0
FAILED, MISUSED, LOW, REFUSED, INTERRUPTED = 1, 2, 3, 4, 130

_KEY: Final = f"{KEY_VARIABLE}, {KEY_FILE_VARIABLE} or --api-key-file"
_EPILOG: Final = f"""
\b
The key comes from {KEY_VARIABLE}, or from the file that
{KEY_FILE_VARIABLE} or --api-key-file names. With --sandbox none is needed.

\b
Exit codes: 0 good, 1 failed, 2 usage or configuration, 3 low (--below),
4 key refused, 130 interrupted.
"""


def run(args: Sequence[str]) -> int:
    """Do what ``args`` ask for; the exit code."""
    as_json = "--json" in args
    try:
        job: Job | int = command.main(args, NAME, standalone_mode=False)
        if isinstance(job, int):
            return job
        with _undelivered_told(as_json=as_json):
            return anyio.run(job) or 0
    except (KeyboardInterrupt, click.Abort):
        if sys.stderr.isatty():
            click.echo(err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough. Python would flush once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return MISUSED
    except (click.ClickException, DecaptchaError, ImportError, OSError) as error:
        code, advice = _judge(error)
        complain(NAME, error, advice, as_json=as_json)
        return code


def _judge(error: Exception) -> tuple[int, str]:
    """The exit code for an error, and what can be done about it."""
    match error:
        case click.UsageError(ctx=click.Context(command_path=path)):
            return MISUSED, f"See {path} --help"
        case errors.ConfigurationError():
            return MISUSED, f"See {NAME} --help; --sandbox needs neither key nor URL"
        case ImportError() | click.ClickException():
            return MISUSED, f"See {NAME} --help"
        case errors.AuthenticationError():
            return REFUSED, f"Check the key in {_KEY}"
        case (
            errors.InvalidResponseError()
            | errors.TransportError()
            | errors.APIError(retryable=False)
        ):
            return FAILED, "Check --base-url and the network"
        case OSError(errno=errno.EADDRINUSE | errno.EACCES):
            return FAILED, "Choose another --port"
        case _:
            return FAILED, "Try again later"


@contextmanager
def _undelivered_told(*, as_json: bool) -> Generator[None]:
    """Tell of alerts that reached nobody, which the library logs: a line each, and no other."""
    told, untold = _Told(as_json=as_json), logging.NullHandler()
    delivery, apprise = logging.getLogger(Delivery.__module__), logging.getLogger("apprise")
    delivery.addHandler(told)
    apprise.addHandler(untold)
    try:
        yield
    finally:
        delivery.removeHandler(told)
        apprise.removeHandler(untold)


class _Told(logging.Handler):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__(logging.ERROR)
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        error = ConnectionError(record.getMessage())
        complain(NAME, error, "Check --notify and the network", as_json=self._as_json)


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(decaptcha_async.__version__, message="%(prog)s %(version)s")
def command() -> None:
    """The balance of a DeCaptcha account, exact and watched."""


@command.command(epilog=_EPILOG)
@asks
@as_json
async def balance(session: Session) -> int:
    """Show the balance, once."""
    session.note("an invented account.")
    async with session.client as client:
        reading = await client.get_balance()
    if session.as_json:
        click.echo(json.dumps(reading.to_dict()))
    else:
        amount = Text(f"{reading.amount:,f}", "bold")
        echo(amount.append(*low_mark(reading.amount, session.below)))
    return LOW if session.is_low(reading) else 0


@command.command(epilog=_EPILOG)
@asks
@as_json
@interval
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N readings.")
@click.option("--until-low", is_flag=True, help="End at the first reading --below.")
@click.option("--changes-only", is_flag=True, help="Show a reading only if the amount differs.")
@notify
async def watch(
    session: Session,
    *,
    interval: float | None,
    count: int | None,
    until_low: bool,
    changes_only: bool,
    notifiers: list[Notifier],
) -> int:
    """Show the balance again and again: time, amount, change.

    A terminal shows a live view. Passing failures are told, and it goes on. With --below, falling
    below the amount is announced once, and so is recovering from it.
    """
    for option, given in (("--until-low", until_low), ("--notify", notifiers)):
        if given and session.below is None:
            message = f"{option} needs --below AMOUNT"
            raise click.UsageError(message)
    usual, jitter = (1.0, 0.0) if session.sandbox else (60.0, 0.05)
    every = interval or usual
    readings = session.client.watch(
        every,
        jitter=jitter,
        changes_only=changes_only,
        on_error="yield",
    )
    alarm = Alarm(session.below, max(_STALE_AFTER, 10 * every), session.label)
    shown = 0
    async with session.client, delivering(notifiers) as delivery, aclosing(readings):
        with session.screen() as screen:

            def tell(alerts: Iterable[Alert]) -> None:
                for alert in alerts:
                    screen.tell(alert)
                    delivery.send(alert)

            try:
                while shown != count:
                    outcome = await anext(readings)
                    if isinstance(outcome, PollFailed):
                        screen.fail(outcome)
                        tell(alarm.failed(outcome.error))
                        continue
                    screen.show(outcome)
                    tell(alarm.learned(outcome))
                    if until_low and session.is_low(outcome):
                        return LOW
                    shown += 1
            except DecaptchaError as error:
                tell(alarm.failed(error, at_once=True))
                raise
    return 0


@command.command(epilog=_EPILOG)
@asks
@interval
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@notify
async def dashboard(
    session: Session, *, interval: float | None, port: int, notifiers: list[Notifier]
) -> int:
    """Serve a page with the balance on 127.0.0.1, to leave open.

    With --below it has a line at the amount, and a banner while the balance is under it.
    """
    from decaptcha_async import _serve  # noqa: PLC0415

    below, client, invented = session.below, session.client, None
    every = interval or (1.0 if session.sandbox else 60.0)
    if session.sandbox:
        below = Decimal(100) if below is None else below
        invented = _serve.invented_account(below)
        client = sandbox_client(invented)
    if notifiers and below is None:
        message = "--notify needs --below AMOUNT"
        raise click.UsageError(message)
    monitor = BalanceMonitor(
        client,
        interval=every,
        rules=[] if below is None else [LowBalance(below)],
        stale_after=max(_STALE_AFTER, 10 * every),
        notify=notifiers,
        label=session.label,
    )
    session.note("an invented account. It runs low, and is topped up.")
    async with client, monitor, Background() as background:
        if invented is not None and below is not None:
            owner = partial(_serve.top_up_after_alarms, invented, monitor, below)
            background.start(owner, "sandbox top-up")
        interrupted = await _serve.serve(monitor, port, _announce)
    return INTERRUPTED if interrupted else 0


def _announce(url: str) -> None:
    click.echo(f"Dashboard: {url}   Ctrl-C ends.")


@command.command()
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Default: any free one.")
@click.option("--balance", default="1250.75", show_default=True, help="Money in the account.")
@click.option("--spend-per-second", default="0", show_default=True, help="Money spent.")
@click.option("--grouped", is_flag=True, help="Show 1,250.75 in place of 1250.75.")
def sandbox(*, port: int, balance: str, spend_per_second: str, grouped: bool) -> Job:
    """Serve an invented account on 127.0.0.1, to point programs at."""
    try:
        account = Sandbox(balance=balance, spend_per_second=spend_per_second, grouped=grouped)
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    async def job() -> None:
        async with account.serve(port) as base_url:
            click.echo(
                "Sandbox: an invented account. Ctrl-C ends. Meanwhile, elsewhere:\n", err=True
            )
            click.echo(f"  export {BASE_URL_VARIABLE}={base_url}")
            click.echo(f"  export {KEY_VARIABLE}={account.api_key}")
            await anyio.sleep_forever()

    return job
