"""The Apprise integration, against an SMTP server and HTTP endpoints on 127.0.0.1."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from email import message_from_bytes, policy
from email.message import EmailMessage

import anyio
import pytest
from aiosmtpd.handlers import Message
from aiosmtpd.smtp import SMTP
from anyio.from_thread import start_blocking_portal
from canary import CANARY
from fakes import reading
from webhook import refusing, webhook

from decaptcha_async import (
    Alert,
    BalanceClient,
    BalanceMonitor,
    ConfigurationError,
    LowBalance,
    Notifier,
    _delivery,
)
from decaptcha_async.integrations.apprise import AppriseNotifier
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client

pytestmark = pytest.mark.anyio
GUARD = 30


class Mailbox(Message):
    """Keeps what arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[EmailMessage] = []

    def handle_message(self, message: object) -> None:
        """Keep it."""
        mail = message_from_bytes(bytes(message), policy=policy.default)  # type: ignore[call-overload]
        self.mails.append(mail)


@contextmanager
def mail_server() -> Generator[tuple[Mailbox, int]]:
    """An SMTP server in a thread of its own: its mailbox and its port."""
    mailbox = Mailbox()

    @asynccontextmanager
    async def serve() -> AsyncGenerator[int]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(mailbox, hostname="mail.test", loop=loop), "127.0.0.1", 0
        )
        async with server:
            yield server.sockets[0].getsockname()[1]

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve()) as port,
    ):
        yield mailbox, port


def low(amount: str = "99.00") -> Alert:
    """The alert of a balance below 100."""
    alert = LowBalance("100.00").feed(reading(amount))
    assert alert is not None
    return alert


def account() -> BalanceClient:
    """A client of an account that is low."""
    return sandbox_client(Sandbox(balance="99.00", api_key=CANARY))


def watching(client: BalanceClient, *notifiers: Notifier, label: str = "") -> BalanceMonitor:
    """A monitor of a client that notifies of a balance below 100."""
    rules = [LowBalance("100.00")]
    return BalanceMonitor(client, interval=0.02, rules=rules, notify=notifiers, label=label)


def undelivered(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as an ERROR by this package."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.ERROR and record.name.startswith("decaptcha_async")
    ]


async def test_e_mail() -> None:
    """I5: an e-mail arrives: what is wrong in its subject, the account and what is left in it."""
    with mail_server() as (mailbox, port):
        url = f"mailto://127.0.0.1:{port}/?from=watch@example.com&to=ops@example.com"
        async with account() as client, watching(client, AppriseNotifier(url), label="eu-1"):
            with anyio.fail_after(GUARD):
                while not mailbox.mails:  # noqa: ASYNC110 - filled by another thread
                    await anyio.sleep(0.01)
    [mail] = mailbox.mails
    assert mail["Subject"] == "DeCaptcha balance low"
    assert (mail["To"], mail["X-RcptTo"]) == ("ops@example.com", "ops@example.com")
    text = mail.get_body(("plain",))
    assert text is not None
    assert text.get_content().strip() == "eu-1: Balance 99.00 is below 100.00. Top up."
    assert CANARY not in mail.as_string()


async def test_webhook() -> None:
    """I5: a webhook is sent JSON: title, message, type."""
    with webhook() as hook:
        async with account() as client, watching(client, AppriseNotifier(hook.url)):
            with anyio.fail_after(GUARD):
                while not hook.sent:  # noqa: ASYNC110 - filled by another thread
                    await anyio.sleep(0.01)
    [note] = hook.sent
    assert note["title"] == "DeCaptcha balance low"
    assert note["message"] == "Balance 99.00 is below 100.00. Top up."
    assert note["type"] == "warning"
    assert CANARY not in str(note)


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("low", "DeCaptcha balance low"),
        ("reminder", "DeCaptcha balance still low"),
        ("runway", "DeCaptcha balance soon spent"),
        ("stale", "DeCaptcha balance unknown"),
        ("recovered", "DeCaptcha balance recovered"),
    ],
)
async def test_titles(kind: str, title: str) -> None:
    """I5: the title says what kind of alert it is; only recovery is good news."""
    alert = Alert(
        kind=kind,  # type: ignore[arg-type]
        rule="LowBalance(100)",
        threshold=Decimal(100),
        reading=None,
        at=datetime.now(UTC),
        message="Less < than 100 & more.",
    )
    with webhook() as hook:
        await AppriseNotifier(hook.url)(alert)
    [note] = hook.sent
    assert (note["title"], note["message"]) == (title, "Less < than 100 & more.")
    assert note["type"] == ("success" if kind == "recovered" else "warning")


async def test_tried_again_where_it_failed() -> None:
    """M4: delivered again, an alert goes only to those who have not had it; the next to all."""
    with webhook() as first, webhook(500) as second:
        # One text with two URLs counts as two, as Apprise has it.
        notifier = AppriseNotifier(f"{first.url},{second.url}")
        alert = low()
        with pytest.raises(ConnectionError, match=r"^Apprise could not reach JSON$"):
            await notifier(alert)
        await notifier(alert)
        assert (len(first.sent), len(second.sent)) == (1, 2)
        await notifier(low("98.00"))
    assert (len(first.sent), len(second.sent)) == (2, 3)


