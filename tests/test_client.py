"""The client from outside: what a call brings, how long a client lives, and what never shows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import logging
import pickle
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import httpx
import httpx2
import pytest
import respx
import wire
from canary import CANARY

from decaptcha_async import (
    APIError,
    AuthenticationError,
    BalanceClient,
    BalanceReading,
    Call,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    Handler,
    HTTPClient,
    InvalidResponseError,
    Middleware,
    PollFailed,
    RateLimitedError,
    Retry,
    ServerError,
    Timeout,
    TLSError,
    TransportError,
    default_middleware,
)
from decaptcha_async._http.connections import Connections
from decaptcha_async.sandbox import Sandbox
from decaptcha_async.testing import sandbox_client

KEY: Final = CANARY
ECHOED: Final = "echoed-Kq7Zt2"
ELSEWHERE: Final = "https://api.example"
IMPATIENT: Final[list[Middleware]] = [Timeout(30), Retry(4, backoff=[0, 0, 0]), Timeout(10)]
FAILED: Final = wire.answer(
    b'{"isSuccess":false,"statusCode":500,"errorMessage":"Internal server error","data":null}'
)
DENIED: Final = wire.answer(
    b'{"isSuccess":false,"statusCode":401,"errorMessage":"Invalid API key","data":null}',
    status="401 Unauthorized",
)

on_both = pytest.mark.anyio
silences = pytest.mark.parametrize(
    "reply", [wire.SILENT, wire.STALLED, wire.DRIPPING], ids=["silent", "stalled", "dripping"]
)


def client_of(
    base_url: str,
    *,
    key: str = KEY,
    middleware: Sequence[Middleware] = IMPATIENT,
    http_client: HTTPClient | None = None,
) -> BalanceClient:
    """A client that does not wait between attempts, unless told otherwise."""
    return BalanceClient(key, base_url=base_url, middleware=middleware, http_client=http_client)


def mock(body: bytes = wire.GOOD) -> httpx.AsyncClient:
    """An injected client that answers alike, without a socket."""
    return httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    )


@contextlib.asynccontextmanager
async def injectable(library: str) -> AsyncGenerator[Any, None]:
    """A client to inject, as a user of ``library`` makes it; None for our own."""
    if library == "own":
        yield None
    else:
        async with importlib.import_module(library).AsyncClient() as made:
            yield made


# What a call brings


@on_both
async def test_a_reading() -> None:
    """B1, A2: the vendor's example is an exact reading of one attempt, from the network."""
    async with wire.serve() as server, client_of(server.base_url) as client:
        reading = await client.get_balance()
        assert reading.amount == Decimal("1250.75")
        assert (reading.raw, reading.attempts, reading.source) == ("1250.75", 1, "network")
        await server.idle()


@on_both
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(wire.answer(b"", status="500 Internal Server Error"), id="500"),
        pytest.param(wire.answer(b"", status="503 Busy"), id="503"),
        pytest.param(wire.answer(b"", status="408 Request Timeout"), id="408"),
        pytest.param(FAILED, id="500-inside-200"),
        pytest.param(wire.CUT, id="cut"),
        pytest.param(wire.Reply(b"", "close"), id="closed"),
        pytest.param(wire.Reply(b"\0\1\2\3\r\n\r\n"), id="not-http"),
    ],
)
async def test_passing_failures_are_retried(reply: wire.Reply) -> None:
    """R2, B1, C5: after a 5xx, a 408, a 500 inside a 200, a cut or broken answer: asked again."""
    async with wire.serve(reply, wire.answer()) as server, client_of(server.base_url) as client:
        assert (await client.get_balance()).attempts == 2
        assert server.connections == len(server.requests) == 2
        await server.idle()


@on_both
async def test_retry_after() -> None:
    """R3: a 429 with Retry-After: 1 waits at least that second, then succeeds."""
    limited = wire.answer(b"", "Retry-After: 1", status="429 Too Many Requests")
    async with wire.serve(limited, wire.answer()) as server, client_of(server.base_url) as client:
        began = time.monotonic()
        assert (await client.get_balance()).attempts == 2
        assert 1 <= time.monotonic() - began < 20


