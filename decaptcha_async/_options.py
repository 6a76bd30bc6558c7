"""The options that commands share, and what becomes of them: whom to ask, who looks on."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial, wraps
from typing import Final

import attrs
import click

from decaptcha_async import BalanceClient, BalanceReading, Notifier, errors
from decaptcha_async._background import Background
from decaptcha_async._delivery import Delivery
from decaptcha_async._money import parse_threshold
from decaptcha_async._screen import JsonLines, Lines, LiveView, Screen, is_live
from decaptcha_async._settings import KEY_FILE_VARIABLE, KEY_VARIABLE
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client

Job = Callable[[], Awaitable[int | None]]

NAME: Final = "decaptcha-async"
NOTIFY_VARIABLE: Final = "DECAPTCHA_NOTIFY"


@attrs.define(eq=False, kw_only=True)
class Session:
    """Whom to ask, what is low, and who looks on: people, or programs."""

    client: BalanceClient
    sandbox: bool
    as_json: bool
    below: Decimal | None
    label: str

    def note(self, text: str) -> None:
        """Tell people that a sandbox is asked."""
        if self.sandbox and not self.as_json:
            click.echo(f"Sandbox: {text}", err=True)

    def is_low(self, reading: BalanceReading) -> bool:
        """Whether a reading is below the threshold, if there is one."""
        return self.below is not None and reading.amount < self.below

    def screen(self) -> Screen:
        """Where a series of readings is shown."""
        if self.as_json:
            return JsonLines()
        if is_live():
            source = "Sandbox: an invented account" if self.sandbox else self.client.base_url
            return LiveView(f"{self.label} {source}".lstrip(), self.below)
        self.note("an invented account, spent as you watch. Ctrl-C ends.")
        return Lines(NAME, self.below)


def asks(job: Callable[..., Awaitable[int]]) -> Callable[..., Job]:
    """Give a job that asks for the balance its session, and the options for that."""

    @click.option("--sandbox", is_flag=True, help="Ask an invented account, without a key.")
    @click.option("--api-key-file", metavar="FILE", help="Read the key from a file.")
    @click.option("--base-url", metavar="URL", help="Where the API answers.")
    @click.option(
        "--below", callback=_threshold, metavar="AMOUNT", help="Call a balance under this low."
    )
    @click.option("--label", default="", metavar="NAME", help="What to call the account in alerts.")
    @wraps(job)
    def with_session(
        *,
        sandbox: bool,
        api_key_file: str | None,
        base_url: str | None,
        below: Decimal | None,
        label: str,
        as_json: bool = False,
        **options: object,
    ) -> Job:
        if below is None and _is_from_environment("notifiers"):
            options["notifiers"] = []  # somebody wanted it for another command
        if sandbox and (api_key_file is not None or base_url is not None):
            message = "--sandbox goes without --api-key-file and --base-url"
            raise click.UsageError(message)
        if api_key_file is not None:
            os.environ.pop(KEY_VARIABLE, None)
            os.environ[KEY_FILE_VARIABLE] = api_key_file
        invented = Sandbox(spend_per_second="1.37")
        client = sandbox_client(invented) if sandbox else BalanceClient(base_url=base_url)
        session = Session(client=client, sandbox=sandbox, as_json=as_json, below=below, label=label)
        return partial(job, session, **options)

    return with_session


def _is_from_environment(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.ENVIRONMENT


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
interval = click.option(
    "--interval",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Time between readings (default: 60; 1 with --sandbox).",
)


def _threshold(ctx: click.Context, param: click.Parameter, value: str | None) -> Decimal | None:
    try:
        return None if value is None else parse_threshold(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _notifiers(ctx: click.Context, param: click.Parameter, urls: tuple[str, ...]) -> list[Notifier]:
    if not urls:
        return []
    from decaptcha_async.integrations.apprise import AppriseNotifier  # noqa: PLC0415

    notifiers: list[Notifier] = []
    for number, url in enumerate(urls, 1):
        try:
            notifiers.append(AppriseNotifier(url))
        except errors.ConfigurationError:
            # The URL itself may hold a password.
            message = f"URL number {number} is not one that Apprise knows"
            raise click.BadParameter(message, ctx, param) from None
    return notifiers


notify = click.option(
    "--notify",
    "notifiers",
    multiple=True,
    envvar=NOTIFY_VARIABLE,
    callback=_notifiers,
    metavar="URL",
    help=f"Send alerts to this Apprise URL, too; repeatable. Default: {NOTIFY_VARIABLE}.",
)


@asynccontextmanager
async def delivering(notifiers: Iterable[Notifier]) -> AsyncGenerator[Delivery]:
    """Where alerts go; at the end, those still pending have their grace."""
    delivery = Delivery(notifiers)
    async with Background() as background:
        delivery.start(background)
        try:
            yield delivery
        finally:
            await delivery.aclose()
