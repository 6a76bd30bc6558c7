"""One attempt, on real sockets: what is sent, how it is read, what leaves with an error."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import math
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel
import httpx
import pytest
import wire
from canary import CANARY

from decaptcha_async._http.connections import open_client
from decaptcha_async._http.endpoint import Endpoint, HTTPClient, _phase_timeouts
from decaptcha_async._readings import BalanceReading
from decaptcha_async._secret import ApiKey
from decaptcha_async._wire import MAX_BODY, request_headers
from decaptcha_async.errors import (
    APIError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    InvalidResponseError,
    RateLimitedError,
    ServerError,
    TransportError,
)

pytestmark = pytest.mark.anyio
every_client = pytest.mark.parametrize("library", ["own", "httpx", "httpx2"])

E = TypeVar("E", bound=DecaptchaError)

KEY: Final = CANARY
ELSEWHERE: Final = "https://api.example"
HTML: Final = b"<!doctype html><title>Balance API</title>"
LARGE: Final = b" " * 4 * MAX_BODY
CHUNKED: Final = wire.head("Transfer-Encoding: chunked")


class Keys:
    """A key source that rotates: each key is handed out once, the last for ever."""

    def __init__(self, *keys: str) -> None:
        self.asked = 0
        self._keys = keys

    async def ask(self) -> ApiKey:
        """The next key."""
        self.asked += 1
        return ApiKey(self._keys[min(self.asked, len(self._keys)) - 1])


def endpoint(base_url: str, client: HTTPClient | None, *keys: str) -> Endpoint:
    """An endpoint that asks with ``client``."""
    return Endpoint(base_url, Keys(*keys or [KEY]), request_headers("0.1.0"), client)


@contextlib.asynccontextmanager
async def client_of(library: str, **settings: object) -> AsyncGenerator[Any, None]:
    """A client of our own, or one as a user of ``library`` makes it."""
    if library == "own":
        made: Any = await open_client(tls=False)
    else:
        made = importlib.import_module(library).AsyncClient(**settings)
    async with made:
        yield made


def mock(handler: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    """A client of httpx that answers without a socket."""
    return httpx.AsyncClient(transport=httpx.MockTransport(handler))


async def ask(base_url: str, client: HTTPClient | None = None) -> BalanceReading:
    """Make one call of one attempt, on a client of our own unless one is given."""
    async with contextlib.AsyncExitStack() as stack:
        if client is None:
            client = await stack.enter_async_context(client_of("own"))
        there = endpoint(base_url, client)
        return await there(await there.begin("balance", None))


async def refusal(kind: type[E], base_url: str, client: HTTPClient | None = None) -> E:
    """The error that one call of one attempt ends with, which must be exactly of ``kind``."""
    with pytest.raises(DecaptchaError) as caught:
        await ask(base_url, client)
    assert type(caught.value) is kind
    return caught.value


# What is sent


async def test_the_request_on_the_wire() -> None:
    """C8, K5, B5: the request is this, byte for byte, and nothing else."""
    async with wire.serve() as server:
        await ask(server.base_url)
        [request] = server.requests
        assert request.decode() == (
            "GET /api/balance HTTP/1.1\r\n"
            f"Host: {server.base_url.removeprefix('http://')}\r\n"
            "Connection: close\r\n"
            "User-Agent: decaptcha-async/0.1.0\r\n"
            "Accept: application/json\r\n"
            "Accept-Encoding: identity\r\n"
            f"x-api-key: {KEY}\r\n"
            "\r\n"
        )


async def test_a_path_prefix() -> None:
    """C8: a prefix in base_url comes before the documented path."""
    async with wire.serve() as server:
        await ask(f"{server.base_url}/proxy/v2")
        assert server.requests[0].startswith(b"GET /proxy/v2/api/balance HTTP/1.1\r\n")


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_an_injected_client_of_many_opinions(library: str) -> None:
    """C4: on a client of yours our URL, key and headers win, for this request; others stay."""
    opinionated = client_of(
        library,
        base_url="http://127.0.0.1:9/wrong",
        headers={"X-API-Key": "yours", "Accept": "text/html", "User-Agent": "bot", "X-Team": "a"},
        auth=("user", "password"),
    )
    async with wire.serve() as server, opinionated as client:
        await ask(server.base_url, client)
        fields = server.fields()
        assert [value for name, value in fields if name == "x-api-key"] == [KEY]
        assert dict(fields)["accept"] == "application/json"
        assert dict(fields)["accept-encoding"] == "identity"
        assert dict(fields)["user-agent"] == "decaptcha-async/0.1.0"
        assert dict(fields)["x-team"] == "a"
        assert "authorization" not in dict(fields)
        assert client.headers["x-api-key"] == "yours"
        assert not client.is_closed


async def test_a_key_for_each_attempt() -> None:
    """K2: the key is asked for once an attempt, the first time when the call begins."""
    async with wire.serve() as server, client_of("own") as client:
        there = endpoint(server.base_url, client, "first", "second", "third")
        call = await there.begin("balance", None)
        readings = [await there(call), await there(call)]
        assert [reading.attempts for reading in readings] == [1, 2]
        assert [dict(server.fields(n))["x-api-key"] for n in (0, 1)] == ["first", "second"]


async def test_calls_and_accounts() -> None:
    """K2: a call names account, limit and host, and shows nothing of the key."""
    there = endpoint(ELSEWHERE, None, "one", "two", "two")
    calls = [await there.begin("balance", limit) for limit in (None, 1, 1)]
    assert [call.max_attempts for call in calls] == [None, 1, 1]
    accounts = [call.account for call in calls]
    assert accounts[0] != accounts[1] == accounts[2]
    assert accounts[0] not in repr(calls[0])
    assert calls[0].log.host == "api.example"


# How it is read


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(wire.answer(), id="length"),
        pytest.param(wire.Reply(wire.head() + wire.GOOD, "close"), id="until-close"),
        pytest.param(
            wire.Reply(
                CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in wire.GOOD) + b"0\r\n\r\n"
            ),
            id="chunked",
        ),
        pytest.param(
            wire.Reply(wire.head(status="103 Early Hints") + wire.answer().data), id="early-hints"
        ),
        pytest.param(wire.answer(wire.GOOD, "Content-Encoding: identity"), id="identity"),
        pytest.param(wire.answer(wire.GOOD.ljust(MAX_BODY)), id="64-KiB"),
    ],
)
async def test_good_answers(reply: wire.Reply) -> None:
    """B1: however HTTP frames it, a good answer is a reading; and its connection is closed."""
    async with wire.serve(reply) as server:
        reading = await ask(server.base_url)
        assert (str(reading.amount), reading.raw) == ("1250.75", "1250.75")
        assert reading.attempts == len(server.requests) == 1
        assert 0 < reading.latency < 10
        assert 0 <= reading.age < 10
        await server.idle()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(wire.answer(HTML, "Content-Type: text/html"), "web_page", id="html"),
        pytest.param(
            wire.answer(gzip.compress(wire.GOOD), "Content-Encoding: gzip"), "encoding", id="gzip"
        ),
        pytest.param(
            wire.answer(wire.GOOD, "Content-Encoding: identity, br"), "encoding", id="brotli"
        ),
        pytest.param(
            wire.Reply(wire.head("Content-Length: 99999999999999"), "hold"),
            "too_large",
            id="declared-absurdly-long",
        ),
        pytest.param(wire.answer(wire.GOOD.ljust(MAX_BODY + 1)), "too_large", id="declared-long"),
        pytest.param(
            wire.Reply(wire.head() + LARGE + wire.GOOD, "close"), "too_large", id="undeclared"
        ),
        pytest.param(
            wire.Reply(CHUNKED + b"40001\r\n" + LARGE, "drip"), "too_large", id="chunked-for-ever"
        ),
        pytest.param(wire.answer(b""), "json", id="empty"),
        pytest.param(wire.Reply(wire.head(status="204 No Content")), "status", id="204"),
    ],
)
async def test_answers_that_cannot_be_trusted(reply: wire.Reply, reason: str) -> None:
    """B1, B4, B5: web pages, codings, more than 64 KiB: refused, and the connection closed."""
    async with wire.serve(reply) as server:
        error = await refusal(InvalidResponseError, server.base_url)
        assert error.reason == reason
        await server.idle()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@every_client
async def test_redirects(code: int, library: str) -> None:
    """B3: a redirect is refused, and where it leads no request arrives."""
    settings = {} if library == "own" else {"follow_redirects": True}
    async with wire.serve() as target, client_of(library, **settings) as client:
        moved = wire.answer(b"", f"Location: {target.base_url}", status=f"{code} Moved")
        async with wire.serve(moved) as server:
            error = await refusal(InvalidResponseError, server.base_url, client)
            assert (error.reason, error.status_code) == ("redirect", code)
            assert len(server.requests) == 1
        assert target.connections == 0


@pytest.mark.parametrize("location", ["http:nowhere", "http://xn--a/", "\x7f"])
@every_client
async def test_redirects_to_nowhere(location: str, library: str) -> None:
    """B3: what the HTTP library cannot parse as a Location is a refused redirect all the same."""
    moved = wire.answer(b"", f"Location: {location}", status="302 Found")
    async with wire.serve(moved) as server, client_of(library) as client:
        error = await refusal(InvalidResponseError, server.base_url, client)
        assert error.reason == "redirect"


@pytest.mark.parametrize(
    ("reply", "kind", "status"),
    [
        pytest.param(wire.answer(b"", status="401 No"), AuthenticationError, 401, id="401"),
        pytest.param(wire.answer(b"", status="404 No"), APIError, 404, id="404"),
        pytest.param(wire.answer(b"", status="429 No"), RateLimitedError, 429, id="429"),
        pytest.param(
            wire.answer(b"x", "Content-Encoding: gzip", status="500 No"),
            ServerError,
            500,
            id="compressed",
        ),
        pytest.param(wire.answer(LARGE, status="501 No"), ServerError, 501, id="large"),
        pytest.param(
            wire.Reply(wire.head(status="502 No") + LARGE, "drip"), ServerError, 502, id="endless"
        ),
        pytest.param(
            wire.Reply(wire.head("Content-Length: 9", status="503 No") + b"cut", "close"),
            ServerError,
            503,
            id="cut",
        ),
    ],
)
async def test_refusals(reply: wire.Reply, kind: type[APIError], status: int) -> None:
    """B1, B2: of a refusal the status says enough, be its body large, compressed or cut off."""
    async with wire.serve(reply) as server:
        error = await refusal(kind, server.base_url)
        assert error.status_code == status
        await server.idle()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(wire.Reply(b"", "close"), "the server closed the connection", id="nothing"),
        pytest.param(wire.Reply(b"SSH-2.0-x\r\n\r\n"), "the answer is not HTTP", id="ssh"),
        pytest.param(
            wire.Reply(b"\0" * 200_000, "close"), "the answer is binary, not HTTP", id="zeros"
        ),
        pytest.param(wire.Reply(wire.head("no colon")), "the answer is not HTTP", id="header"),
        pytest.param(
            wire.Reply(wire.head("Content-Length: 1", "Content-Length: 2")),
            "the answer is not HTTP",
            id="two-lengths",
        ),
        pytest.param(
            wire.Reply(wire.head()[:-2], "close"),
            "the server closed the connection",
            id="half-head",
        ),
        pytest.param(wire.CUT, "the answer was cut off", id="cut"),
        pytest.param(
            wire.Reply(CHUNKED + b"48\r\n" + wire.GOOD, "close"),
            "the answer was cut off",
            id="cut-between-chunks",
        ),
        pytest.param(
            wire.Reply(CHUNKED + b"what?\r\n", "close"), "the answer is not HTTP", id="chunk"
        ),
    ],
)
async def test_broken_answers(reply: wire.Reply, reason: str) -> None:
    """C5: broken framing and cut bodies are no answer, retryable, in phase ``receive``."""
    async with wire.serve(reply) as server:
        error = await refusal(TransportError, server.base_url)
        assert (error.phase, error.retryable) == ("receive", True)
        assert reason in str(error)
        await server.idle()


async def test_nobody_listens() -> None:
    """C5: a refused connection names host, reason and phase."""
    with wire.nobody() as url:
        error = await refusal(TransportError, url)
    assert (error.phase, error.host) == ("connect", url.removeprefix("http://"))
    assert "connection refused, while connecting" in str(error)


@pytest.mark.parametrize("url", ["https://1.2.3.999", "https://xn--a"])
async def test_a_base_url_that_httpx_refuses(url: str) -> None:
    """C5: a host that only the HTTP library knows to be malformed is a matter of configuration."""
    assert "base_url" in str(await refusal(ConfigurationError, url))


async def test_a_body_that_was_read() -> None:
    """B5: mock transports and hooks hand over a body that was read; it is capped all the same."""
    async with mock(lambda _: httpx.Response(200, content=wire.GOOD)) as client:
        assert (await ask(ELSEWHERE, client)).raw == "1250.75"
    undeclared = httpx.Response(200, content=wire.GOOD.ljust(MAX_BODY + 1))
    del undeclared.headers["Content-Length"]
    async with mock(lambda _: undeclared) as client:
        assert (await refusal(InvalidResponseError, ELSEWHERE, client)).reason == "too_large"


async def raise_for_status(response: httpx.Response) -> None:
    """A hook that many clients have."""
    response.raise_for_status()


async def read_and_raise_for_status(response: httpx.Response) -> None:
    """The same, of a client whose bodies are logged."""
    await response.aread()
    response.raise_for_status()


@pytest.mark.parametrize(
    ("hook", "message"), [(raise_for_status, ""), (read_and_raise_for_status, "Invalid API key")]
)
@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_a_hook_that_raises_for_the_status(
    hook: Callable[..., Any], message: str, library: str
) -> None:
    """R2, B2: where a hook of yours raises for a status, the answer is judged all the same."""
    body = b'{"isSuccess":false,"statusCode":401,"errorMessage":"Invalid API key","data":null}'
    denied = wire.answer(body, status="401 Unauthorized")
    busy = wire.answer(b"", "Retry-After: 7", status="429 Too Many Requests")
    hooks = {"response": [hook]}
    async with wire.serve(denied, busy) as server, client_of(library, event_hooks=hooks) as client:
        assert (await refusal(AuthenticationError, server.base_url, client)).message == message
        assert (await refusal(RateLimitedError, server.base_url, client)).retry_after == 7


class Stream(httpx.AsyncByteStream):
    """A body that goes on even after it was closed, and whose closing has its troubles."""

    def __init__(self, closing: Callable[[], Any]) -> None:
        self.pieces = 0
        self._closing = closing

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.pieces += 1
            yield b" " * MAX_BODY

    async def aclose(self) -> None:
        """Close, in its way."""
        await self._closing()


async def fail() -> None:
    """Fail to close."""
    raise OSError


# On trio a generator left half read, as this one must be, is a ResourceWarning of trio's own.
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_body_without_end() -> None:
    """B5: of a stream that goes on after it was closed, only a few pieces more are taken."""
    stream = Stream(anyio.lowlevel.checkpoint)
    async with mock(lambda _: httpx.Response(200, stream=stream)) as client:
        assert (await refusal(InvalidResponseError, ELSEWHERE, client)).reason == "too_large"
        assert stream.pieces == 11
        await anyio.wait_all_tasks_blocked()


@pytest.mark.virtual_time
@pytest.mark.parametrize(("closing", "seconds"), [(fail, 0), (anyio.sleep_forever, 2)])
async def test_closing_fails(closing: Callable[[], Any], seconds: float) -> None:
    """C1: what was learnt stands when closing fails; when it hangs, 2 s are waited."""
    compressed = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Stream(closing))
    async with mock(lambda _: compressed) as client:
        began = anyio.current_time()
        assert (await refusal(InvalidResponseError, ELSEWHERE, client)).reason == "encoding"
        assert anyio.current_time() - began == pytest.approx(seconds)


# How long it takes


async def hurry(request: httpx.Request) -> None:
    """A hook that makes the library lose patience soon."""
    request.extensions["timeout"]["read"] = 0.05


@pytest.mark.parametrize("reply", [wire.SILENT, wire.STALLED], ids=["silent", "stalled"])
@every_client
async def test_a_timeout_of_the_library(reply: wire.Reply, library: str) -> None:
    """C5: a timeout of the HTTP library is ours, with phase and seconds; the connection closes."""
    async with wire.serve(reply) as server, client_of(library) as client:
        client.event_hooks = {"request": [hurry], "response": []}
        error = await refusal(DeadlineExceededError, server.base_url, client)
        assert error.phase == "receive"
        assert " s, while waiting for the answer" in str(error)
        await server.idle()


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("seconds", "connect", "answer"),
    [(math.inf, 10, 30), (100, 10, 30), (20, 10, 19.9), (5, 4.9, 4.9), (1, 0.98, 0.98)],
)
async def test_phase_timeouts(seconds: float, connect: float, answer: float) -> None:
    """C4, C5: connect 10 s and read 30 s, or a little less than the time that is left."""
    seen: list[dict[str, float]] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(200, content=wire.GOOD)

    async with mock(note) as client:
        with anyio.fail_after(seconds):
            await ask(ELSEWHERE, client)
    expected = {"connect": connect, "read": answer, "write": answer, "pool": answer}
    assert seen == [pytest.approx(expected)]


async def test_the_patience_of_our_own_client() -> None:
    """C5: 10 s and 30 s whatever the caller's deadline: who cancels a call finds it cancelled."""
    seen: list[dict[str, float]] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(200, content=wire.GOOD)

    async with mock(note) as client:
        own = endpoint(ELSEWHERE, None)
        own.client = client
        with anyio.fail_after(5):
            await own(await own.begin("balance", None))
    assert seen == [{"connect": 10, "read": 30, "write": 30, "pool": 30}]