@on_both
async def test_a_retry_after_that_is_too_long() -> None:
    """R3: a longer wait than ``max_retry_after`` is not begun; the error tells it."""
    limited = wire.answer(b"", "Retry-After: 3600", status="429 Too Many Requests")
    async with wire.serve(limited) as server, client_of(server.base_url) as client:
        with pytest.raises(RateLimitedError) as caught:
            await client.get_balance()
        assert (caught.value.retry_after, caught.value.gave_up) == (3600, "retry_after")
        assert len(server.requests) == 1


@on_both
@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        pytest.param(DENIED, AuthenticationError, "Invalid API key", id="401"),
        pytest.param(
            wire.answer(b"<html>", "Content-Type: text/html"),
            InvalidResponseError,
            "base_url is the likely cause",
            id="html",
        ),
        *(
            pytest.param(
                wire.answer(b"", "Location: /", status=f"{code} Moved"),
                InvalidResponseError,
                f"a redirect (HTTP {code})",
                id=str(code),
            )
            for code in (301, 302, 303, 307, 308)
        ),
    ],
)
async def test_what_is_not_retried(
    reply: wire.Reply, kind: type[DecaptchaError], text: str
) -> None:
    """R2, B3, B4: a refused key, a web page and every redirect are one request and one error."""
    async with wire.serve(reply) as server, client_of(server.base_url) as client:
        with pytest.raises(kind) as caught:
            await client.get_balance()
        assert type(caught.value) is kind
        assert text in str(caught.value)
        assert caught.value.gave_up == "not_retryable"
        assert len(server.requests) == 1


@on_both
async def test_giving_up() -> None:
    """R2, R5: after all attempts the last error comes itself, with those before it."""
    async with wire.serve(FAILED) as server, client_of(server.base_url) as client:
        with pytest.raises(ServerError) as caught:
            await client.get_balance()
        assert caught.value.gave_up == "attempts"
        assert [attempt.number for attempt in caught.value.earlier_attempts] == [1, 2, 3]
        assert len(server.requests) == 4
        await server.idle()


@on_both
@silences
async def test_silence_ends_in_time(reply: wire.Reply) -> None:
    """R8: a silent, stalled or dripping server ends as DeadlineExceededError, and is hung up on."""
    middleware = [Timeout(0.2)]
    async with (
        wire.serve(reply) as server,
        client_of(server.base_url, middleware=middleware) as client,
    ):
        with pytest.raises(DeadlineExceededError) as caught:
            await client.get_balance()
        assert caught.value.phase == "receive"
        assert caught.value.host == server.base_url.removeprefix("http://")
        await server.idle()


@on_both
async def test_connecting_ends_in_time() -> None:
    """R8: so is a connection that is never accepted."""
    with wire.full() as url:
        async with client_of(url, middleware=[Timeout(0.2)]) as client:
            with pytest.raises(DeadlineExceededError) as caught:
                await client.get_balance()
    assert caught.value.phase == "connect"


@on_both
async def test_nobody_listens() -> None:
    """C5, R2: where nothing listens, every attempt is a TransportError that says so."""
    with wire.nobody() as url:
        async with client_of(url) as client:
            with pytest.raises(TransportError, match="connection refused") as caught:
                await client.get_balance()
    assert len(caught.value.earlier_attempts) == 3


@on_both
async def test_tls() -> None:
    """C5, R2: a certificate that is not trusted ends it at once, before the key is sent."""
    authority = wire.Authority()
    async with wire.serve(tls=authority.server) as server, client_of(server.base_url) as client:
        with pytest.raises(TLSError, match="ssl_context that trusts its authority"):
            await client.get_balance()
        assert (server.connections, server.requests) == (1, [])
        await server.idle()


@on_both
async def test_not_tls() -> None:
    """C5: a server that answers a TLS handshake in plain text is a TLSError that doubts https."""
    async with wire.serve(greeting=b"220 mail.example ready\r\n") as server:
        async with client_of(server.base_url.replace("http:", "https:")) as client:
            with pytest.raises(TLSError, match="is https in base_url right"):
                await client.get_balance()
        await server.idle()


@on_both
async def test_calls_at_once() -> None:
    """C2: calls at the same time each have their own connection and their own reading."""
    readings: list[BalanceReading] = []

    async def ask() -> None:
        readings.append(await client.get_balance())

    async with wire.serve() as server, client_of(server.base_url) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
        assert len(readings) == server.connections == 20
        await server.idle()


