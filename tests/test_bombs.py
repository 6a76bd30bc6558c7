"""Answers made to fill the memory, and the memory of a process that asks for them."""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
import zlib
from collections.abc import AsyncGenerator
from functools import cache
from typing import Any, Final

import anyio
import pytest
import wire
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

pytestmark = pytest.mark.anyio

MEBI: Final = 1 << 20
MOST_GROWTH: Final = 5_000_000
ZEROS: Final = bytes(64 * 1024)

BOMBS: Final = {
    "gzip": ["InvalidResponseError", "encoding"],
    "gzip-in-gzip": ["InvalidResponseError", "encoding"],
    "deflate": ["InvalidResponseError", "encoding"],
    "br": ["InvalidResponseError", "encoding"],
    "zstd": ["InvalidResponseError", "encoding"],
    "declared": ["InvalidResponseError", "too_large"],
    "no-length": ["InvalidResponseError", "too_large"],
    "chunked": ["InvalidResponseError", "too_large"],
    "refusal": ["ServerError", None],
}
"""What each becomes: the error's class and its reason. The first five unpack to 1 GiB."""

PROGRAM: Final = """
import importlib, json, sys
import anyio
from decaptcha_async import BalanceClient, DecaptchaError

def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

def forget_peak():
    with open("/proc/self/clear_refs", "w") as references:
        references.write("5")

async def balance(url, yours):
    async with BalanceClient("key", base_url=url, http_client=yours, middleware=[]) as client:
        try:
            return str((await client.get_balance()).amount)
        except DecaptchaError as error:
            return [type(error).__name__, getattr(error, "reason", None)]

async def content(url, yours):
    return len((await yours.get(url)).content)

async def main(server, ask, library, *names):
    async with importlib.import_module(library or "httpx").AsyncClient() as yours:
        for name in names:
            forget_peak()
            before = memory("VmRSS")
            outcome = await globals()[ask](f"{server}/{name}", yours if library else None)
            print(json.dumps([outcome, memory("VmHWM") - before]))

anyio.run(main, *sys.argv[2:], backend=sys.argv[1])
"""
"""Asks for each name, and prints the outcome and the growth of resident memory, in bytes."""


@cache
def deflated() -> bytes:
    """1 GiB of zeros, deflated (RFC 1951): a mebibyte's block a thousand times."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = packer.compress(bytes(MEBI)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * 1024 + b"\x03\x00"


@cache
def gzipped() -> bytes:
    """1 GiB of zeros (RFC 1952); the checksum, which comes after the harm, is missing."""
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + deflated()


def gzipped_twice() -> bytes:
    """1 GiB of zeros in a few kilobytes."""
    return gzip.compress(gzipped())


def brotli() -> bytes:
    """1 GiB of zeros (RFC 7932), in 64 flushed blocks of 16 MiB each."""
    first = bytes.fromhex("cfffff7f002400e2b14072efff0d")
    other = bytes.fromhex("fcffff074002200e0b40f7fedf00")
    return first + other * 63 + b"\x03"


def zstandard() -> bytes:
    """1 GiB of zeros (RFC 8878), in blocks of 128 KiB that say "a zero, so many times"."""
    return bytes.fromhex("28b52ffd0038") + bytes.fromhex("02001000") * 8191 + b"\x03\x00\x10\x00"


def packed(coding: str, body: bytes) -> tuple[bytes, bytes]:
    """An answer with a Content-Encoding, which ends."""
    return wire.answer(body, f"Content-Encoding: {coding}").data, b""


def answers() -> dict[str, tuple[bytes, bytes]]:
    """What is said by name, and what is said from then on without end, if anything."""
    return {
        "good": (wire.answer().data, b""),
        "small": packed("gzip", gzip.compress(bytes(32 * MEBI))),
        "gzip": packed("gzip", gzipped()),
        "gzip-in-gzip": packed("gzip, gzip", gzipped_twice()),
        "deflate": packed("deflate", deflated()),
        "br": packed("br", brotli()),
        "zstd": packed("zstd", zstandard()),
        "declared": (wire.head(f"Content-Length: {1024 * MEBI}"), ZEROS),
        "no-length": (wire.head(), ZEROS),
        "chunked": (wire.head("Transfer-Encoding: chunked"), b"10000\r\n" + ZEROS + b"\r\n"),
        "refusal": (wire.head(status="500 No"), ZEROS),
    }


@contextlib.asynccontextmanager
async def bomber() -> AsyncGenerator[str]:
    """A server whose answer depends on the first part of the path; where it listens."""
    said = answers()

    async def handle(stream: ByteStream) -> None:
        with contextlib.suppress(anyio.IncompleteRead, anyio.BrokenResourceError):
            async with stream:
                incoming = BufferedByteReceiveStream(stream)
                while True:
                    request = await incoming.receive_until(b"\r\n\r\n", len(ZEROS))
                    name = request.split(b" ")[1].split(b"/")[1].decode()
                    begin, endless = said[name]
                    await stream.send(begin)
                    while endless:
                        await stream.send(endless)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as connections,
    ):
        connections.start_soon(listener.serve, handle)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
        yield f"http://127.0.0.1:{port}"
        connections.cancel_scope.cancel()


async def grown(backend: str, ask: str, library: str, *names: str) -> dict[str, tuple[Any, int]]:
    """Outcome and growth for each name, in a process of its own."""
    async with bomber() as url:
        command = [sys.executable, "-W", "error", "-c", PROGRAM]
        with anyio.fail_after(60):
            done = await anyio.run_process(
                [*command, backend, url, ask, library, *names], stderr=None
            )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(names, lines, strict=True))


@pytest.mark.parametrize("library", ["", "httpx", "httpx2"], ids=["own", "httpx", "httpx2"])
async def test_bombs(library: str, anyio_backend_name: str) -> None:
    """B5, C4: each is a typed error, and costs less than 5 MB of memory."""
    found = await grown(anyio_backend_name, "balance", library, "good", *BOMBS)
    assert found.pop("good")[0] == "1250.75"
    assert {name: outcome for name, (outcome, _) in found.items()} == BOMBS
    assert {name: growth for name, (_, growth) in found.items() if growth > MOST_GROWTH} == {}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_what_the_libraries_do(library: str, anyio_backend_name: str) -> None:
    """B5: read as the libraries read it, 32 MiB of zeros are more than 5 MB; hence the refusal."""
    found = await grown(anyio_backend_name, "content", library, "good", "small")
    assert found["small"][0] == 32 * MEBI
    assert found["small"][1] > MOST_GROWTH


def test_the_bombs_unpack() -> None:
    """B5: what is packed here is no mere label: gzip within gzip, and deflate, hold zeros."""
    assert len(gzipped_twice()) < 16_000
    unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(
        gzip.decompress(gzipped_twice()), MEBI
    )
    assert unpacked == bytes(MEBI)
    assert zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated(), MEBI) == bytes(MEBI)
