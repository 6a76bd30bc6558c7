"""`Retry`: how often, how long apart, why it ends, and what it hands on."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import pickle
import random
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from copy import copy, deepcopy
from datetime import timedelta
from typing import Any, NoReturn

import anyio
import pytest
from fakes import Endpoint, call_of, interrupted, on_asyncio

from decaptcha_async import (
    APIError,
    Attempt,
    AuthenticationError,
    Call,
    CircuitOpenError,
    ConfigurationError,
    DecaptchaError,
    Handler,
    InvalidResponseError,
    RateLimitedError,
    Retry,
    RetryBudget,
    ServerError,
    TLSError,
    TransportError,
)
from decaptcha_async._chain import compose
from decaptcha_async.errors import GaveUp

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def failure_of(
    retry: Retry, endpoint: Handler, account: str = "one", *, max_attempts: int | None = None
) -> DecaptchaError:
    """The error that a call ends with."""
    with pytest.raises(DecaptchaError) as caught:
        await retry(call_of(account, max_attempts=max_attempts), endpoint)
    return caught.value


@pytest.fixture
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("attempts", [1, 2, 4, 9])
async def test_attempts_counts_requests(attempts: int) -> None:
    """R2: `attempts` is how many requests a failing call makes, the first included."""
    endpoint = Endpoint(ServerError())
    error = await failure_of(Retry(attempts, backoff=[1] * 9), endpoint)
    assert len(endpoint.asked) == attempts
    assert len(error.earlier_attempts) == attempts - 1


async def test_default_is_four_attempts() -> None:
    """R2: unless told otherwise a call makes up to 4 requests, at most 3.5 s of waiting apart."""
    endpoint = Endpoint(ServerError())
    await failure_of(Retry(), endpoint)
    assert len(endpoint.asked) == 4
    assert all(gap <= most for gap, most in zip(endpoint.gaps, (0.5, 1, 2), strict=True))


async def test_it_ends_with_the_first_success() -> None:
    """R2: a reading is returned as soon as there is one; each attempt knows its number."""
    endpoint = Endpoint(ServerError(), TransportError(), "3.20", "4")
    call = call_of()
    assert (await Retry(backoff=[1, 2, 3])(call, endpoint)).raw == "3.20"
    assert endpoint.gaps == [1, 2]
    assert [asked.attempt for asked in endpoint.asked] == [1, 2, 3]
    assert all(asked.log is call.log for asked in endpoint.asked)
    assert {asked.account for asked in endpoint.asked} == {call.account}


@pytest.mark.parametrize(
    ("gave_up", "requests", "error", "policy"),
    [
        ("attempts", 2, ServerError(), lambda: Retry(2, backoff=[1] * 9)),
        ("backoff", 3, ServerError(), lambda: Retry(9, backoff=[1, 1])),
        ("backoff", 1, ServerError(), lambda: Retry(9, backoff=[])),
        ("deadline", 2, ServerError(), lambda: Retry(9, backoff=[1, 9])),
        ("retry_after", 1, RateLimitedError(retry_after=61), Retry),
        ("retry_after", 1, RateLimitedError(retry_after=math.inf), Retry),
        ("retry_after", 1, ServerError(retry_after=1.01), lambda: Retry(max_retry_after=1)),
        (
            "budget",
            3,
            ServerError(),
            lambda: Retry(9, backoff=[1] * 9, budget=RetryBudget(2, ratio=0, per_second=0)),
        ),
        ("not_retryable", 1, AuthenticationError(), Retry),
    ],
)
async def test_why_it_gave_up(
    gave_up: GaveUp, requests: int, error: DecaptchaError, policy: Callable[[], Retry]
) -> None:
    """R5: the last error itself is raised, and says why there was no further attempt."""
    endpoint = Endpoint(error)
    with anyio.fail_after(10):
        raised = await failure_of(policy(), endpoint)
    assert raised is error
    assert raised.gave_up == gave_up
    assert len(endpoint.asked) == requests


async def test_giving_up_takes_no_time() -> None:
    """R4: when the wait does not fit, the error is raised now, without sleeping."""
    endpoint = Endpoint(ServerError())
    with anyio.fail_after(100), anyio.fail_after(5), anyio.fail_after(50):
        error = await failure_of(Retry(backoff=[3, 3]), endpoint)
    assert error.gave_up == "deadline"
    assert anyio.current_time() == 3


async def test_a_wait_that_would_end_with_the_deadline_does_not_fit() -> None:
    """R4: a wait that leaves no time for an attempt is not begun."""
    with anyio.fail_after(3):
        error = await failure_of(Retry(backoff=[3]), Endpoint(ServerError()))
    assert (error.gave_up, anyio.current_time()) == ("deadline", 0)


async def test_a_shielded_call_has_its_own_time() -> None:
    """R4: a deadline that cannot reach the call, behind a shield, does not end its retries."""
    endpoint = Endpoint(ServerError(), "1")
    with anyio.move_on_after(1), anyio.CancelScope(shield=True):
        await Retry(backoff=[3])(call_of(), endpoint)
    assert endpoint.times == [0, 3]


@on_asyncio
async def test_asyncio_timeout_cancels_in_time() -> None:
    """R4: anyio does not see `asyncio.timeout`; there the wait is begun, and cancelled in time."""
    endpoint = Endpoint(ServerError())
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(1):
            await Retry(backoff=[5])(call_of(), endpoint)
    assert not isinstance(caught.value, DecaptchaError)
    assert (len(endpoint.asked), anyio.current_time()) == (1, 1)


async def test_retry_after_is_a_floor() -> None:
    """R3: what the service asked for is waited for in full, and up to 10 % longer."""
    random.seed(3)
    waits: list[float] = []

    async def one() -> None:
        endpoint = Endpoint(RateLimitedError(retry_after=5), "1")
        await Retry(budget=None)(call_of(), endpoint)
        waits.extend(endpoint.gaps)

    async with anyio.create_task_group() as group:
        for _ in range(500):
            group.start_soon(one)
    assert 5 <= min(waits) < 5.02
    assert 5.48 < max(waits) <= 5.5


@pytest.mark.parametrize(
    ("retry_after", "backoff", "least", "most"),
    [
        pytest.param(0, 2, 2, 2, id="at-once"),
        pytest.param(1, 2, 2, 2, id="backoff-is-longer"),
        pytest.param(60, 2, 60, 66, id="the-longest-waited-for"),
        pytest.param(0.5, 0, 0.5, 0.55, id="no-backoff"),
    ],
)
async def test_the_longer_wait_wins(
    retry_after: float, backoff: float, least: float, most: float
) -> None:
    """R3: `Retry-After` never shortens the backoff; at `max_retry_after` it is not yet too long."""
    endpoint = Endpoint(ServerError(retry_after=retry_after), "1")
    await Retry(backoff=[backoff])(call_of(), endpoint)
    assert least <= endpoint.gaps[0] <= most


async def test_retry_after_is_not_clipped_by_a_deadline() -> None:
    """R3, R4: what does not fit is not waited for at all; the value stays readable."""
    endpoint = Endpoint(RateLimitedError(retry_after=5))
    with anyio.fail_after(4):
        error = await failure_of(Retry(), endpoint)
    assert (error.gave_up, error.retry_after) == ("deadline", 5)
    assert endpoint.times == [0]
    assert anyio.current_time() == 0


async def test_a_wait_that_is_refused_costs_no_budget() -> None:
    """R7: the budget is asked last: a call that gives up for another reason takes nothing."""
    budget = RetryBudget(1, ratio=0, per_second=0)
    with anyio.fail_after(1):
        await failure_of(Retry(backoff=[2], budget=budget), Endpoint(ServerError()))
    await failure_of(Retry(1, budget=budget), Endpoint(ServerError()))
    await failure_of(Retry(budget=budget), Endpoint(RateLimitedError(retry_after=99)))
    assert budget.spend("one")


async def test_earlier_attempts_tell_the_story() -> None:
    """R5: each failure but the last is kept in order, with its time, its error and the wait."""
    endpoint = Endpoint(
        ServerError("first"), TransportError("second", phase="tls"), ServerError("last"), takes=0.5
    )
    error = await failure_of(Retry(3, backoff=[1, 2]), endpoint)
    one, two = error.earlier_attempts
    assert (str(error), error.gave_up) == ("last", "attempts")
    assert (one.number, one.elapsed, one.delay, str(one.error)) == (1, 0.5, 1, "first")
    assert (two.number, two.elapsed, two.delay, str(two.error)) == (2, 2, 2, "second")
    assert isinstance(two.error, TransportError)
    assert two.error.phase == "tls"


async def test_at_most_sixteen_earlier_attempts_are_kept() -> None:
    """R5: of a long story the last 16 are kept, oldest first."""
    endpoint = Endpoint(ServerError())
    error = await failure_of(Retry(40, backoff=[1] * 50, budget=None), endpoint)
    assert len(endpoint.asked) == 40
    assert [attempt.number for attempt in error.earlier_attempts] == list(range(24, 40))


async def test_the_same_error_raised_again_and_again() -> None:
    """R5: an error object that serves many calls tells of the last call only, and does not grow."""
    endpoint = Endpoint(ServerError())
    retry = Retry(3, backoff=[1, 2])
    for _ in range(3):
        error = await failure_of(retry, endpoint)
        assert [attempt.number for attempt in error.earlier_attempts] == [1, 2]
        for attempt in error.earlier_attempts:
            assert attempt.error is not error
            assert (attempt.error.earlier_attempts, attempt.error.gave_up) == ((), None)
            assert attempt.error.__traceback__ is None


async def fail(call: Call) -> NoReturn:
    """Fail with a new error each time."""
    message = f"attempt {call.attempt}"
    raise ServerError(message)


async def test_no_error_is_the_context_of_the_next() -> None:
    """R5: attempts are listed in `earlier_attempts`, not chained into the traceback."""
    error = await failure_of(Retry(backoff=[0] * 3), fail)
    for raised in (error, *(attempt.error for attempt in error.earlier_attempts)):
        assert raised.__context__ is None
        assert raised.__cause__ is None


@pytest.mark.usefixtures("_no_garbage_collection")
async def test_no_reference_cycle() -> None:
    """R5: an error that was handled is gone at once, without the garbage collector."""
    seen: list[weakref.ref[DecaptchaError]] = []

    def note(error: DecaptchaError) -> bool:
        seen.append(weakref.ref(error))
        return True

    try:
        await Retry(backoff=[0, 0], when=note)(call_of(), fail)
    except ServerError as error:
        seen.extend(weakref.ref(attempt.error) for attempt in error.earlier_attempts)
    assert len(seen) == 5
    assert [alive() for alive in seen] == [None] * 5


@pytest.mark.usefixtures("_no_garbage_collection")
async def test_no_reference_cycle_when_when_raises() -> None:
    """R5: nor does an error stay that a `when` of the caller's stumbled over."""
    seen: list[weakref.ref[DecaptchaError]] = []

    def stumble(error: DecaptchaError) -> bool:
        seen.append(weakref.ref(error))
        raise LookupError

    with suppress(LookupError):
        await Retry(when=stumble)(call_of(), fail)
    assert [alive() for alive in seen] == [None]


