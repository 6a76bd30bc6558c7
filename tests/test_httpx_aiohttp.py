"""An injected httpx client over aiohttp's connections, by the package httpx-aiohttp."""

from __future__ import annotations

import pytest
import wire
from canary import CANARY
from httpx_aiohttp import HttpxAiohttpClient

from decaptcha_async import (
    BalanceClient,
    DeadlineExceededError,
    DecaptchaError,
    InvalidResponseError,
    Retry,
    Timeout,
    TransportError,
)

pytestmark = pytest.mark.asyncio

QUICK = Retry(2, backoff=[0])


async def test_it_is_asked_as_any_other() -> None:
    """C4: a refusal is retried, then comes the reading; the client is not closed."""
    unwell = wire.answer(status="500 Internal Server Error")
    async with wire.serve(unwell, wire.answer()) as server, HttpxAiohttpClient() as yours:
        async with BalanceClient(
            CANARY, base_url=server.base_url, http_client=yours, middleware=[QUICK]
        ) as client:
            reading = await client.get_balance()
        assert (reading.raw, reading.attempts) == ("1250.75", 2)
        assert not yours.is_closed
        assert server.fields().count(("x-api-key", CANARY)) == 1
        assert ("accept-encoding", "identity") in server.fields()


@pytest.mark.parametrize(
    ("reply", "kind", "told"),
    [
        (wire.CUT, TransportError, "no answer from"),
        (wire.Reply(b"SSH-2.0-x\r\n\r\n", "close"), TransportError, "the answer is not HTTP"),
        (wire.answer(b"<html>"), InvalidResponseError, "a web page"),
        (wire.answer(wire.GOOD, "Content-Encoding: gzip"), InvalidResponseError, "compressed"),
        (wire.answer(status="302 Found"), InvalidResponseError, "a redirect"),
        (wire.SILENT, DeadlineExceededError, "while waiting for the answer"),
    ],
    ids=["cut", "ssh", "page", "gzip", "redirect", "silent"],
)
async def test_its_errors_are_ours(
    reply: wire.Reply, kind: type[DecaptchaError], told: str
) -> None:
    """C5: what aiohttp raises, even past httpx-aiohttp's own mapping, is one of our errors."""
    async with (
        wire.serve(reply) as server,
        HttpxAiohttpClient() as yours,
        BalanceClient(
            CANARY, base_url=server.base_url, http_client=yours, middleware=[Timeout(0.5)]
        ) as client,
    ):
        with pytest.raises(kind, match=told):
            await client.get_balance()


async def test_nobody_listens() -> None:
    """C5: a refused connection, which httpx-aiohttp calls a timeout, is retryable like one."""
    with wire.nobody() as url:
        async with HttpxAiohttpClient() as yours:
            client = BalanceClient(CANARY, base_url=url, http_client=yours, middleware=[])
            with pytest.raises((DeadlineExceededError, TransportError)) as caught:
                await client.get_balance()
    assert (vars(caught.value)["phase"], caught.value.retryable) == ("connect", True)
