"""What cancellations, closing servers and redirects do to five clients: `nox -s connections`.

They meet the same faults of one server on 127.0.0.1, in a process of its own. None of them has a
middleware or a retry of ours, which would hide a failure. It takes a minute or two.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import multiprocessing
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from multiprocessing.connection import Connection
from typing import Any, Final

import aiohttp
import anyio
import httpx
import httpx2

from decaptcha_async import BalanceClient

KEY: Final = "a-key-that-opens-nothing"
GOOD, GLUED = "1250.75", "0.01"
CODES: Final = [301, 302, 303, 307, 308]
CANCELLATIONS, AFTERWARDS = 2_000, 20
RACES, IDLE = 300, 0.01
ANSWERS: Final = 50
CHECKS, AT_ONCE = 500, 100
LONGEST, PATIENCE, AT_MOST = 0.1, 5.0, 600.0

Ask = Callable[[], Awaitable[str]]
Client = Callable[[str], AbstractAsyncContextManager[Ask]]
"""Opened at a base URL, it gives what asks for the amount there."""


class Service(asyncio.Protocol):
    """One connection to a server whose manners are the first part of the path it is asked for."""

    elsewhere = ""
    strays = 0

    def __init__(self, *, other: bool = False) -> None:
        self._other = other
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request when it is complete."""
        self._received += data
        if not self._received.endswith(b"\r\n\r\n"):
            return
        request, self._received = self._received.decode(), b""
        Service.strays += self._other and KEY in request
        manners = request.split("/")[1]
        later = asyncio.get_running_loop().call_later
        match manners:
            case "slow":
                later(random.uniform(0.002, 0.02), self._transport.write, answer())
            case "glued":
                self._transport.write(answer() + answer(amount=GLUED))
            case "strays":
                self._transport.write(answer(amount=str(Service.strays)))
            case _ if manners.isdigit():
                self._transport.write(answer(manners, f"Location: {Service.elsewhere}"))
            case _:
                self._transport.write(answer())
        if manners == "closing":
            later(IDLE, self._transport.close)


def answer(status: str = "200", *headers: str, amount: str = GOOD) -> bytes:
    """An answer as the vendor documents it."""
    body = f'{{"isSuccess":true,"statusCode":200,"errorMessage":null,"data":"{amount}"}}'
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


def serve(parent: Connection) -> None:
    """Serve at two origins, of which the second counts the keys that stray to it, until ended."""

    async def main() -> None:
        listen = functools.partial(
            asyncio.get_running_loop().create_server, host="127.0.0.1", backlog=1_000
        )
        other = await listen(lambda: Service(other=True))
        Service.elsewhere = f"{origin(other)}/elsewhere"
        server = await listen(Service)
        parent.send(origin(server))
        await server.serve_forever()

    asyncio.run(main())


def origin(server: asyncio.Server) -> str:
    """Where it listens."""
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


# The five clients.


@contextlib.asynccontextmanager
async def ours(base_url: str, *, reuse: bool = False) -> AsyncGenerator[Ask, None]:
    """This library."""
    async with BalanceClient(
        KEY, base_url=base_url, middleware=[], reuse_connections=reuse
    ) as client:

        async def ask() -> str:
            return (await client.get_balance()).raw

        yield ask


@contextlib.asynccontextmanager
async def shared_pool(base_url: str, *, library: Any) -> AsyncGenerator[Ask, None]:
    """A client of httpx or httpx2."""
    client = library.AsyncClient(trust_env=False, follow_redirects=True, timeout=PATIENCE)

    async def ask() -> str:
        response = await client.get(f"{base_url}/api/balance", headers={"x-api-key": KEY})
        return str(response.json()["data"])

    yield ask
    with contextlib.suppress(Exception):
        await client.aclose()


@contextlib.asynccontextmanager
async def session(base_url: str) -> AsyncGenerator[Ask, None]:
    """A session of aiohttp."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout) as client:

        async def ask() -> str:
            url, headers = f"{base_url}/api/balance", {"x-api-key": KEY}
            async with client.get(url, headers=headers) as response:
                return str((await response.json(content_type=None))["data"])

        yield ask


CLIENTS: Final[dict[str, Client]] = {
    "ours": ours,
    "ours, reused": functools.partial(ours, reuse=True),
    "httpx": functools.partial(shared_pool, library=httpx),
    "httpx2": functools.partial(shared_pool, library=httpx2),
    "aiohttp": session,
}


# What they go through.


async def outcomes(ask: Ask, count: int, *, pause: float = 0.0) -> list[str]:
    """Ask one after the other: the amounts, or the names of what was raised."""
    amounts: list[str] = []
    for _ in range(count):
        await asyncio.sleep(pause)
        amounts.append(await outcome(ask))
    return amounts


async def outcome(ask: Ask) -> str:
    """The amount, or the name of what was raised."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await ask()
    except Exception as error:  # noqa: BLE001 - what any of five libraries may raise
        return type(error).__name__


