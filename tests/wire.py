"""A server on 127.0.0.1 that says what a test scripts, byte by byte, and notes what it is asked."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Final, Literal

import anyio
import attrs
import trustme
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSStream

GOOD: Final = b'{"isSuccess":true,"statusCode":200,"errorMessage":null,"data":"1250.75"}'
"""The vendor's example of a good answer."""

_LONGEST_HEAD: Final = 64 * 1024
_PATIENCE: Final = 10.0


@attrs.frozen
class Reply:
    """Bytes to send for a request, and what to do then.

    ``next`` waits for another request on the connection, ``close`` closes it, ``hold`` says
    nothing more until the client closes, ``drip`` goes on for ever, a byte at a time.
    ``pause`` is for how many seconds the server thinks first.
    """

    data: bytes
    then: Literal["next", "close", "hold", "drip"] = "next"
    pause: float = 0.0


def answer(body: bytes = GOOD, *headers: str, status: str = "200 OK") -> Reply:
    """A whole answer, with its length."""
    return Reply(head(f"Content-Length: {len(body)}", *headers, status=status) + body)


def head(*headers: str, status: str = "200 OK") -> bytes:
    """The head of an answer."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, "")).encode("latin-1")


SILENT: Final = Reply(b"", "hold")
DRIPPING: Final = Reply(head("Content-Length: 72"), "drip")
CUT: Final = Reply(head("Content-Length: 72") + GOOD[:36], "close")
STALLED: Final = attrs.evolve(CUT, then="hold")


class Server:
    """What the server counts: connections, those open now, and requests.

    Attributes:
        base_url: where it listens.
        connections: how many were accepted.
        open: how many are open.
        most_open: the most that were open at a time.
        requests: heads of the requests, in order of arrival.
        unfinished: what came on a connection and never became a request.
    """

    def __init__(
        self, port: int, replies: tuple[Reply, ...], *, tls: ssl.SSLContext | None, greeting: bytes
    ) -> None:
        self.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.requests: list[bytes] = []
        self.unfinished = b""
        self._replies = replies
        self._tls = tls
        self._greeting = greeting
        self._change = anyio.Event()

    def fields(self, number: int = -1) -> list[tuple[str, str]]:
        """The header fields of a request, names in lower case."""
        lines = self.requests[number].decode("latin-1").split("\r\n")[1:-2]
        return [(name.lower(), value) for name, _, value in (s.partition(": ") for s in lines)]

    async def until(self, condition: Callable[[Server], object]) -> None:
        """Wait until ``condition`` holds."""
        with anyio.fail_after(_PATIENCE):
            while not condition(self):
                await self._change.wait()

    async def asked(self, count: int) -> None:
        """Wait until so many requests came."""
        await self.until(lambda server: len(server.requests) >= count)

    async def idle(self) -> None:
        """Wait until every connection is closed."""
        await self.until(lambda server: not server.open)

    async def handle(self, stream: ByteStream) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self._tell()
        try:
            async with stream:
                await stream.send(self._greeting)
                if self._tls is not None:
                    stream = await TLSStream.wrap(
                        stream, server_side=True, ssl_context=self._tls, standard_compatible=False
                    )
                await self._converse(stream)
        except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
            pass  # the client is gone
        finally:
            self.open -= 1
            self._tell()

    async def _converse(self, stream: ByteStream) -> None:
        incoming = BufferedByteReceiveStream(stream)
        while True:
            try:
                request = await incoming.receive_until(b"\r\n\r\n", _LONGEST_HEAD)
            except anyio.IncompleteRead:
                self.unfinished += incoming.buffer
                return
            reply = self._replies[min(len(self.requests), len(self._replies) - 1)]
            self.requests.append(request + b"\r\n\r\n")
            self._tell()
            await anyio.sleep(reply.pause)
            await stream.send(reply.data)
            while reply.then == "drip":
                await anyio.sleep(0.01)
                await stream.send(b" ")
            if reply.then == "hold":
                await incoming.receive()
            if reply.then != "next":
                return

    def _tell(self) -> None:
        self._change.set()
        self._change = anyio.Event()


@contextlib.asynccontextmanager
async def serve(
    *replies: Reply, tls: ssl.SSLContext | None = None, greeting: bytes = b""
) -> AsyncGenerator[Server, None]:
    """A server that plays ``replies`` in order, one a request; the last one again and again.

    A ``greeting`` is what it says on each connection before it is asked anything.
    """
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as connections,
    ):
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
        server = Server(port, replies or (answer(),), tls=tls, greeting=greeting)
        connections.start_soon(listener.serve, server.handle)
        yield server
        connections.cancel_scope.cancel()


class Authority:
    """A certificate authority of its own.

    Attributes:
        pem: its certificate.
        server: for a server on 127.0.0.1 with a certificate of this authority.
        client: for a client that trusts this authority and no other.
    """

    def __init__(self) -> None:
        authority = trustme.CA()
        self.pem = authority.cert_pem.bytes()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = authority.issue_cert("127.0.0.1")
        with certificate.private_key_and_cert_chain_pem.tempfile() as file:
            self.server.load_cert_chain(file)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.load_verify_locations(cadata=self.pem.decode())


@contextlib.contextmanager
def nobody() -> Generator[str, None, None]:
    """A base URL where nothing listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


@contextlib.contextmanager
def full() -> Generator[str, None, None]:
    """A base URL whose listener takes no more connections: connecting to it hangs."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = sockets.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