@on_both
async def test_watch() -> None:
    """W1, W8: ``watch`` polls by the same client, and yields failures when asked to."""
    async with (
        wire.serve(wire.answer(), FAILED) as server,
        client_of(server.base_url, middleware=[]) as client,
        contextlib.aclosing(client.watch(0.01, jitter=0, on_error="yield")) as items,
    ):
        assert isinstance(await anext(items), BalanceReading)
        assert isinstance(await anext(items), PollFailed)


# Keys


@on_both
async def test_a_key_that_rotates() -> None:
    """K2: a callable is asked once an attempt."""
    keys = iter(["first", "second"])
    async with wire.serve(FAILED, wire.answer()) as server:
        async with BalanceClient(
            lambda: next(keys), base_url=server.base_url, middleware=IMPATIENT
        ) as client:
            await client.get_balance()
        assert [dict(server.fields(n))["x-api-key"] for n in (0, 1)] == ["first", "second"]
        assert next(keys, None) is None


@on_both
async def test_a_key_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """K2: the file of DECAPTCHA_API_KEY_FILE is read again at every attempt."""
    file = tmp_path / "key"
    file.write_text("first\n")
    monkeypatch.delenv("DECAPTCHA_API_KEY", raising=False)
    monkeypatch.setenv("DECAPTCHA_API_KEY_FILE", str(file))

    def rotate(_: object) -> None:
        file.write_text("second\n")

    middleware: list[Middleware] = [Retry(backoff=[0], on_retry=rotate)]
    async with wire.serve(FAILED, wire.answer()) as server:
        async with BalanceClient(base_url=server.base_url, middleware=middleware) as client:
            await client.get_balance()
        assert [dict(server.fields(n))["x-api-key"] for n in (0, 1)] == ["first", "second"]


@on_both
@pytest.mark.parametrize("good", [0, 1])
async def test_a_callable_that_gives_no_key(good: int) -> None:
    """K1: a bad answer of the callable, at the first attempt or later, names no value."""
    keys = iter(["good"] * good + [f"{KEY}\n"])
    async with wire.serve(FAILED) as server:
        async with BalanceClient(
            lambda: next(keys), base_url=server.base_url, middleware=IMPATIENT
        ) as client:
            with pytest.raises(ConfigurationError, match="ends with a newline") as caught:
                await client.get_balance()
        assert len(server.requests) == good
    assert sightings(caught.value) == []


# Clients of yours


@on_both
@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_an_injected_client(library: Any) -> None:
    """C4, B3: a client of yours serves, without redirects, and is not closed by us."""
    yours = library.AsyncClient(follow_redirects=True)
    async with wire.serve() as target:
        moved = wire.answer(b"", f"Location: {target.base_url}", status="307 Moved")
        async with yours, wire.serve(FAILED, wire.answer(), moved) as server:
            async with client_of(server.base_url, http_client=yours) as client:
                assert (await client.get_balance()).attempts == 2
                with pytest.raises(InvalidResponseError):
                    await client.get_balance()
            assert not yours.is_closed
            assert len(server.requests) == 3
        assert target.connections == 0


@on_both
@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_errors_of_an_injected_client(library: Any) -> None:
    """C5: errors of httpx and httpx2 alike are ours."""
    with wire.nobody() as url:
        async with library.AsyncClient() as yours:
            with pytest.raises(TransportError, match="connection refused"):
                await client_of(url, http_client=yours).get_balance()
            async with wire.serve(wire.SILENT) as server:
                client = client_of(server.base_url, middleware=[Timeout(0.2)], http_client=yours)
                with pytest.raises(DeadlineExceededError):
                    await client.get_balance()


@on_both
@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_an_injected_client_that_you_closed(library: Any) -> None:
    """C6: once you closed it, a call is a ClientClosedError that names http_client."""
    yours = library.AsyncClient()
    await yours.aclose()
    with pytest.raises(ClientClosedError, match="http_client is closed"):
        await client_of(ELSEWHERE, http_client=yours).get_balance()


