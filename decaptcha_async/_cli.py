"""The command line: click reads the arguments, and the job they ask for is run here.

Exit codes: 0 good, 1 failed, 2 usage or configuration, 3 low, 4 key refused, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from decimal import Decimal
from functools import partial, wraps
from typing import Final

import anyio
import attrs
import click
from rich.console import Console
from rich.text import Text

import decaptcha_async
from decaptcha_async import BalanceClient, BalanceReading, DecaptchaError, PollFailed, errors
from decaptcha_async._money import parse_threshold
from decaptcha_async._settings import BASE_URL_VARIABLE, KEY_FILE_VARIABLE, KEY_VARIABLE
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client

Job = Callable[[], Awaitable[int | None]]

NAME: Final = "decaptcha-async"
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
        return job if isinstance(job, int) else anyio.run(job) or 0
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
        _complain(error, advice, as_json=as_json)
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


def _complain(error: Exception, advice: str, *, as_json: bool) -> None:
    match error:
        case click.ClickException():
            text = error.format_message()
        case OSError(strerror=str(text)):
            pass
        case _:
            text = str(error)
    if as_json:
        line = json.dumps({"error": type(error).__name__, "message": text})
    else:
        line = f"{NAME}: {text.rstrip('.?')}. {advice}."
    click.echo(line, err=True)


@attrs.define(eq=False, kw_only=True)
class _Session:
    """Whom to ask, and where readings are shown: a line for people each, or JSON for programs."""

    client: BalanceClient
    sandbox: bool
    as_json: bool
    below: Decimal | None
    _last: Decimal | None = attrs.field(default=None, init=False)

    def note(self, text: str) -> None:
        """Tell people that a sandbox is asked."""
        if self.sandbox and not self.as_json:
            click.echo(f"Sandbox: {text}", err=True)

    def show(self, reading: BalanceReading, *, alone: bool = False) -> bool:
        """Show a reading, ``alone`` or as one of a series; whether it is low."""
        low = self.below is not None and reading.amount < self.below
        if self.as_json:
            click.echo(json.dumps(reading.to_dict()))
            return low
        line = Text(f"{reading.amount:,}", "bold")
        if not alone:
            line.pad_left(14 - len(line))
            line = Text.assemble((f"{reading.taken_at.astimezone():%H:%M:%S}", "dim"), line)
            line.append(self._change(reading.amount))
        if low:
            line.append(f"   LOW: below {self.below:,}", "bold red")
        console = Console(color_system=None if os.environ.get("NO_COLOR") else "auto")
        with console.capture() as styled:
            console.print(line, soft_wrap=True)
        click.echo(styled.get(), nl=False)
        return low

    def _change(self, amount: Decimal) -> Text:
        before, self._last = self._last, amount
        if before is None:
            return Text()
        change = amount - before
        return Text(f"{change:>+13,}" if change else f"{0:>13}", "green" if change > 0 else "")


def _asks(job: Callable[..., Awaitable[int]]) -> Callable[..., Job]:
    """Give a job that asks for the balance its session, and the options for that."""

    @click.option("--sandbox", is_flag=True, help="Ask an invented account, without a key.")
    @click.option("--api-key-file", metavar="FILE", help="Read the key from a file.")
    @click.option("--base-url", metavar="URL", help="Where the API answers.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
    @click.option(
        "--below", callback=_threshold, metavar="AMOUNT", help="Call a balance under this low."
    )
    @wraps(job)
    def with_session(
        *,
        sandbox: bool,
        api_key_file: str | None,
        base_url: str | None,
        as_json: bool,
        below: Decimal | None,
        **options: object,
    ) -> Job:
        if sandbox and (api_key_file is not None or base_url is not None):
            message = "--sandbox goes without --api-key-file and --base-url"
            raise click.UsageError(message)
        if api_key_file is not None:
            os.environ.pop(KEY_VARIABLE, None)
            os.environ[KEY_FILE_VARIABLE] = api_key_file
        invented = Sandbox(spend_per_second="1.37")
        client = sandbox_client(invented) if sandbox else BalanceClient(base_url=base_url)
        session = _Session(client=client, sandbox=sandbox, as_json=as_json, below=below)
        return partial(job, session, **options)

    return with_session


def _threshold(ctx: click.Context, param: click.Parameter, value: str | None) -> Decimal | None:
    try:
        return None if value is None else parse_threshold(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(decaptcha_async.__version__, message="%(prog)s %(version)s")
def command() -> None:
    """The balance of a DeCaptcha account, exact and watched."""


@command.command(epilog=_EPILOG)
@_asks
async def balance(session: _Session) -> int:
    """Show the balance, once."""
    session.note("an invented account.")
    async with session.client as client:
        low = session.show(await client.get_balance(), alone=True)
    return LOW if low else 0


@command.command(epilog=_EPILOG)
@_asks
@click.option(
    "--interval",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Time between readings (default: 60; 1 with --sandbox).",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N readings.")
@click.option("--until-low", is_flag=True, help="End at the first reading --below.")
@click.option("--changes-only", is_flag=True, help="Show a reading only if the amount differs.")
async def watch(
    session: _Session,
    *,
    interval: float | None,
    count: int | None,
    until_low: bool,
    changes_only: bool,
) -> int:
    """Show the balance again and again: time, amount, change.

    Passing failures are told, and it goes on.
    """
    if until_low and session.below is None:
        message = "--until-low needs --below AMOUNT"
        raise click.UsageError(message)
    usual, jitter = (1.0, 0.0) if session.sandbox else (60.0, 0.05)
    readings = session.client.watch(
        usual if interval is None else interval,
        jitter=jitter,
        changes_only=changes_only,
        on_error="yield",
    )
    session.note("an invented account, spent as you watch. Ctrl-C ends.")
    shown = 0
    async with session.client, aclosing(readings):
        async for outcome in readings:
            if isinstance(outcome, PollFailed):
                next_try = f"Next try in {outcome.next_delay:.3g} s"
                _complain(outcome.error, next_try, as_json=session.as_json)
                continue
            if session.show(outcome) and until_low:
                return LOW
            shown += 1
            if shown == count:
                break
    return 0


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
