"""How a call travels through middleware."""

from __future__ import annotations

import functools
from collections.abc import Awaitable
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast, get_args

import anyio
import attrs
import pytest

from decaptcha_async._chain import DOING, Call, CallLog, Handler, Middleware, compose
from decaptcha_async._readings import BalanceReading
from decaptcha_async.errors import Phase

CALL = Call(operation="balance", account="0" * 32)
READING = BalanceReading(
    amount=Decimal("1250.75"), raw="1250.75", taken_at=datetime.now(UTC), latency=0.1
)

pytestmark = pytest.mark.anyio


async def endpoint(call: Call) -> BalanceReading:
    """The innermost handler: answers with the number of the attempt."""
    return attrs.evolve(READING, attempts=call.attempt)


@attrs.define(eq=False)
class Named:
    """A middleware that writes down when the call goes in and the reading comes out."""

    name: str
    seen: list[str]

    async def __call__(self, call: Call, call_next: Handler) -> BalanceReading:
        """Note, pass on, note."""
        self.seen.append(f"> {self.name} {call.attempt}")
        reading = await call_next(attrs.evolve(call, attempt=call.attempt + 1))
        self.seen.append(f"< {self.name}")
        return reading


async def test_the_first_is_outermost() -> None:
    """R1: a call goes in through the list in its order, and the reading comes out backwards."""
    seen: list[str] = []
    handler = compose([Named("a", seen), Named("b", seen), Named("c", seen)], endpoint)
    reading = await handler(CALL)
    assert seen == ["> a 1", "> b 2", "> c 3", "< c", "< b", "< a"]
    assert reading.attempts == 4


async def test_an_empty_list_is_the_endpoint() -> None:
    """R1: without middleware the endpoint itself answers."""
    assert compose([], endpoint) is endpoint


async def test_one_object_serves_two_chains_and_two_places() -> None:
    """R1: objects store no next, so one may stand in two chains, and twice in one."""
    seen: list[str] = []
    shared = Named("s", seen)

    async def other(call: Call) -> BalanceReading:
        return attrs.evolve(READING, raw="other")

    first, second = compose([shared, shared], endpoint), compose((shared,), other)
    assert (await first(CALL)).attempts == 3
    assert (await second(CALL)).raw == "other"
    assert (await first(CALL)).attempts == 3


async def test_the_list_is_read_once() -> None:
    """R1: a chain is built once; what happens to the list later changes nothing."""
    seen: list[str] = []
    layers: list[Middleware] = [Named("a", seen)]
    handler = compose(layers, endpoint)
    layers.clear()
    await handler(CALL)
    assert seen == ["> a 1", "< a"]


async def test_cancellation_passes_through() -> None:
    """R1: the chain swallows no BaseException: a cancelled call is cancelled."""

    async def never(call: Call) -> BalanceReading:
        return await answers.receive()

    seen: list[str] = []
    unused, answers = anyio.create_memory_object_stream[BalanceReading]()
    with unused, answers, anyio.move_on_after(0.01) as scope:
        await compose([Named("a", seen)], never)(CALL)
    assert scope.cancelled_caught
    assert seen == ["> a 1"]


async def plain(call: Call, call_next: Handler) -> BalanceReading:
    """The simplest middleware."""
    return await call_next(call)


async def with_option(option: str, call: Call, call_next: Handler) -> BalanceReading:
    """A middleware made by functools.partial."""
    return await call_next(call)


class Methods:
    """Middleware as methods of all three kinds."""

    async def method(self, call: Call, call_next: Handler) -> BalanceReading:
        """Pass on."""
        return await call_next(call)

    @classmethod
    async def class_method(cls, call: Call, call_next: Handler) -> BalanceReading:
        """Pass on."""
        return await call_next(call)

    @staticmethod
    async def static_method(call: Call, call_next: Handler) -> BalanceReading:
        """Pass on."""
        return await call_next(call)


@functools.wraps(plain)
def decorated(call: Call, call_next: Handler) -> Awaitable[BalanceReading]:
    """A plain function around an async one, as decorators make them."""
    return plain(call, call_next)


def synchronous(call: Call, call_next: Handler) -> None:
    """A middleware that is none: it cannot await."""


