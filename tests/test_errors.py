"""The error tree: its shape, its facts, its texts, and its travels."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import re
from collections.abc import Callable

import pytest

from decaptcha_async import errors
from decaptcha_async.errors import (
    APIError,
    Attempt,
    AuthenticationError,
    CircuitOpenError,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    InvalidResponseError,
    RateLimitedError,
    ServerError,
    TLSError,
    TransportError,
)


def through_pickle(protocol: int, error: DecaptchaError) -> DecaptchaError:
    """What another process would get."""
    arrived = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301
    assert isinstance(arrived, DecaptchaError)
    return arrived


TRAVELS: dict[str, Callable[[DecaptchaError], DecaptchaError]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": functools.partial(through_pickle, protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}

EXAMPLES: list[DecaptchaError] = [
    DecaptchaError("something", retry_after=1.5),
    ConfigurationError("base_url must begin with https://"),
    ClientClosedError("the client is closed: make a new one"),
    TransportError("no answer from api.test", phase="receive", host="api.test"),
    TLSError("cannot trust api.test", host="api.test"),
    DeadlineExceededError("no answer within 10 s", phase="send", host="api.test"),
    CircuitOpenError("the circuit is open", retry_after=12.5),
    APIError("the service refused the request (404)", status_code=404),
    AuthenticationError("refused", status_code=200, api_status_code=401, message="Invalid API key"),
    RateLimitedError("asked too often", message="slow down", retry_after=7.0),
    ServerError("failed", status_code=503, api_status_code=500, retry_after=0.0),
    InvalidResponseError(
        "a web page", reason="web_page", status_code=200, content_type="text/html"
    ),
]


def described_tree() -> dict[str, str]:
    """Class and parent, as the drawing in the module's docstring has them."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for stem, name in re.findall(
        r"^    ([ │├└─]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE
    ):
        path = [*path[: len(stem) // 4], name]
        parents[name] = path[-2] if stem else "Exception"
    return parents


def test_the_tree_is_as_drawn() -> None:
    """API: the classes are exactly those drawn in the docstring, each under its parent."""
    classes = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException)
    }
    assert {
        name: value.__bases__[0].__name__ for name, value in classes.items()
    } == described_tree()
    assert {"Attempt", *classes} == set(errors.__all__)


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (ConfigurationError, ValueError),
        (ClientClosedError, RuntimeError),
        (DeadlineExceededError, TimeoutError),
    ],
)
def test_some_are_builtin_errors_too(ours: type[DecaptchaError], builtin: type[Exception]) -> None:
    """API: three errors can be caught by the built-in name, and say so in the drawing."""
    assert issubclass(ours, builtin)
    assert re.search(rf"{ours.__name__} +\(also {builtin.__name__}\)", errors.__doc__ or "")