async def test_one_policy_serves_concurrent_calls() -> None:
    """House: attempts, delays and history are each call's own, however many share the policy."""
    retry = Retry(3, backoff=[1, 2])
    stories: dict[str, list[str]] = {}

    async def one(account: str, start: float) -> None:
        async def endpoint(call: Call) -> NoReturn:
            message = f"{call.account} {call.attempt}"
            raise ServerError(message)

        await anyio.sleep(start)
        error = await failure_of(retry, endpoint, account)
        stories[account] = [*(str(past.error) for past in error.earlier_attempts), str(error)]

    async with anyio.create_task_group() as group:
        group.start_soon(one, "a", 0)
        group.start_soon(one, "b", 0.5)
    assert stories == {"a": ["a 1", "a 2", "a 3"], "b": ["b 1", "b 2", "b 3"]}


async def test_two_accounts_have_a_budget_each() -> None:
    """R7: one policy in two clients: the outage of one account leaves the other its retries."""
    retry = Retry(budget=RetryBudget(3, ratio=0, per_second=0), backoff=[1] * 3)
    for account, gave_up in (("one", "attempts"), ("one", "budget"), ("two", "attempts")):
        error = await failure_of(retry, Endpoint(ServerError()), account)
        assert error.gave_up == gave_up


async def test_policies_do_not_share_a_budget_by_default() -> None:
    """R7: each Retry has a budget of its own unless given one."""
    assert Retry().budget is not Retry().budget


