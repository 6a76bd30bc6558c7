"""The Balance API on the wire, without any I/O: what to ask, and what an answer means.

Source: the vendor's page "Balance API" (request headers, response fields, status codes), and
RFC 9110 for ``Retry-After`` (section 10.2.3) and ``Date`` (section 6.6.1).
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NoReturn, cast

import attrs

from decaptcha_async._money import not_an_amount, parse_amount, printable
from decaptcha_async.errors import (
    APIError,
    AuthenticationError,
    InvalidResponseError,
    RateLimitedError,
    ServerError,
)

METHOD: Final = "GET"
PATH: Final = "/api/balance"
MAX_BODY: Final = 64 * 1024
"""Most bytes of a body that are read; a good one has about 80."""

_OK: Final = 200
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_TOO_MANY_REQUESTS: Final = 429
_REDIRECTS: Final = range(300, 400)
_REFUSALS: Final = range(400, 600)
_SERVER_ERRORS: Final = range(500, 600)

_LONGEST_MESSAGE: Final = 200
_LONGEST_SHOWN: Final = 100
_DEEPEST: Final = 16
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_TOO_LONG: Final = f"is longer than {MAX_BODY} bytes"
_WEB_PAGE: Final = (
    "the answer is a web page, not the API's JSON: base_url is the likely cause. The vendor"
    " documents only the path /api/balance; that the API answers at https://decaptcha.net is an"
    " assumption"
)


@attrs.frozen
class Balance:
    """A good answer: the exact amount, and its text as the vendor sent it."""

    amount: Decimal
    raw: str


def request_headers(version: str) -> dict[str, str]:
    """Headers of every request, without the key."""
    return {
        "User-Agent": f"decaptcha-async/{version}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }


def check_head(
    status: int, headers: Mapping[str, str], *, scrub: Callable[[str], str] = str
) -> None:
    """Refuse a 200 whose headers already rule it out, so that its body need not be read.

    Raises:
        InvalidResponseError: the body is compressed, or declared longer than 64 KiB.
    """
    if status != _OK:
        return
    fields = {name.lower(): value for name, value in headers.items()}
    coding = fields.get("content-encoding", "").strip()
    length = fields.get("content-length", "").strip()
    if coding.lower() not in {"", "identity"}:
        shown = printable(scrub(coding), _LONGEST_SHOWN)
        message = f"the answer is compressed ({shown}), which was not asked for"
        reason = "encoding"
    elif length.isdecimal() and float(length) > MAX_BODY:
        message, reason = f"the answer {_TOO_LONG}", "too_large"
    else:
        return
    if _is_page(fields):
        message, reason = _WEB_PAGE, "web_page"
    raise _invalid(message, reason, status, fields, scrub)


def decode(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    scrub: Callable[[str], str] = str,
    now: datetime | None = None,
) -> Balance:
    """Tell what an answer means. Pure: no clock, no I/O.

    Args:
        status: HTTP status code.
        headers: response headers, names in any letter case.
        body: the whole body, as sent.
        scrub: takes the key out of a text that the service sent.
        now: aware time of arrival, for a ``Retry-After`` date in an answer without ``Date``.

    Raises:
        APIError: or one of its subclasses, when the answer says no.
        InvalidResponseError: when the answer cannot be trusted.
    """
    fields = {name.lower(): value for name, value in headers.items()}
    if status == _OK:
        check_head(status, fields, scrub=scrub)
        return _decode_ok(fields, body, scrub, now)
    if status in _REFUSALS:
        try:
            answer = _load(body)
        except _UnreadableError:
            answer = {}
        raise _refusal(status, answer, fields, scrub, now)
    if status in _REDIRECTS:
        message = (
            f"the answer is a redirect (HTTP {status}), which is not followed: the key goes to no"
            " other place. If the API has moved, change base_url"
        )
        raise _invalid(message, "redirect", status, fields, scrub)
    message = f"the answer has HTTP status {status} where the API documents 200"
    raise _invalid(message, "status", status, fields, scrub)


def _decode_ok(
    fields: Mapping[str, str],
    body: bytes,
    scrub: Callable[[str], str],
    now: datetime | None,
) -> Balance:
    try:
        answer = _load(body)
    except _UnreadableError as error:
        message = f"the answer {error}"
        reason = "too_large" if len(body) > MAX_BODY else "json"
    else:
        return _judge(answer, fields, scrub, now)
    if _is_page(fields, body):
        message, reason = _WEB_PAGE, "web_page"
    raise _invalid(message, reason, _OK, fields, scrub)


def _judge(
    answer: Mapping[str, Any],
    fields: Mapping[str, str],
    scrub: Callable[[str], str],
    now: datetime | None,
) -> Balance:
    code = _status_code(answer.get("statusCode"))
    match answer.get("isSuccess"):
        case True if code == _OK:
            return _balance(answer.get("data"), fields, scrub)
        case False if code is not None and code in _REFUSALS:
            raise _refusal(_OK, answer, fields, scrub, now)
        case bool() as success:
            message = (
                f"the answer contradicts itself: isSuccess {str(success).lower()} with"
                f" {'no usable statusCode' if code is None else f'statusCode {code}'}"
            )
        case _:
            message = "the answer has no isSuccess that is true or false: not the documented body"
    raise _invalid(message, "body", _OK, fields, scrub)


def _balance(data: object, fields: Mapping[str, str], scrub: Callable[[str], str]) -> Balance:
    if isinstance(data, str):  # a _Number is a str
        try:
            return Balance(parse_amount(data), str(data))
        except ValueError:
            # Scrubbed before it is cut: half a key is a secret, too.
            message = f"the answer's data is {not_an_amount(scrub(data))}"
    else:
        message = "the answer has no amount: data is not a text or a number"
    raise _invalid(message, "amount", _OK, fields, scrub)


def _refusal(
    status: int,
    answer: Mapping[str, Any],
    fields: Mapping[str, str],
    scrub: Callable[[str], str],
    now: datetime | None,
) -> APIError:
    api_status = _status_code(answer.get("statusCode"))
    code = api_status if status == _OK and api_status is not None else status
    said = answer.get("errorMessage")
    message = printable(scrub(said), _LONGEST_MESSAGE) if isinstance(said, str) else ""
    kind, meaning = _meaning(code)
    inside = " inside HTTP 200" if code != status else ""
    text = f"{meaning} ({code}{inside})" + (f": {message}" if message else "")
    wait = _retry_after(fields, now)
    return kind(
        text if wait is None else f"{text}; it asks to wait {wait:g} s",
        status_code=status,
        api_status_code=api_status,
        message=message,
        retry_after=wait,
    )


def _meaning(code: int) -> tuple[type[APIError], str]:
    if code in {_UNAUTHORIZED, _FORBIDDEN}:
        return AuthenticationError, "the API key is refused"
    if code == _TOO_MANY_REQUESTS:
        return RateLimitedError, "the service was asked too often"
    if code in _SERVER_ERRORS:
        return ServerError, "the service failed"
    return APIError, "the service refused the request"


class _UnreadableError(ValueError):
    """Why a body is not taken for an answer, in words that follow "the answer"."""


class _Number(str):
    """The literal text of a JSON number."""

    __slots__ = ()


def _load(body: bytes) -> dict[str, Any]:
    """Read a JSON object, and refuse what JSON allows but readers disagree on (RFC 8259)."""
    if len(body) > MAX_BODY:
        raise _UnreadableError(_TOO_LONG)
    try:
        answer = json.loads(
            body.decode("utf-8"),
            parse_int=_number,
            parse_float=_number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique,
        )
        _refuse_oddities(answer)
    except _UnreadableError:
        raise
    except (ValueError, RecursionError):
        problem = "is not JSON, or cut off" if body else "is empty"
        raise _UnreadableError(problem) from None
    if not isinstance(answer, dict):
        raise _UnreadableError("is not a JSON object")
    return cast("dict[str, Any]", answer)


def _number(literal: str) -> _Number:
    if math.isinf(float(literal)):
        raise _UnreadableError("has a number that is too large")
    return _Number(literal)


def _refuse_constant(name: str) -> NoReturn:
    raise _UnreadableError(f"is not JSON: {name} is no number there")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _UnreadableError("names a member twice, so that its meaning depends on the reader")
    return members


def _refuse_oddities(value: object, depth: int = 0) -> None:
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        value = [*members, *members.values()]
    if isinstance(value, list):
        if depth == _DEEPEST:
            raise _UnreadableError(f"is nested more than {_DEEPEST} levels deep")
        for item in cast("list[object]", value):
            _refuse_oddities(item, depth + 1)
    elif isinstance(value, str) and _SURROGATE.search(value):
        raise _UnreadableError("has half a character in it: a lone surrogate")


def _status_code(value: object) -> int | None:
    if isinstance(value, _Number) and re.fullmatch(r"[1-9][0-9]{2}", value):
        return int(value)
    return None


def _is_page(fields: Mapping[str, str], body: bytes = b"") -> bool:
    return "html" in fields.get("content-type", "").lower() or body.lstrip().startswith(b"<")


def _invalid(
    message: str,
    reason: str,
    status: int,
    fields: Mapping[str, str],
    scrub: Callable[[str], str],
) -> InvalidResponseError:
    kind = fields.get("content-type")
    return InvalidResponseError(
        message,
        reason=reason,
        status_code=status,
        content_type=None if kind is None else printable(scrub(kind), _LONGEST_SHOWN),
    )


def _retry_after(fields: Mapping[str, str], now: datetime | None) -> float | None:
    value = fields.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?|inf(inity)?", value, re.ASCII | re.IGNORECASE):
        return float(value)
    when = _http_date(value)
    sent = _http_date(fields.get("date", "")) or now
    if when is None or sent is None:
        return None
    return max(0.0, (when - sent).total_seconds())


def _http_date(value: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