@pytest.mark.usefixtures("short_pauses")
async def test_refused(caplog: pytest.LogCaptureFixture) -> None:
    """M4, I5: where nothing listens an alert ends in one ERROR line with its text."""
    with refusing() as url, webhook() as hook:
        notifiers = AppriseNotifier(url), AppriseNotifier(hook.url)
        async with account() as client, watching(client, *notifiers):
            with anyio.fail_after(GUARD):
                while not undelivered(caplog):  # noqa: ASYNC110 - logged by another task
                    await anyio.sleep(0.01)
    [told] = undelivered(caplog)
    assert told == (
        "could not deliver to AppriseNotifier (ConnectionError: Apprise could not reach JSON): "
        "Balance 99.00 is below 100.00. Top up."
    )
    assert len(hook.sent) == 1


@pytest.mark.usefixtures("short_grace")
async def test_hanging(caplog: pytest.LogCaptureFixture) -> None:
    """M4, I5: an endpoint that hangs holds up no poll, no other notifier and no end."""
    with webhook() as silent, webhook() as hook:
        silent.answers.clear()
        before = threading.enumerate()
        async with account() as client:
            monitor = watching(client, AppriseNotifier(silent.url), AppriseNotifier(hook.url))
            async with monitor:
                with anyio.fail_after(GUARD):
                    while not (silent.sent and hook.sent):  # noqa: ASYNC110 - by other threads
                        await anyio.sleep(0.01)
                    async with monitor.subscribe() as readings:
                        for _ in range(3):
                            await anext(readings)
                leaving = time.monotonic()
            assert time.monotonic() - leaving < GUARD / 10
        [told] = undelivered(caplog)
        assert told == (
            "could not deliver to AppriseNotifier (the monitor ends): "
            "Balance 99.00 is below 100.00. Top up."
        )
        assert (len(silent.sent), len(hook.sent)) == (1, 1)
        # The end of the process waits for threads that are no daemons.
        after = [thread for thread in threading.enumerate() if thread not in before]
        assert [thread.name for thread in after if not thread.daemon] == []


def test_answered_after_the_event_loop(anyio_backend_name: str) -> None:
    """M4: who answers late, even after the event loop, is not sent the alert again."""
    alert = low()
    with webhook() as silent:
        silent.answers.clear()
        notifier = AppriseNotifier(silent.url)

        async def give_up() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(notifier, alert)
                while not silent.sent:  # noqa: ASYNC110 - filled by another thread
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()

        anyio.run(give_up, backend=anyio_backend_name)
        silent.answers.set()
        for thread in threading.enumerate():
            if thread.name == "alert by Apprise":
                thread.join()
        anyio.run(notifier, alert, backend=anyio_backend_name)
        assert len(silent.sent) == 1


@pytest.mark.parametrize(
    ("urls", "told"),
    [
        ([], "AppriseNotifier needs a URL, such as mailtos://user:password@example.com"),
        ([""], "notification URL number 1 is not one that Apprise knows"),
        (["json://127.0.0.1", "nope://user:secret@example.com/secret"], "URL number 2 is not one"),
        (["json://user:secret@127.0.0.1/?method=secret"], "URL number 1 is not one"),
        (["mailto://secret@"], "URL number 1 is not one"),
        (["json://127.0.0.1,nope://secret"], "URL number 1 is not one"),
    ],
)
def test_bad_urls(urls: list[str], told: str, caplog: pytest.LogCaptureFixture) -> None:
    """I5: a URL that is none is told by its number; no error and no log shows any of it."""
    caplog.set_level(1)
    with pytest.raises(ConfigurationError) as caught:
        AppriseNotifier(*urls)
    assert told in str(caught.value)
    assert "secret" not in f"{caught.value!r}{caught.value.__cause__}{caplog.text}"


def test_log_of_others_while_a_url_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """I5: what Apprise logs in other threads meanwhile is not lost, nor what it logs later."""
    logger = logging.getLogger("apprise")
    from_here = threading.Event()

    def log() -> None:
        while not from_here.wait(0.001):
            logger.warning("from elsewhere")

    thread = threading.Thread(target=log)
    thread.start()
    AppriseNotifier(*["json://127.0.0.1"] * 100)
    from_here.set()
    thread.join()
    logger.warning("from here")
    assert {record.getMessage() for record in caplog.records} == {"from elsewhere", "from here"}


def test_without_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: without apprise, importing the module says which extra brings it."""
    name = "decaptcha_async.integrations.apprise"
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'decaptcha-async\[apprise\]'"):
        importlib.import_module(name)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries are tried again at once."""
    monkeypatch.setattr(_delivery, "_PAUSES", (0.01,) * 4)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery ends soon."""
    monkeypatch.setattr(_delivery, "GRACE", 0.1)