@pytest.mark.parametrize("layers", [1, 2])
async def test_the_call_bounds_the_attempts(layers: int) -> None:
    """W5: `Call.max_attempts` bounds every Retry on the way: one means one request, also nested."""
    endpoint = Endpoint(ServerError())
    with pytest.raises(ServerError) as caught:
        await compose([Retry()] * layers, endpoint)(call_of(max_attempts=1))
    assert (caught.value.gave_up, caught.value.earlier_attempts) == ("attempts", ())
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(("most", "requests"), [(2, 2), (3, 3), (9, 3)])
async def test_the_smaller_bound_counts(most: int, requests: int) -> None:
    """W5: a call's bound and the policy's: the smaller counts."""
    endpoint = Endpoint(ServerError())
    await failure_of(Retry(3, backoff=[0] * 9), endpoint, max_attempts=most)
    assert len(endpoint.asked) == requests


async def test_nesting_multiplies() -> None:
    """R12: two layers that retry multiply; the outer one's history is what the error tells."""
    endpoint = Endpoint(ServerError())
    layers = [Retry(2, backoff=[5]), Retry(3, backoff=[1, 1])]
    with pytest.raises(ServerError) as caught:
        await compose(layers, endpoint)(call_of())
    assert [asked.attempt for asked in endpoint.asked] == [1, 2, 3, 1, 2, 3]
    assert [attempt.delay for attempt in caught.value.earlier_attempts] == [5]