async def test_phase_timeouts_after_the_deadline() -> None:
    """C4: when no time is left, httpx is given next to none, never less."""
    with anyio.CancelScope(deadline=-math.inf):  # noqa: ASYNC100 - nothing is waited for
        assert all(0 < timeout < 0.01 for timeout in _phase_timeouts())


async def test_phases() -> None:
    """C5: the log of a call follows its last request, for the message of a deadline."""
    phases: list[str | None] = []

    async def note(_: object) -> None:
        phases.append(call.log.phase)

    authority = wire.Authority()
    trusting = client_of("httpx", verify=authority.client)
    async with wire.serve(tls=authority.server) as server, trusting as client:
        client.event_hooks = {"request": [note], "response": [note]}
        there = endpoint(server.base_url, client)
        call = await there.begin("balance", None)
        await there(call)
        await there(call)
    assert phases == [None, "receive", None, "receive"]


# What leaves with an error


def innermost(error: BaseException) -> str:
    """The last function of ours or of a library in the traceback."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_qualname


@pytest.mark.parametrize(
    "reply", [wire.SILENT, wire.STALLED, wire.DRIPPING], ids=["silent", "stalled", "dripping"]
)
@every_client
async def test_cancelled(reply: wire.Reply, library: str) -> None:
    """C1, K2: a cancelled attempt closes its connection and takes no frame below ours along."""
    seen: list[BaseException] = []

    async def impatient() -> None:
        try:
            await ask(server.base_url, client)
        except anyio.get_cancelled_exc_class() as error:
            seen.append(error)
            raise

    async with wire.serve(reply) as server, client_of(library) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(impatient)
            await server.asked(1)
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        await server.idle()
    [error] = seen
    assert innermost(error) == "Endpoint.__call__"
    assert error.__context__ is error.__cause__ is None


async def test_errors_of_ours() -> None:
    """K2: an error of ours leaves from the endpoint, and nothing hangs on it."""
    with wire.nobody() as url:
        error = await refusal(TransportError, url)
    assert innermost(error) == "Endpoint.__call__"
    assert error.__context__ is error.__cause__ is None


class BugError(Exception):
    """What code of yours raises."""


def fault(_: httpx.Request) -> httpx.Response:
    """Fail, with a cause."""
    try:
        return httpx.Response(int("no status"))
    except ValueError as cause:
        raise BugError from cause


def faults(request: httpx.Request) -> httpx.Response:
    """Fail several times over."""
    try:
        return fault(request)
    except BugError as cause:
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [cause])]) from cause


async def test_exceptions_of_yours() -> None:
    """C5, E, K2: an exception of your own passes as itself, without frames and causes below."""
    async with mock(fault) as client:
        with pytest.raises(BugError) as caught:
            await ask(ELSEWHERE, client)
    assert innermost(caught.value) == "Endpoint.__call__"
    assert caught.value.__context__ is caught.value.__cause__ is None


async def test_groups_of_exceptions_of_yours() -> None:
    """K2: the members of a group leave without frames and causes, too."""
    async with mock(faults) as client:
        with pytest.raises(ExceptionGroup) as caught:
            await ask(ELSEWHERE, client)
    members: list[BaseException] = [*caught.value.exceptions]
    members.extend(getattr(members[0], "exceptions", ()))
    assert [type(error) for error in members] == [ExceptionGroup, BugError]
    for error in members:
        assert error.__traceback__ is None
        assert error.__context__ is error.__cause__ is None


@every_client
async def test_a_closed_client(library: str) -> None:
    """C6: an injected client that you closed is a ClientClosedError, and says whose it is."""
    async with client_of(library) as client:
        pass
    error = await refusal(ClientClosedError, ELSEWHERE, client)
    assert "the http_client is closed" in str(error)


async def test_without_a_client() -> None:
    """C6: an endpoint that was given no client has no open one."""
    there = endpoint(ELSEWHERE, None)
    with pytest.raises(ClientClosedError):
        await there(await there.begin("balance", None))