async def at_once(task: Callable[[], Awaitable[object]], count: int) -> list[object]:
    """Run it so many times at the same time."""
    return await asyncio.gather(*(task() for _ in range(count)))


async def after_cancellations(client: Client, server: str, *, concurrency: int) -> str:
    """Good readings after calls were cancelled at random moments, in three ways."""
    left = CANCELLATIONS

    async with client(f"{server}/slow") as ask:
        began = time.monotonic()
        await at_once(functools.partial(outcome, ask), concurrency)
        longest = min(LONGEST, time.monotonic() - began)

        async def cancel() -> None:
            nonlocal left
            while left > 0:
                was_cancelled = await cancelled(ask, random.uniform(0, longest))
                left -= was_cancelled

        await at_once(cancel, concurrency)
        readings = await at_once(functools.partial(outcome, ask), AFTERWARDS)
    return f"{readings.count(GOOD)} of {AFTERWARDS}"


async def cancelled(ask: Ask, seconds: float) -> bool:
    """Ask, and cancel it after a while: whether it came to that."""
    with contextlib.suppress(Exception):
        match random.randrange(3):
            case 0:
                with anyio.move_on_after(seconds) as scope:
                    await ask()
                return scope.cancelled_caught
            case 1:
                try:
                    await asyncio.wait_for(ask(), seconds)
                except TimeoutError:
                    return True
            case _:
                task = asyncio.ensure_future(ask())
                await asyncio.wait([task], timeout=seconds)
                task.cancel()
                await asyncio.wait([task])
                return task.cancelled()
    return False


async def closing_server(client: Client, server: str) -> str:
    """Failures when each call comes as the server closes the connection that was left idle."""
    async with client(f"{server}/closing") as ask:
        amounts = await outcomes(ask, RACES, pause=IDLE)
    return f"{RACES - amounts.count(GOOD)} of {RACES}"


async def glued_answers(client: Client, server: str) -> str:
    """Wrong amounts when another answer comes behind each answer."""
    async with client(f"{server}/glued") as ask:
        amounts = await outcomes(ask, ANSWERS)
    return f"{amounts.count(GLUED)} of {ANSWERS}"


async def redirects(client: Client, server: str) -> str:
    """Requests with the key that arrive at another origin."""
    before = await strays(server)
    for code in CODES:
        async with client(f"{server}/{code}") as ask:
            await outcome(ask)
    return f"{await strays(server) - before} of {len(CODES)}"


async def strays(server: str) -> int:
    """How many keys the other origin has seen."""
    async with ours(f"{server}/strays") as ask:
        return int(await ask())


async def work(client: Client, server: str) -> float:
    """Seconds of CPU for the checks."""
    async with client(f"{server}/good") as ask:
        await at_once(ask, AT_ONCE)
        began = time.process_time()
        await at_once(functools.partial(outcomes, ask, CHECKS // AT_ONCE), AT_ONCE)
        return time.process_time() - began


async def compare(server: str) -> None:
    """Go through everything, and print the table."""
    rows: dict[str, list[str]] = {}
    measures: dict[str, Callable[[Client, str], Awaitable[str]]] = {
        f"good readings of {AFTERWARDS} after {CANCELLATIONS:,} cancellations, 20 at a time": (
            functools.partial(after_cancellations, concurrency=20)
        ),
        f"the same, {AT_ONCE} at a time": functools.partial(
            after_cancellations, concurrency=AT_ONCE
        ),
        "failures when the server closes idle connections at the same moment": closing_server,
        "wrong amounts when answers come glued": glued_answers,
        "keys that a redirect sends to another origin": redirects,
    }
    for title, measure in measures.items():
        rows[title] = [await measure(client, server) for client in CLIENTS.values()]
    spent = [await work(client, server) for client in CLIENTS.values()]
    httpx_spent = spent[list(CLIENTS).index("httpx")]
    rows[f"CPU of a check beside httpx, {AT_ONCE} at a time"] = [
        f"{seconds / httpx_spent:.2f}" for seconds in spent
    ]
    libraries = ("httpx", "httpx2", "aiohttp")
    table = [
        ["", *CLIENTS],
        ["---"] * (len(CLIENTS) + 1),
        *([title, *cells] for title, cells in rows.items()),
    ]
    print(*(f"{name} {importlib.metadata.version(name)}" for name in libraries), sep=", ")  # noqa: T201
    print(*(f"| {' | '.join(cells)} |" for cells in table), sep="\n")  # noqa: T201


async def main() -> None:
    """Start the server, and end it when all is done."""
    multiprocessing.set_start_method("spawn")
    parent, child = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(child,), daemon=True)
    process.start()
    try:
        async with asyncio.timeout(AT_MOST):
            await compare(parent.recv())
    finally:
        process.terminate()
        process.join()


if __name__ == "__main__":
    asyncio.run(main())