async def test_when_decides_instead() -> None:
    """R2: `when` replaces the table: it may retry a refusal, and leave a failure alone."""
    retry = Retry(backoff=[1] * 3, when=lambda error: isinstance(error, AuthenticationError))
    endpoint = Endpoint(AuthenticationError(), AuthenticationError(), ServerError())
    error = await failure_of(retry, endpoint)
    assert (len(endpoint.asked), error.gave_up) == (3, "not_retryable")


async def test_foreign_errors_pass() -> None:
    """R2: an exception that is not ours passes unchanged, after one request."""
    foreign = LookupError("theirs")
    endpoint = Endpoint(foreign)
    with pytest.raises(LookupError) as caught:
        await Retry()(call_of(), endpoint)
    assert caught.value is foreign
    assert len(endpoint.asked) == 1


async def test_on_retry_hears_of_each_wait_before_it() -> None:
    """R11: `on_retry` is called with each attempt that failed but the last, before the wait."""
    heard: list[tuple[int, float, float]] = []

    def listen(attempt: Attempt) -> None:
        heard.append((attempt.number, attempt.delay, anyio.current_time()))

    await failure_of(Retry(3, backoff=[1, 2], on_retry=listen), Endpoint(ServerError()))
    assert heard == [(1, 1, 0), (2, 2, 1)]