@on_both
async def test_an_app_in_process() -> None:
    """C4: an ASGI app behind ``httpx.ASGITransport`` answers without a socket."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"] == "/api/balance"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": wire.GOOD})

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as yours:
        assert (await client_of(ELSEWHERE, http_client=yours).get_balance()).raw == "1250.75"


class BugError(Exception):
    """What code of yours raises."""


@on_both
async def test_exceptions_of_yours() -> None:
    """E, R2: an exception that is not of HTTP passes unchanged, and is not retried."""
    asked: list[httpx.Request] = []

    def fault(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise BugError

    async with httpx.AsyncClient(transport=httpx.MockTransport(fault)) as yours:
        with pytest.raises(BugError):
            await client_of(ELSEWHERE, http_client=yours).get_balance()
    assert len(asked) == 1


# respx


@on_both
@pytest.mark.parametrize("injected", [False, True])
async def test_with_respx(injected: bool) -> None:  # noqa: FBT001
    """R2, C8: under respx, too, an answer that fails and one that is good make two attempts."""
    answers = [httpx.Response(502), httpx.Response(200, content=wire.GOOD)]
    async with contextlib.AsyncExitStack() as stack:
        yours = await stack.enter_async_context(httpx.AsyncClient()) if injected else None
        api = stack.enter_context(respx.mock(base_url=ELSEWHERE))
        balance = api.get("/api/balance", headers={"x-api-key": KEY}).mock(side_effect=answers)
        async with client_of(ELSEWHERE, http_client=yours) as client:
            assert (await client.get_balance()).attempts == 2
        assert balance.call_count == 2


@on_both
async def test_errors_with_respx() -> None:
    """C5: what respx raises for httpx is translated as from a wire."""
    with respx.mock(base_url=ELSEWHERE) as api:
        api.get("/api/balance").mock(side_effect=httpx.ConnectError)
        async with client_of(ELSEWHERE) as client:
            with pytest.raises(TransportError) as caught:
                await client.get_balance()
    assert caught.value.phase == "connect"


# How long it lives


@on_both
async def test_opening_by_itself() -> None:
    """C6, C7: a client opens on its first call, and is closed with ``aclose``, once or twice."""
    async with wire.serve() as server:
        client = client_of(server.base_url)
        await client.get_balance()
        await client.aclose()
        await client.aclose()
        with pytest.raises(ClientClosedError, match="the client is closed"):
            await client.get_balance()
        with pytest.raises(ClientClosedError, match="the client is closed"):
            await client.__aenter__()
        assert len(server.requests) == 1


@on_both
async def test_first_calls_at_once() -> None:
    """C3: first calls at the same time open one client between them."""

    def transports() -> int:
        gc.collect()
        return sum(isinstance(item, Connections) for item in gc.get_objects())

    before = transports()
    async with (
        wire.serve(wire.SILENT) as server,
        contextlib.aclosing(client_of(server.base_url)) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(5):
            tasks.start_soon(client.get_balance)
        await server.asked(5)
        assert transports() == before + 1
        tasks.cancel_scope.cancel()


@on_both
async def test_closing_before_it_is_open() -> None:
    """C6: a client that is closed while its first calls open it ends those calls."""
    client = client_of(ELSEWHERE)
    threads = anyio.to_thread.current_default_thread_limiter()
    threads.total_tokens = 1

    async def ask() -> None:
        with pytest.raises(ClientClosedError, match="the client is closed"):
            await client.get_balance()

    async with anyio.create_task_group() as tasks, threads:
        tasks.start_soon(ask)
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        await client.aclose()
    assert client._own is None


@on_both
async def test_closing_without_use() -> None:
    """C6: a client that was never used closes like any other."""
    client = client_of(ELSEWHERE)
    await client.aclose()
    assert "closed" in repr(client)


@on_both
@silences
async def test_closing_during_a_call(reply: wire.Reply) -> None:
    """C6: closing ends the calls under way with ClientClosedError, and their connections."""
    ended: list[str] = []

    async def ask() -> None:
        with pytest.raises(ClientClosedError) as caught:
            await client.get_balance()
        ended.append(str(caught.value))

    async with wire.serve(reply) as server:
        client = client_of(server.base_url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
            await server.asked(2)
            with anyio.fail_after(20):
                await client.aclose()
            await server.idle()
    assert ended == ["the client was closed during the call"] * 2


@on_both
@pytest.mark.virtual_time
async def test_closing_is_bounded() -> None:
    """C6: closing waits 2 s at most for a call that does not end."""

    async def stubborn(call: Call, call_next: Handler) -> BalanceReading:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(60)
        return await call_next(call)

    async def ask() -> None:
        with pytest.raises(ClientClosedError):
            await client.get_balance()

    async with httpx.AsyncClient() as yours:
        client = client_of(ELSEWHERE, http_client=yours, middleware=[stubborn])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            began = anyio.current_time()
            await client.aclose()
            assert anyio.current_time() - began == pytest.approx(2)


def test_from_another_event_loop() -> None:
    """C6: it belongs to the event loop of its first use; elsewhere it says so."""
    client = client_of(ELSEWHERE, http_client=mock())
    asyncio.run(client.get_balance())
    for use in (client.get_balance, client.__aenter__, client.aclose):
        with pytest.raises(ClientClosedError, match="used from another event loop"):
            asyncio.run(use())


def test_from_a_forked_process() -> None:
    """C6: in a forked process, where its loop seems to go on, it says so."""
    program = """
        import asyncio, os
        import httpx
        from decaptcha_async import BalanceClient, ClientClosedError

        def answer(request):
            return httpx.Response(200, content=BODY)

        async def main():
            mock = httpx.AsyncClient(transport=httpx.MockTransport(answer))
            async with BalanceClient("key", http_client=mock) as client:
                await client.get_balance()
                if os.fork():
                    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
                try:
                    await client.get_balance()
                except ClientClosedError as error:
                    os._exit("forked process" not in str(error))
                os._exit(2)

        asyncio.run(main())
    """
    source = textwrap.dedent(program).replace("BODY", repr(wire.GOOD))
    done = subprocess.run([sys.executable, "-W", "error", "-c", source], check=False, timeout=60)
    assert done.returncode == 0


@on_both
async def test_never_closed() -> None:
    """C6: a client of our own that is not closed warns once, and names where it asks."""
    async with wire.serve() as server:
        client = client_of(server.base_url)
        await client.get_balance()
        with pytest.warns(ResourceWarning, match=f"unclosed <BalanceClient {server.base_url}>"):
            del client


@on_both
async def test_nothing_to_close() -> None:
    """C6: on a client of yours, or never used, there is nothing to warn of."""
    async with mock() as yours:
        client = client_of(ELSEWHERE, http_client=yours)
        await client.get_balance()
        del client
        client_of(ELSEWHERE)
        gc.collect()


@pytest.mark.asyncio
async def test_entered_and_left_in_different_tasks() -> None:
    """C7: without a task group it may be entered in one task and left in another."""
    async with wire.serve() as server:
        client = await asyncio.create_task(client_of(server.base_url).__aenter__())
        await asyncio.create_task(client.get_balance())
        await asyncio.create_task(client.__aexit__(None, None, None))
        await server.idle()


# Cancellation


@on_both
@silences
async def test_cancelled(reply: wire.Reply) -> None:
    """C1, R1: after a cancelled call the connection is closed, and the client works."""
    async with wire.serve(reply, wire.answer()) as server, client_of(server.base_url) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get_balance)
            await server.asked(1)
            tasks.cancel_scope.cancel()
        await server.idle()
        assert (await client.get_balance()).attempts == 1


@on_both
async def test_cancelled_while_connecting() -> None:
    """C1, R4: a deadline of the caller's stays the caller's, while connecting, too."""
    with wire.full() as url:
        async with client_of(url) as client:
            with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.1):
                await client.get_balance()
    assert isinstance(caught.value, TimeoutError)


@pytest.mark.asyncio
@silences
async def test_cancelled_by_asyncio(reply: wire.Reply) -> None:
    """C1, R1: ``Task.cancel()`` ends a call; no connection and no task is left."""
    async with wire.serve(reply) as server, client_of(server.base_url) as client:
        before = asyncio.all_tasks()
        task = asyncio.create_task(client.get_balance())
        await server.asked(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.idle()
        await anyio.wait_all_tasks_blocked()
        assert asyncio.all_tasks() <= before


@pytest.mark.asyncio
async def test_a_deadline_of_asyncio() -> None:
    """R4: ``asyncio.timeout`` ends a call in time, with its own TimeoutError."""
    async with wire.serve(wire.SILENT) as server, client_of(server.base_url) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.1):
                await client.get_balance()
        assert type(caught.value) is TimeoutError
        await server.idle()


# What never shows


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error with its causes, contexts and members."""
    if error is not None:
        yield error
        for other in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
            yield from chain(other)