@functools.wraps(synchronous)
async def async_around_sync(call: Call, call_next: Handler) -> BalanceReading:
    """An async wrapper whose __wrapped__ is a plain function."""
    return await call_next(call)


class Synchronous:
    """A callable object that is not async."""

    def __call__(self, call: Call, call_next: Handler) -> None:
        """Cannot await."""


GOOD: dict[str, Middleware] = {
    "async def": plain,
    "object": Named("a", []),
    "method": Methods().method,
    "class method": Methods.class_method,
    "static method": Methods.static_method,
    "partial": functools.partial(with_option, "option"),
    "partial of partial": functools.partial(functools.partial(with_option, "option")),
    "partial of object": functools.partial(Named("a", [])),
    "decorated": decorated,
    "partial of decorated": functools.partial(decorated),
    "async around plain": async_around_sync,
}


@pytest.mark.parametrize("layer", GOOD.values(), ids=GOOD.keys())
async def test_async_callables_are_middleware(layer: Middleware) -> None:
    """R1: whatever gives an awaitable may stand in the list, and works there."""
    assert (await compose([layer], endpoint)(CALL)).amount == READING.amount


BAD: dict[str, tuple[object, str]] = {
    "class": (Named, "middleware must be an instance: write Named(...)"),
    "int": (30, "middleware must be an async callable, not int"),
    "None": (None, "middleware must be an async callable, not NoneType"),
    "str": ("retry", "middleware must be an async callable, not str"),
    "list": ([plain], "middleware must be an async callable, not list"),
    "plain function": (
        synchronous,
        "middleware must be async: synchronous is not, write it with `async def`",
    ),
    "lambda": (
        lambda: None,
        "middleware must be async: <lambda> is not, write it with `async def`",
    ),
    "plain object": (
        Synchronous(),
        "middleware must be async: Synchronous is not, write it with `async def`",
    ),
    "partial": (
        functools.partial(synchronous),
        "middleware must be async: partial is not, write it with `async def`",
    ),
    "decorated": (
        functools.wraps(synchronous)(lambda: None),
        "middleware must be async: synchronous is not, write it with `async def`",
    ),
    "builtin": (print, "middleware must be async: print is not, write it with `async def`"),
}


@pytest.mark.parametrize(("layer", "message"), BAD.values(), ids=BAD.keys())
def test_anything_else_is_refused(layer: object, message: str) -> None:
    """R1: what is not an async callable is a TypeError at construction, wherever it stands."""
    bad = cast("Middleware", layer)
    for layers in ([bad], [plain, bad], [bad, plain]):
        with pytest.raises(TypeError) as caught:
            compose(layers, endpoint)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        (plain, "function"),
        (Named("a", []), "Named"),
        ("retry", "str"),
        (None, "NoneType"),
        ({plain}, "set"),
        ((layer for layer in [plain]), "generator"),
    ],
    ids=["function", "object", "str", "None", "set", "generator"],
)
def test_middleware_comes_in_a_list(layers: object, name: str) -> None:
    """R1: order matters, so that only a sequence will do."""
    with pytest.raises(TypeError, match=f"^middleware must be a list, not {name}$"):
        compose(cast("list[Middleware]", layers), endpoint)


def test_a_call_shows_no_account() -> None:
    """API: account and log are not in the repr of a call."""
    call = Call(operation="balance", max_attempts=1, account="c0ffee", log=CallLog(host="h"))
    assert repr(call) == "Call(operation='balance', attempt=1, max_attempts=1)"


def test_one_log_for_all_attempts() -> None:
    """API: a call changed by attrs.evolve keeps its log, which is no part of equality."""
    later = attrs.evolve(CALL, attempt=2)
    later.log.requests += 1
    assert later.log is CALL.log
    assert attrs.evolve(later, attempt=1, log=CallLog()) == CALL
    assert later != CALL
    assert (
        Call(operation="balance", account="a").log is not Call(operation="balance", account="a").log
    )


def test_every_phase_has_its_words() -> None:
    """C5: a message can say what the call was doing, in every phase and before the first."""
    assert DOING.keys() == {*get_args(Phase), None}
    assert all(DOING.values())