async def test_on_retry_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """R11: a hook that raises is logged, with its traceback, and retrying goes on."""

    def stumble(attempt: Attempt) -> None:
        raise LookupError

    endpoint = Endpoint(ServerError(), "1")
    await Retry(backoff=[1], on_retry=stumble)(call_of(), endpoint)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("decaptcha_async.middleware.retry", logging.ERROR)
    assert record.getMessage() == "on_retry raised; retrying goes on"
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError
    assert endpoint.gaps == [1]


async def test_on_retry_may_end_the_program() -> None:
    """R1: what is no `Exception` is not swallowed, not even from a hook."""

    def leave(attempt: Attempt) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        await Retry(on_retry=leave)(call_of(), Endpoint(ServerError()))


async def test_waits_are_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """R11: each wait is one DEBUG record under the module's name."""
    caplog.set_level(logging.DEBUG, "decaptcha_async")
    await Retry(backoff=[1.5])(call_of(), Endpoint(ServerError(), "1"))
    [record] = caplog.records
    assert (record.name, record.levelno) == ("decaptcha_async.middleware.retry", logging.DEBUG)
    assert record.getMessage() == "attempt 1 failed, next in 1.50 s"


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 5])
async def test_cancelled_at_any_moment(moment: int) -> None:
    """R1: cancelled in an attempt or in a wait, the call ends as cancelled, at once."""
    endpoint = Endpoint(ServerError(), takes=1)
    call = Retry(3, backoff=[1, 1])(call_of(), endpoint)
    with anyio.CancelScope() as scope:
        await interrupted(call, moment, scope.cancel)
    assert scope.cancelled_caught
    assert anyio.current_time() == moment - 1
    assert (len(endpoint.asked), endpoint.in_flight) == ((moment + 1) // 2, 0)


@on_asyncio
@pytest.mark.parametrize("moment", [1, 2, 3])
async def test_task_cancel_at_any_moment(moment: int) -> None:
    """R1: asyncio's own `Task.cancel()` ends it the same way."""
    endpoint = Endpoint(ServerError(), takes=1)
    task = asyncio.ensure_future(Retry(3, backoff=[1, 1])(call_of(), endpoint))
    await anyio.sleep(moment - 0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert endpoint.in_flight == 0
    assert anyio.current_time() == moment - 0.5


class Anew:
    """Delays that begin anew for each call."""

    def __init__(self, *delays: float) -> None:
        self._delays = delays

    def __iter__(self) -> Iterator[float]:
        """From the first."""
        return iter(self._delays)


@pytest.mark.parametrize(
    "backoff",
    [[0.5, 1], (0.5, 1), Anew(0.5, 1), [timedelta(seconds=0.5), timedelta(seconds=1)]],
    ids=["list", "tuple", "iterable", "timedelta"],
)
async def test_backoff_begins_anew_for_each_call(backoff: Iterable[float]) -> None:
    """R6: any iterable that begins anew will do, and each call has all of its delays."""
    retry = Retry(9, backoff=backoff)
    for _ in range(2):
        endpoint = Endpoint(ServerError())
        await failure_of(retry, endpoint)
        assert endpoint.gaps == [0.5, 1]


async def test_a_delay_that_cannot_be() -> None:
    """R6: a delay that only turns up in use, and is none, ends the call by name."""
    with pytest.raises(ConfigurationError, match=r"^backoff must be .* not -1$"):
        await Retry(backoff=Anew(-1))(call_of(), Endpoint(ServerError()))


async def asynchronous(_: object) -> None:
    """What a hook must not be."""


@pytest.mark.parametrize(
    ("arguments", "expected", "problem"),
    [
        pytest.param(
            {"attempts": 0}, ConfigurationError, "attempts must be a whole number ≥ 1", id="zero"
        ),
        pytest.param({"attempts": 2.0}, ConfigurationError, "attempts must be", id="float"),
        pytest.param({"attempts": True}, ConfigurationError, "attempts must be", id="bool"),
        pytest.param(
            {"max_retry_after": -1},
            ConfigurationError,
            "max_retry_after must be a finite number of seconds ≥ 0",
            id="negative",
        ),
        pytest.param(
            {"max_retry_after": math.inf}, ConfigurationError, "max_retry_after", id="infinite"
        ),
        pytest.param(
            {"backoff": iter([1, 2])},
            TypeError,
            "backoff must begin anew for each call, which an iterator cannot: pass a list",
            id="iterator",
        ),
        pytest.param(
            {"backoff": (second for second in (1, 2))},
            TypeError,
            "backoff must begin anew",
            id="generator",
        ),
        pytest.param(
            {"backoff": 5}, TypeError, "backoff must be an iterable of seconds, not int", id="int"
        ),
        pytest.param(
            {"backoff": None}, TypeError, "backoff must be an iterable of seconds", id="none"
        ),
        pytest.param({"backoff": [1, -1]}, ConfigurationError, "backoff must be", id="minus"),
        pytest.param({"backoff": "12"}, ConfigurationError, "backoff must be a number", id="str"),
        pytest.param(
            {"on_retry": asynchronous},
            TypeError,
            "on_retry is called, not awaited: pass a plain function",
            id="async-hook",
        ),
        pytest.param(
            {"when": asynchronous},
            TypeError,
            "when is called, not awaited: pass a plain function",
            id="async-when",
        ),
    ],
)
def test_refused_arguments(
    arguments: dict[str, Any], expected: type[Exception], problem: str
) -> None:
    """R6: an argument that cannot be is refused at construction, by name."""
    with pytest.raises(expected) as caught:
        Retry(**arguments)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(AuthenticationError(), id="401"),
        pytest.param(AuthenticationError(status_code=403), id="403"),
        pytest.param(APIError(status_code=404), id="404"),
        pytest.param(TLSError(), id="tls"),
        pytest.param(InvalidResponseError(reason="redirect", status_code=302), id="redirect"),
        pytest.param(InvalidResponseError(reason="amount"), id="amount"),
        pytest.param(CircuitOpenError(retry_after=1), id="open-circuit"),
    ],
)
async def test_what_is_never_retried(error: DecaptchaError) -> None:
    """R2: a refusal, an answer that cannot be trusted, an open circuit: one request, no wait."""
    endpoint = Endpoint(error)
    assert (await failure_of(Retry(), endpoint)).gave_up == "not_retryable"
    assert (len(endpoint.asked), anyio.current_time()) == (1, endpoint.times[0])


