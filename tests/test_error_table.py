"""Table E: what each error means to each layer. One table, one test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from copy import copy
from typing import Final

import pytest
from fakes import Endpoint, Poll, call_of, plan

from decaptcha_async import (
    APIError,
    AuthenticationError,
    CircuitOpenError,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    DecaptchaError,
    InvalidResponseError,
    RateLimitedError,
    Retry,
    ServerError,
    TLSError,
    TransportError,
    errors,
)
from decaptcha_async._watch import watch

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

MANY: Final = 20


async def to_retry(error: Exception) -> str:
    """Whether it asks again."""
    endpoint = Endpoint(error)
    with pytest.raises(type(error)):
        await Retry(2)(call_of(), endpoint)
    return {1: "no", 2: "yes"}[len(endpoint.asked)]


async def to_a_new_watch(error: Exception) -> str:
    """How often in a row it bears the error before the first good reading."""
    return await in_a_watch(error)


async def to_a_watch(error: Exception) -> str:
    """How often in a row it bears the error later."""
    return await in_a_watch(error, "1")


async def in_a_watch(error: Exception, *before: str) -> str:
    """What ``MANY`` of it in a row lead to."""
    poll = Poll(*before, *[error] * MANY, "2")
    async with aclosing(watch(poll, plan())) as watching:
        try:
            while len(poll.asked) <= MANY:
                await anext(watching)
        except type(error):
            return {1: "fatal", 3: "fatal after 3"}[len(poll.asked) - len(before)]
    return "transient"


async def to_a_breaker(error: Exception) -> str:
    """What it says about the service."""
    return {True: "healthy", False: "unhealthy", None: "—"}[getattr(error, "healthy", None)]


LAYERS: Final = (to_retry, to_a_new_watch, to_a_watch, to_a_breaker)

TRANSIENT: Final = ("yes", "transient", "transient", "unhealthy")
NOT_TRUSTED: Final = ("no", "fatal", "transient", "unhealthy")
REFUSED: Final = ("no", "fatal", "fatal after 3", "healthy")
OPEN: Final = ("no", "transient", "transient", "—")
FATAL: Final = ("no", "fatal", "fatal", "—")

TABLE: Final[list[tuple[str, Exception, tuple[str, str, str, str]]]] = [
    ("transport", TransportError(phase="receive"), TRANSIENT),
    ("deadline", DeadlineExceededError(), TRANSIENT),
    ("tls", TLSError(), NOT_TRUSTED),
    ("429", RateLimitedError(), TRANSIENT),
    ("429-in-200", RateLimitedError(status_code=200, api_status_code=429), TRANSIENT),
    ("500", ServerError(), TRANSIENT),
    ("503", ServerError(status_code=503), TRANSIENT),
    ("500-in-200", ServerError(status_code=200, api_status_code=500), TRANSIENT),
    ("408", APIError(status_code=408), TRANSIENT),
    ("408-in-200", APIError(status_code=200, api_status_code=408), TRANSIENT),
    ("401", AuthenticationError(), REFUSED),
    ("403", AuthenticationError(status_code=403), REFUSED),
    ("401-in-200", AuthenticationError(status_code=200, api_status_code=401), REFUSED),
    ("404", APIError(status_code=404), REFUSED),
    ("400", APIError(), REFUSED),
    ("418", APIError(status_code=418), REFUSED),
    ("amount", InvalidResponseError(reason="amount"), NOT_TRUSTED),
    ("302", InvalidResponseError(reason="redirect", status_code=302), NOT_TRUSTED),
    ("204", InvalidResponseError(reason="status", status_code=204), NOT_TRUSTED),
    ("circuit", CircuitOpenError(retry_after=5), OPEN),
    ("configuration", ConfigurationError(), FATAL),
    ("closed", ClientClosedError(), FATAL),
    ("foreign", LookupError(), FATAL),
]


@pytest.mark.parametrize(
    ("layer", "error", "meaning"),
    [
        pytest.param(layer, error, meaning, id=f"{name}-{layer.__name__}")
        for name, error, meanings in TABLE
        for layer, meaning in zip(LAYERS, meanings, strict=True)
    ],
)
async def test_what_an_error_means(
    layer: Callable[[Exception], Awaitable[str]], error: Exception, meaning: str
) -> None:
    """E: each error means to each layer what the table says."""
    assert await layer(copy(error)) == meaning


def test_every_error_has_its_row() -> None:
    """E: no class of error is left out of the table."""
    classes = {value for value in vars(errors).values() if isinstance(value, type)}
    ours = {value for value in classes if issubclass(value, DecaptchaError)}
    assert ours - {type(error) for _, error, _ in TABLE} == {DecaptchaError}