@pytest.mark.parametrize(
    ("error", "retryable", "healthy"),
    [
        (DecaptchaError(), False, None),
        (ConfigurationError(), False, None),
        (ClientClosedError(), False, None),
        (TransportError(), True, False),
        (TLSError(), False, False),
        (DeadlineExceededError(), True, False),
        (CircuitOpenError(), False, None),
        (AuthenticationError(), False, True),
        (AuthenticationError(status_code=403), False, True),
        (RateLimitedError(), True, False),
        (ServerError(), True, False),
        (ServerError(status_code=599), True, False),
        (APIError(), False, True),
        (APIError(status_code=404), False, True),
        (APIError(status_code=408), True, False),
        (APIError(status_code=499), False, True),
        (AuthenticationError(status_code=200, api_status_code=401), False, True),
        (RateLimitedError(status_code=200, api_status_code=429), True, False),
        (ServerError(status_code=200, api_status_code=500), True, False),
        (APIError(status_code=200, api_status_code=408), True, False),
        (ServerError(status_code=500, api_status_code=401), True, False),
        (AuthenticationError(status_code=401, api_status_code=500), False, True),
        (InvalidResponseError(), False, False),
    ],
    ids=lambda value: " ".join(
        [type(value).__name__, *(str(code) for name, code in vars(value).items() if "code" in name)]
        if isinstance(value, DecaptchaError)
        else []
    ),
)
def test_what_an_error_means(
    error: DecaptchaError, *, retryable: bool, healthy: bool | None
) -> None:
    """E: retryable and healthy follow the table, by the code that counts."""
    assert (error.retryable, error.healthy) == (retryable, healthy)


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (TransportError(), {"phase": "connect", "host": ""}),
        (TLSError(), {"phase": "tls", "host": ""}),
        (DeadlineExceededError(), {"phase": None, "host": ""}),
        (InvalidResponseError(), {"reason": "body", "status_code": None, "content_type": None}),
        (APIError(), {"status_code": 400, "api_status_code": None, "message": ""}),
        (AuthenticationError(), {"status_code": 401, "api_status_code": None, "message": ""}),
        (RateLimitedError(), {"status_code": 429, "api_status_code": None, "message": ""}),
        (ServerError(), {"status_code": 500, "api_status_code": None, "message": ""}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, DecaptchaError) else "",
)
def test_facts_have_defaults(error: DecaptchaError, facts: dict[str, object]) -> None:
    """API: an error made by hand, for a test say, has every attribute that its class names."""
    assert {name: getattr(error, name) for name in facts} == facts
    assert (error.retry_after, error.earlier_attempts, error.gave_up) == (None, (), None)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        *((error, str(error.args[0])) for error in EXAMPLES),
        (APIError(message="Not found"), "Not found"),
        (APIError("all of it", message="a part"), "all of it"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, DecaptchaError) else value,
)
def test_texts(error: DecaptchaError, text: str) -> None:
    """API: the text of an error is the message it was made with, and nothing around it."""
    assert str(error) == text
    assert repr(error) == f"{type(error).__name__}({text!r})"


@pytest.mark.parametrize("travel", TRAVELS.values(), ids=TRAVELS.keys())
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive(
    error: DecaptchaError, travel: Callable[[DecaptchaError], DecaptchaError]
) -> None:
    """R5: copy, deepcopy and pickle keep class, text, every attribute, notes and history."""
    sent = copy.copy(error)
    earlier = Attempt(number=1, elapsed=0.25, error=TransportError("cut", host="h"), delay=0.5)
    sent.earlier_attempts = (earlier,)
    sent.gave_up = "attempts"
    sent.add_note("while counting money")

    arrived = travel(sent)

    assert arrived is not sent
    assert type(arrived) is type(error)
    assert (str(arrived), arrived.args) == (str(error), error.args)
    assert (arrived.retryable, arrived.healthy) == (error.retryable, error.healthy)
    assert vars(arrived).keys() == vars(sent).keys()
    facts = vars(sent).keys() - {"earlier_attempts"}
    assert {name: vars(arrived)[name] for name in facts} == {
        name: vars(sent)[name] for name in facts
    }
    [attempt] = arrived.earlier_attempts
    assert (attempt.number, attempt.elapsed, attempt.delay) == (1, 0.25, 0.5)
    assert vars(attempt.error) == vars(earlier.error)


def test_a_copy_is_independent() -> None:
    """R10: what is set on a copy stays off the original."""
    original = RateLimitedError("asked too often", retry_after=2.0)
    copied = copy.copy(original)
    copied.gave_up = "budget"
    copied.retry_after = None
    assert (original.gave_up, original.retry_after) == (None, 2.0)


class QuotaError(APIError):
    """An error of a user, whose own signature differs."""

    def __init__(self, quota: int) -> None:
        super().__init__(f"quota of {quota} used", status_code=402)
        self.quota = quota


@pytest.mark.parametrize("travel", TRAVELS.values(), ids=TRAVELS.keys())
def test_errors_of_users_survive(travel: Callable[[DecaptchaError], DecaptchaError]) -> None:
    """R5: a subclass with another constructor travels as well."""
    arrived = travel(QuotaError(7))
    assert isinstance(arrived, QuotaError)
    assert (str(arrived), arrived.quota, arrived.status_code) == ("quota of 7 used", 7, 402)