def shows(value: object) -> bool:
    """Whether a key shows in a value or in its attributes."""
    shown = repr((value, getattr(value, "__dict__", None))).lower()
    return KEY.lower() in shown or ECHOED.lower() in shown


def sightings(error: BaseException) -> list[str]:
    """Where the key shows: in texts and attributes, and in locals of frames beside the tests'."""
    places: list[str] = []
    for link in chain(error):
        places += [type(link).__name__] if shows(link) or shows(str(link)) else []
        for frame, line in traceback.walk_tb(link.__traceback__):
            if Path(frame.f_code.co_filename) != Path(__file__):
                place = f"{frame.f_code.co_qualname}:{line}"
                places += [f"{place} {name}" for name, it in frame.f_locals.items() if shows(it)]
    return places


def test_sightings() -> None:
    """K2: the search finds a key where there is one, in a frame and in an attribute."""
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads(ECHOED)
    places = sightings(caught.value)
    assert "JSONDecodeError" in places
    assert any(place.startswith("JSONDecoder.decode:") for place in places)


ECHO: Final = ECHOED.upper().encode()


@on_both
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(DENIED, id="401"),
        pytest.param(
            wire.answer(
                b'{"isSuccess":false,"statusCode":401,"errorMessage":"bad %b","data":null}' % ECHO,
                f"Content-Type: {ECHOED}",
                status=f"401 {ECHOED}",
            ),
            id="401-echo",
        ),
        pytest.param(
            wire.answer(b'{"isSuccess":true,"statusCode":200,"data":"%b"}' % ECHO), id="amount-echo"
        ),
        pytest.param(
            wire.answer(b'{"%b":1,"%b":2}' % (ECHO, ECHO), f"Content-Type: {ECHOED}"),
            id="json-echo",
        ),
        pytest.param(
            wire.answer(b"<p>%b" % ECHO, f"Content-Type: text/html; {ECHOED}"), id="html-echo"
        ),
        pytest.param(
            wire.answer(b"", f"Content-Encoding: {ECHOED}", f"Content-Type: {ECHOED}"),
            id="coding-echo",
        ),
        pytest.param(
            wire.answer(b"", f"Location: /{ECHOED}", f"Content-Type: {ECHOED}", status="302 Moved"),
            id="redirect-echo",
        ),
        pytest.param(
            wire.answer(b"", f"Location: http:{ECHOED}", status="302 Moved"), id="malformed-echo"
        ),
        pytest.param(wire.Reply(ECHO + b"\r\n\r\n", "close"), id="not-http-echo"),
        pytest.param(wire.Reply(wire.head(f"{ECHOED}"), "close"), id="header-echo"),
        pytest.param(wire.Reply(wire.head("Content-Length: 99") + ECHO, "close"), id="cut-echo"),
        pytest.param(wire.Reply(wire.head("Content-Length: 99") + ECHO, "hold"), id="stalled-echo"),
    ],
)
@pytest.mark.parametrize("library", ["own", "httpx", "httpx2"])
async def test_no_error_shows_the_key(
    reply: wire.Reply, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    """K2, B2: no error, frame, log record of ours or pickle shows the key that a server echoes."""
    caplog.set_level(logging.DEBUG, logger="decaptcha_async")
    middleware: list[Middleware] = [Timeout(5), Retry(2, backoff=[0]), Timeout(0.2)]
    async with (
        injectable(library) as yours,
        wire.serve(reply) as server,
        client_of(server.base_url, key=ECHOED, middleware=middleware, http_client=yours) as client,
    ):
        with pytest.raises(DecaptchaError) as caught:
            await client.get_balance()
    assert sightings(caught.value) == []
    assert ECHOED.encode() not in pickle.dumps(caught.value)
    ours = [record for record in caplog.records if record.name.startswith("decaptcha_async")]
    assert not any(shows(record) for record in ours)


@on_both
@silences
@pytest.mark.parametrize("library", ["own", "httpx", "httpx2"])
async def test_no_cancellation_shows_the_key(reply: wire.Reply, library: str) -> None:
    """K2: a cancellation takes no frame along that holds the key."""
    seen: list[BaseException] = []

    async def impatient() -> None:
        try:
            await client.get_balance()
        except anyio.get_cancelled_exc_class() as error:
            seen.append(error)
            raise

    async with (
        injectable(library) as yours,
        wire.serve(reply) as server,
        client_of(server.base_url, http_client=yours) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(impatient)
        await server.asked(1)
        tasks.cancel_scope.cancel()
    [cancelled] = seen
    assert sightings(cancelled) == []


@pytest.mark.asyncio
async def test_no_cancelled_task_shows_the_key() -> None:
    """K2: nor does a task that was cancelled, nor its name."""
    async with wire.serve(wire.SILENT) as server, client_of(server.base_url) as client:
        task = asyncio.create_task(client.get_balance())
        await server.asked(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    assert sightings(caught.value) == []
    assert KEY not in repr(task)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        pytest.param(f"{KEY}\n", {}, id="key"),
        pytest.param(KEY, {"base_url": "ftp://x"}, id="base_url"),
        pytest.param(partial(str, KEY), {"base_url": "ftp://x"}, id="callable"),
        pytest.param(KEY, {"middleware": [None]}, id="middleware"),
    ],
)
def test_no_refused_argument_shows_the_key(
    key: str | Callable[[], str], settings: dict[str, Any]
) -> None:
    """K1, K2: what the constructor raises shows no key, whichever argument is wrong."""
    with pytest.raises((ConfigurationError, TypeError)) as caught:
        BalanceClient(key, **settings)
    assert sightings(caught.value) == []


def test_no_refused_setting_shows_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """K2: nor where key and URL come from the environment."""
    monkeypatch.setenv("DECAPTCHA_API_KEY", KEY)
    monkeypatch.setenv("DECAPTCHA_BASE_URL", "ftp://x")
    with pytest.raises(ConfigurationError) as caught:
        BalanceClient()
    assert sightings(caught.value) == []


def test_repr() -> None:
    """K2: a client shows where it asks, and nothing of the key."""
    client = BalanceClient(KEY, base_url="HTTPS://API.example:443/v2/")
    assert repr(client) == "<BalanceClient https://api.example/v2>"
    assert client.base_url == "https://api.example/v2"
    assert KEY not in repr(vars(client))


# What drips in beside a status


@on_both
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("302 Found", InvalidResponseError),
        ("401 Unauthorized", AuthenticationError),
        ("404 Not Found", APIError),
        ("429 Too Many Requests", RateLimitedError),
    ],
)
async def test_a_status_before_a_body_without_end(status: str, kind: type[DecaptchaError]) -> None:
    """B1, R2, R3: a body that drips in for ever does not hide what the status says."""
    drip = wire.Reply(wire.head("Content-Length: 1000", "Retry-After: 500", status=status), "drip")
    async with (
        wire.serve(drip) as server,
        client_of(server.base_url, middleware=default_middleware(attempt_timeout=0.5)) as client,
    ):
        with pytest.raises(kind) as caught:
            await client.get_balance()
        assert len(server.requests) == 1
        assert caught.value.retry_after == (None if status.startswith("302") else 500)
        await server.idle()