def pickled(error: DecaptchaError) -> DecaptchaError:
    """The error as another process gets it."""
    arrived: DecaptchaError = pickle.loads(pickle.dumps(error))  # noqa: S301
    return arrived


@pytest.mark.parametrize("travel", [copy, deepcopy, pickled])
async def test_the_story_travels(travel: Callable[[DecaptchaError], DecaptchaError]) -> None:
    """R5: what was given up on keeps history and reason when it is copied or pickled."""
    endpoint = Endpoint(TransportError("cut", phase="receive", host="h"), RateLimitedError("last"))
    arrived = travel(await failure_of(Retry(2, backoff=[1]), endpoint))
    assert (type(arrived), str(arrived), arrived.gave_up) == (RateLimitedError, "last", "attempts")
    [past] = arrived.earlier_attempts
    assert isinstance(past.error, TransportError)
    assert (past.number, past.delay, str(past.error), past.error.phase) == (1, 1, "cut", "receive")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"when": 5}, "when must be a function, not int"),
        ({"on_retry": "log"}, "on_retry must be a function, not str"),
        ({"budget": 5}, "budget must be a RetryBudget or None, not int"),
    ],
)
def test_what_is_no_policy_is_refused(arguments: dict[str, Any], problem: str) -> None:
    """R1: what could only fail at the first failure is refused when the policy is made."""
    with pytest.raises(TypeError, match=problem):
        Retry(**arguments)