# Of retrying and watching on a real wire


@on_both
async def test_a_retry_after_of_another_time() -> None:
    """R3: a date is read against the answer's own Date, so that no clock but one can be wrong."""
    limited = wire.answer(
        b"",
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        "Retry-After: Thu, 01 Jan 1970 00:00:01 GMT",
        status="503 Busy",
    )
    async with wire.serve(limited, wire.answer()) as server, client_of(server.base_url) as client:
        began = time.monotonic()
        assert (await client.get_balance()).attempts == 2
        assert 1 <= time.monotonic() - began < 20


@on_both
@silences
async def test_a_watch_that_is_cancelled(reply: wire.Reply) -> None:
    """W9: cancelled in a poll, a watch leaves no connection, and the client works."""
    async with (
        wire.serve(wire.answer(), reply, wire.answer()) as server,
        client_of(server.base_url) as client,
    ):

        async def consume() -> None:
            async with contextlib.aclosing(client.watch(0.01, jitter=0)) as items:
                async for _ in items:
                    pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            await server.asked(2)
            tasks.cancel_scope.cancel()
        await server.idle()
        assert (await client.get_balance()).attempts == 1
        assert len(server.requests) == 3


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("stoppable", [False, True])
async def test_closing_ends_a_watch_in_its_pause(
    stoppable: bool,  # noqa: FBT001
) -> None:
    """C6: a watch that waits for its next poll ends when the client is closed, not at the poll."""
    client = sandbox_client(Sandbox())
    stop = anyio.Event() if stoppable else None

    async def close() -> None:
        await anyio.sleep(10)
        await client.aclose()

    watching = contextlib.aclosing(client.watch(1800, stop=stop))
    async with anyio.create_task_group() as group, watching as seen:
        group.start_soon(close)
        await anext(seen)
        with pytest.raises(ClientClosedError, match="closed during the watch"):
            await anext(seen)
        assert anyio.current_time() == pytest.approx(10)
