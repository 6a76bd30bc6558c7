"""What answers mean: a balance, or exactly one of our errors."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decaptcha_async import _wire
from decaptcha_async._secret import MASK, ApiKey
from decaptcha_async._wire import MAX_BODY, Balance, check_head, decode, request_headers
from decaptcha_async.errors import (
    APIError,
    AuthenticationError,
    DecaptchaError,
    InvalidResponseError,
    RateLimitedError,
    ServerError,
)

KEY = "Sk-Live-7f3A9c"
JSON = {"Content-Type": "application/json"}
HTML = {"Content-Type": "text/html; charset=utf-8"}

# The two answers that the vendor's page prints.
VENDOR_GOOD = b"""\
{
"isSuccess": true,
"statusCode": 200,
"errorMessage": null,
"data": "1250.75"
}"""
VENDOR_REFUSED = b"""\
{
"isSuccess": false,
"statusCode": 401,
"errorMessage": "Invalid API key",
"data": null
}"""


def body(**changes: object) -> bytes:
    """The good answer, with some members changed."""
    answer = {"isSuccess": True, "statusCode": 200, "errorMessage": None, "data": "1250.75"}
    return json.dumps(answer | changes).encode()


def literal(data: str) -> bytes:
    """The good answer with this JSON text as data."""
    return body(data=0)[:-2] + data.encode("utf-8", "surrogatepass") + b"}"


def refused(
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    *,
    scrub: Callable[[str], str] = str,
    now: datetime | None = None,
) -> DecaptchaError:
    """The error that an answer means."""
    with pytest.raises(DecaptchaError) as caught:
        decode(status, headers, content, scrub=scrub, now=now)
    assert caught.value.__cause__ is caught.value.__context__ is None
    return caught.value


def untrusted(content: bytes, headers: Mapping[str, str] = JSON) -> InvalidResponseError:
    """The InvalidResponseError that a body with 200 means."""
    error = refused(200, headers, content)
    assert isinstance(error, InvalidResponseError)
    assert error.status_code == 200
    return error


# --- good answers


def test_the_vendors_answer() -> None:
    """B1: the answer that the vendor's page prints is its exact amount."""
    assert decode(200, JSON, VENDOR_GOOD) == Balance(Decimal("1250.75"), "1250.75")


@pytest.mark.parametrize(
    ("data", "amount", "raw"),
    [
        ('"1,250.70"', "1250.70", "1,250.70"),
        ('" 12.00\\n"', "12.00", " 12.00\n"),
        ('"\\u0031\\u0032"', "12", "12"),
        ('"-0.00"', "0.00", "-0.00"),
        ("1250.70", "1250.70", "1250.70"),
        ("0.1", "0.1", "0.1"),
        ("-3.20", "-3.20", "-3.20"),
        ("-0", "0", "-0"),
        ("0", "0", "0"),
        ("123456789012345.123456789012345678", "123456789012345.123456789012345678", None),
    ],
)
def test_amounts_are_exact(data: str, amount: str, raw: str | None) -> None:
    """A1: a text, or a number by its literal text, never through a float; raw is a plain str."""
    balance = decode(200, JSON, literal(data))
    assert str(balance.amount) == amount
    assert balance.raw == (amount if raw is None else raw)
    assert type(balance.raw) is str
    assert pickle.loads(pickle.dumps(balance)) == balance  # noqa: S301


@given(st.decimals(-(10**15) + 1, 10**15 - 1, places=6), st.booleans())
def test_amounts_round_trip(amount: Decimal, number: bool) -> None:  # noqa: FBT001
    """A1: any amount comes out as it went in, quoted or not, with its scale."""
    text = format(amount, "f")
    balance = decode(200, {}, literal(text if number else f'"{amount:,f}"'))
    assert balance.amount.as_tuple() == (amount or abs(amount)).as_tuple()


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({}, VENDOR_GOOD),
        (HTML, VENDOR_GOOD),
        ({"CONTENT-ENCODING": "Identity", "content-length": "90"}, VENDOR_GOOD),
        ({"Content-Length": str(MAX_BODY)}, VENDOR_GOOD),
        ({"Content-Length": "unknown"}, VENDOR_GOOD),
        (JSON, b"\r\n\t " + VENDOR_GOOD + b" \n"),
        (JSON, VENDOR_GOOD.ljust(MAX_BODY)),
        (JSON, body(errorMessage="all is well", currency="USD", limits=[{"low": 1}])),
        (JSON, body(note="\U0001f4b0 zażółć")),
        (JSON, body(large=10**300)),
        (JSON, body(deep=json.loads("[" * 15 + "1" + "]" * 15))),
    ],
    ids=[
        "no headers",
        "wrong type",
        "identity",
        "longest declared",
        "odd length",
        "white space",
        "longest",
        "more members",
        "characters",
        "large number",
        "16 levels",
    ],
)
def test_what_does_not_matter(headers: Mapping[str, str], content: bytes) -> None:
    """B1: status, members and amount decide; unknown members and other headers do not."""
    assert decode(200, headers, content).amount == Decimal("1250.75")


# --- 200, but not to be trusted

NO_AMOUNT = "the answer has no amount: data is not a text or a number"
NO_SUCCESS = "the answer has no isSuccess that is true or false: not the documented body"
NOT_JSON = "the answer is not JSON, or cut off"
TWICE = "the answer names a member twice, so that its meaning depends on the reader"
HALF = "the answer has half a character in it: a lone surrogate"
PAGE = (
    "the answer is a web page, not the API's JSON: base_url is the likely cause. The vendor"
    " documents only the path /api/balance; that the API answers at https://decaptcha.net is an"
    " assumption"
)
DEEP = b"[" * 30_000
TWINS = b'"data": "1.00", "data": "2.00"}'

NO_BOOLEANS: list[object] = [None, 1, 0, "true", "false", 1.0, [True], {}]

UNTRUSTED: dict[str, tuple[bytes, str, str]] = {
    "data null": (body(data=None), "amount", NO_AMOUNT),
    "data true": (body(data=True), "amount", NO_AMOUNT),
    "data list": (body(data=["1250.75"]), "amount", NO_AMOUNT),
    "data object": (body(data={"amount": "1250.75"}), "amount", NO_AMOUNT),
    "data missing": (b'{"isSuccess": true, "statusCode": 200}', "amount", NO_AMOUNT),
    "data empty": (body(data=""), "amount", 'the answer\'s data is not an amount: ""'),
    "data in euros": (
        body(data="1250,75"),
        "amount",
        'the answer\'s data is not an amount: "1250,75"',
    ),
    "data NaN": (body(data="NaN"), "amount", 'the answer\'s data is not an amount: "NaN"'),
    "data control": (body(data="1\x00"), "amount", 'the answer\'s data is not an amount: "1\\x00"'),
    "number exponent": (literal("1e3"), "amount", 'the answer\'s data is not an amount: "1e3"'),
    "number Exponent": (
        literal("1.0E+2"),
        "amount",
        'the answer\'s data is not an amount: "1.0E+2"',
    ),
    "number long": (
        literal("9" * 300),
        "amount",
        f'the answer\'s data is not an amount: "{"9" * 40}…"',
    ),
    "statusCode 500": (
        body(statusCode=500),
        "body",
        "the answer contradicts itself: isSuccess true with statusCode 500",
    ),
    "statusCode 201": (
        body(statusCode=201),
        "body",
        "the answer contradicts itself: isSuccess true with statusCode 201",
    ),
    "false with 200": (
        body(isSuccess=False),
        "body",
        "the answer contradicts itself: isSuccess false with statusCode 200",
    ),
    "false with 302": (
        body(isSuccess=False, statusCode=302),
        "body",
        "the answer contradicts itself: isSuccess false with statusCode 302",
    ),
    "false with 600": (
        body(isSuccess=False, statusCode=600),
        "body",
        "the answer contradicts itself: isSuccess false with statusCode 600",
    ),
    **{
        f"statusCode {code!r}, {success}": (
            body(statusCode=code, isSuccess=success),
            "body",
            (
                f"the answer contradicts itself: isSuccess {str(success).lower()} with no usable"
                " statusCode"
            ),
        )
        for code in (True, 200.0, 2e2, "200", "401", None, [200], 0, -200, 1000, 10**20, 0.2)
        for success in (True, False)
    },
    "statusCode 2e2": (
        body().replace(b": 200", b": 2e2"),
        "body",
        "the answer contradicts itself: isSuccess true with no usable statusCode",
    ),
    "statusCode missing": (
        b'{"isSuccess": true, "data": "1250.75"}',
        "body",
        "the answer contradicts itself: isSuccess true with no usable statusCode",
    ),
    **{
        f"isSuccess {value!r}": (body(isSuccess=value), "body", NO_SUCCESS) for value in NO_BOOLEANS
    },
    "empty object": (b"{}", "body", NO_SUCCESS),
    "member in other letters": (body().replace(b"isSuccess", b"issuccess"), "body", NO_SUCCESS),
    "empty": (b"", "json", "the answer is empty"),
    "white space": (b" \r\n", "json", NOT_JSON),
    "text": (b"1250.75 USD", "json", NOT_JSON),
    **{
        f"only {text}": (text.encode(), "json", "the answer is not a JSON object")
        for text in ("null", "true", "[]", "1250.75", '"1250.75"')
    },
    "trailing byte": (body() + b"0", "json", NOT_JSON),
    "trailing NUL": (body() + b"\x00", "json", NOT_JSON),
    "trailing brace": (body() + b"}", "json", NOT_JSON),
    "two answers": (body() + body(), "json", NOT_JSON),
    "trailing comma": (body()[:-1] + b",}", "json", NOT_JSON),
    "comment": (body() + b"// ok", "json", NOT_JSON),
    "single quotes": (body().replace(b'"', b"'"), "json", NOT_JSON),
    "anti-hijacking prefix": (b")]}',\n" + body(), "json", NOT_JSON),
    "number with a leading zero": (literal("01250.75"), "json", NOT_JSON),
    "number with a plus": (literal("+1250.75"), "json", NOT_JSON),
    "number with an underscore": (literal("1_250"), "json", NOT_JSON),
    "foreign digits": (literal("١٢٥٠"), "json", NOT_JSON),
    "raw line end in a text": (literal('"1250\n.75"'), "json", NOT_JSON),
    "byte order mark": (b"\xef\xbb\xbf" + body(), "json", NOT_JSON),
    "UTF-16": (body().decode().encode("utf-16"), "json", NOT_JSON),
    "UTF-16 without mark": (body().decode().encode("utf-16-le"), "json", NOT_JSON),
    "UTF-32": (body().decode().encode("utf-32"), "json", NOT_JSON),
    "Latin-1": (body()[:-1] + b', "note": "\xe9"}', "json", NOT_JSON),
    "overlong NUL": (literal('"12"').replace(b"12", b"\xc0\x80"), "json", NOT_JSON),
    "encoded surrogate": (literal('"\ud800"'), "json", NOT_JSON),
    "surrogate as data": (body(data="\ud800"), "json", HALF),
    "surrogate elsewhere": (body(errorMessage="\udfff"), "json", HALF),
    "surrogate as a name": (body(**{"\ud83d": 1}), "json", HALF),
    "surrogate deep inside": (body(more=[{"x": ["\udc00"]}]), "json", HALF),
    "surrogates reversed": (literal('"1", "x": "\\udcb0\\ud83d"'), "json", HALF),
    "data twice": (body()[:-1] + b", " + TWINS, "json", TWICE),
    "data twice, alike": (body()[:-1] + b', "data": "1250.75"}', "json", TWICE),
    "isSuccess twice": (b'{"isSuccess": false, ' + body()[1:], "json", TWICE),
    "twice by an escape": (body()[:-1] + b', "d\\u0061ta": "1"}', "json", TWICE),
    "twice inside": (body()[:-1] + b', "more": {"a": 1, "a": 2}}', "json", TWICE),
    **{
        f"{name} as data": (
            literal(name),
            "json",
            f"the answer is not JSON: {name} is no number there",
        )
        for name in ("NaN", "Infinity", "-Infinity")
    },
    "NaN elsewhere": (
        body(errorMessage=math.nan),
        "json",
        "the answer is not JSON: NaN is no number there",
    ),
    "huge integer": (literal("9" * 5000), "json", "the answer has a number that is too large"),
    "huge integer elsewhere": (
        literal(f'"1.00", "x": -{"9" * 50_000}'),
        "json",
        "the answer has a number that is too large",
    ),
    "huge exponent": (literal("1e999999999"), "json", "the answer has a number that is too large"),
    "huge statusCode": (
        body().replace(b"200", b"2" * 5000),
        "json",
        "the answer has a number that is too large",
    ),
    "deep": (DEEP, "json", NOT_JSON),
    "deep and closed": (DEEP + b"]" * 30_000, "json", NOT_JSON),
    "deep objects": (b'{"a":' * 10_000, "json", NOT_JSON),
    "deep in a good answer": (
        literal(f'"1.00", "x": {"[" * 30_000}{"]" * 30_000}'),
        "json",
        NOT_JSON,
    ),
    "17 levels": (
        body(x=json.loads("[" * 16 + "]" * 16)),
        "json",
        "the answer is nested more than 16 levels deep",
    ),
    "too long": (
        VENDOR_GOOD.ljust(MAX_BODY + 1),
        "too_large",
        "the answer is longer than 65536 bytes",
    ),
    "page": (b"<!doctype html><title>Balance API</title>", "web_page", PAGE),
    "page after white space": (b"\r\n  <html>", "web_page", PAGE),
    "XML": (b"<?xml version='1.0'?><balance>1250.75</balance>", "web_page", PAGE),
    "long page": (b"<html>".ljust(MAX_BODY + 1), "web_page", PAGE),
}


@pytest.mark.parametrize(("content", "reason", "message"), UNTRUSTED.values(), ids=UNTRUSTED.keys())
def test_untrusted_bodies(content: bytes, reason: str, message: str) -> None:
    """A1, B1, B4, B6: a 200 that is not the documented body is refused, in exactly these words."""
    error = untrusted(content)
    assert (error.reason, str(error)) == (reason, message)
    assert error.content_type == "application/json"


@pytest.mark.parametrize(
    ("headers", "reason", "message"),
    [
        pytest.param(
            JSON | {"Content-Encoding": " GZip "},
            "encoding",
            "the answer is compressed (GZip), which was not asked for",
            id="gzip",
        ),
        pytest.param(
            JSON | {"content-encoding": "identity, br\x1b"},
            "encoding",
            "the answer is compressed (identity, br\\x1b), which was not asked for",
            id="two codings",
        ),
        *(
            pytest.param(
                JSON | {"Content-Length": length},
                "too_large",
                "the answer is longer than 65536 bytes",
                id=f"length {length[:10]}",
            )
            for length in (
                "65537",
                "0000000065537",
                "9" * 5000,
                " 70000 ",
                "\u0667\u0660\u0660\u0660\u0660",
            )
        ),
        pytest.param(HTML | {"Content-Length": "200000"}, "web_page", PAGE, id="long page"),
        pytest.param(HTML | {"Content-Encoding": "br"}, "web_page", PAGE, id="compressed page"),
    ],
)
def test_untrusted_heads(headers: Mapping[str, str], reason: str, message: str) -> None:
    """B5: coding and declared length are refused at the headers, before any body is read."""
    error = untrusted(VENDOR_GOOD, headers)
    assert (error.reason, str(error)) == (reason, message)
    with pytest.raises(InvalidResponseError) as caught:
        check_head(200, headers)
    assert str(caught.value) == message


@pytest.mark.parametrize("content", [b"", b"not found", b"<html>"], ids=["empty", "text", "page"])
def test_html_says_what_it_is(content: bytes) -> None:
    """B4: an HTML page with 200 names base_url as the likely cause, and what is assumed."""
    error = untrusted(content, HTML)
    assert (error.reason, str(error)) == ("web_page", PAGE)
    assert error.content_type == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "good", [VENDOR_GOOD, body(), literal("1250.75")], ids=["vendor", "line", "number"]
)
def test_every_proper_prefix_is_refused(good: bytes) -> None:
    """B6: a good body that breaks off anywhere is refused; no partial amount is ever read."""
    reasons = {untrusted(good[:length]).reason for length in range(len(good))}
    assert reasons == {"json"}


@given(st.integers(0, len(VENDOR_GOOD) - 1), st.integers(0, 255))
@example(VENDOR_GOOD.index(b"250.75"), ord("3"))
def test_one_wrong_byte(place: int, byte: int) -> None:
    """B6: with one byte changed there is an error of ours, or an amount that is written there."""
    changed = VENDOR_GOOD[:place] + bytes([byte]) + VENDOR_GOOD[place + 1 :]
    try:
        balance = decode(200, JSON, changed)
    except DecaptchaError:
        return
    assert balance.raw.encode() in changed
    assert balance.amount == Decimal(balance.raw.replace(",", "").strip())


# --- answers that say no

INSIDE_200 = {code: body(isSuccess=False, statusCode=code, data=None) for code in range(400, 600)}

REFUSALS = [
    (400, APIError, "the service refused the request", False),
    (401, AuthenticationError, "the API key is refused", False),
    (402, APIError, "the service refused the request", False),
    (403, AuthenticationError, "the API key is refused", False),
    (404, APIError, "the service refused the request", False),
    (408, APIError, "the service refused the request", True),
    (422, APIError, "the service refused the request", False),
    (429, RateLimitedError, "the service was asked too often", True),
    (499, APIError, "the service refused the request", False),
    (500, ServerError, "the service failed", True),
    (502, ServerError, "the service failed", True),
    (503, ServerError, "the service failed", True),
    (599, ServerError, "the service failed", True),
]


@pytest.mark.parametrize(
    ("code", "kind", "meaning", "retryable"), REFUSALS, ids=[str(row[0]) for row in REFUSALS]
)
@pytest.mark.parametrize("inside", [False, True], ids=["status", "inside 200"])
def test_refusals(
    code: int,
    kind: type[APIError],
    meaning: str,
    retryable: bool,  # noqa: FBT001
    inside: bool,  # noqa: FBT001
) -> None:
    """B1, B2: by its status, or by statusCode inside a 200, a refusal means the same."""
    status = 200 if inside else code
    error = refused(status, JSON, INSIDE_200[code])
    assert type(error) is kind
    assert str(error) == f"{meaning} ({code}{' inside HTTP 200' if inside else ''})"
    assert (error.status_code, error.api_status_code, error.message) == (status, code, "")
    assert (error.retryable, error.healthy) == (retryable, not retryable)


def test_the_vendors_refusal() -> None:
    """B2: the refusal that the vendor's page prints keeps its message and both codes."""
    error = refused(401, JSON, VENDOR_REFUSED)
    assert isinstance(error, AuthenticationError)
    assert str(error) == "the API key is refused (401): Invalid API key"
    assert (error.status_code, error.api_status_code, error.message) == (
        401,
        401,
        "Invalid API key",
    )


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        (JSON, body()),
        (JSON, VENDOR_REFUSED),
        (HTML, b"<html>Bad gateway"),
        (JSON | {"Content-Encoding": "gzip"}, b"\x1f\x8b\x08"),
        (JSON | {"Content-Length": "9" * 30}, b"x" * (MAX_BODY + 1)),
        (JSON, VENDOR_REFUSED.ljust(MAX_BODY + 1)),
        (JSON, b""),
        (JSON, DEEP),
        (JSON, b"[]"),
        (JSON, b'{"errorMessage": NaN}'),
    ],
    ids=[
        "good",
        "refusal",
        "page",
        "compressed",
        "declared long",
        "long",
        "empty",
        "deep",
        "list",
        "NaN",
    ],
)
def test_the_status_wins(headers: Mapping[str, str], content: bytes) -> None:
    """B1: for a status other than 200 the body, however bad, changes nothing of what it means."""
    error = refused(503, headers, content)
    assert type(error) is ServerError
    assert (error.status_code, error.retryable) == (503, True)
    check_head(503, headers)


@pytest.mark.parametrize("code", [None, "500", True, 99, 500.0], ids=repr)
def test_codes_that_are_none(code: object) -> None:
    """B2: a statusCode in the body that is no HTTP status is no api_status_code."""
    error = refused(500, JSON, body(statusCode=code))
    assert isinstance(error, ServerError)
    assert error.api_status_code is None


# --- what the service says


def said(text: object, key: str = KEY) -> str:
    """What is kept of an errorMessage."""
    error = refused(400, JSON, body(errorMessage=text), scrub=ApiKey(key).scrub)
    assert isinstance(error, APIError)
    assert len(error.message) <= 200
    assert str(error) == "the service refused the request (400)" + (
        f": {error.message}" if error.message else ""
    )
    return error.message


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Invalid API key", "Invalid API key"),
        ("zażółć \U0001f511", "zażółć \U0001f511"),
        (None, ""),
        ("", ""),
        (["no"], ""),
        (True, ""),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 200),
        ("x" * 60_000, "x" * 200),
        ("a\x00b\r\nc\x1b[2Jd", "a\\x00b\\r\\nc\\x1b[2Jd"),
        ("\n" * 200, "\\n" * 100),
        ("\u202etxt.exe\u2028", "\\u202etxt.exe\\u2028"),
        (KEY, MASK),
        (f"no {KEY.upper()} or {KEY.lower()}", f"no {MASK} or {MASK}"),
        ("x" * 195 + KEY, "x" * 195 + MASK[:5]),
    ],
    ids=[
        "plain",
        "characters",
        "null",
        "empty",
        "list",
        "true",
        "200",
        "201",
        "60,000",
        "controls",
        "many controls",
        "tricks",
        "key",
        "key in other letters",
        "key at the end",
    ],
)
def test_messages_are_kept_clean(text: object, kept: str) -> None:
    """B2: errorMessage is kept, ≤ 200 characters, escaped, the key scrubbed in any letter case."""
    assert said(text) == kept


def test_an_escaped_key_is_scrubbed() -> None:
    """B2: texts are scrubbed decoded, so that JSON escapes hide no key."""
    escaped = "".join(f"\\u{ord(character):04x}" for character in KEY)
    content = f'{{"errorMessage": "bad key {escaped}"}}'.encode()
    error = refused(401, JSON, content, scrub=ApiKey(KEY).scrub)
    assert str(error) == f"the API key is refused (401): bad key {MASK}"


LONG_KEY = "sk-" + "0123456789abcdef" * 8

ECHOES = {
    "data": (200, JSON, body(data=LONG_KEY)),
    "data in other letters": (200, JSON, body(data=LONG_KEY.upper())),
    "data behind": (200, JSON, body(data=f"{'9' * 30}{LONG_KEY}")),
    "message": (401, JSON, body(errorMessage=f"{'x' * 150}{LONG_KEY}")),
    "message inside 200": (200, JSON, body(isSuccess=False, statusCode=401, errorMessage=LONG_KEY)),
    "member twice": (200, JSON, f'{{"{LONG_KEY}": 1, "{LONG_KEY}": 2}}'.encode()),
    "content type": (200, {"Content-Type": f"text/{LONG_KEY}"}, b"{}"),
    "content type of a page": (200, {"Content-Type": f"text/html; {LONG_KEY}"}, b"<"),
    "coding": (200, {"Content-Encoding": LONG_KEY}, b""),
    "coding and type": (200, {"Content-Encoding": "br", "Content-Type": LONG_KEY}, b""),
    "redirect": (
        302,
        {"Location": f"https://evil.test/?{LONG_KEY}", "Content-Type": LONG_KEY},
        b"",
    ),
    "status": (204, {"Content-Type": f"{'x' * 90}{LONG_KEY}"}, b""),
    "Retry-After": (503, {"Retry-After": LONG_KEY}, b""),
}


@pytest.mark.parametrize(("status", "headers", "content"), ECHOES.values(), ids=ECHOES.keys())
def test_an_echoed_key_is_not_shown(
    status: int, headers: Mapping[str, str], content: bytes
) -> None:
    """B2: wherever a server echoes the key, no error shows it, nor a part of it that was cut."""
    error = refused(status, headers, content, scrub=ApiKey(LONG_KEY).scrub)
    shown = f"{error}{error!r}{vars(error)}{error.args}".lower()
    assert LONG_KEY[:8] not in shown


@pytest.mark.parametrize("key", ["1", "1250.75", "5", "0.", "data", "true", ":", '"', "a"])
def test_a_short_key_alters_no_amount(key: str) -> None:
    """B2: the body is not scrubbed before parsing, so a key like an amount does no harm."""
    balance = decode(200, JSON, VENDOR_GOOD, scrub=ApiKey(key).scrub)
    assert balance == Balance(Decimal("1250.75"), "1250.75")


@pytest.mark.parametrize("key", ["a", "e", "s", "500"])
def test_a_short_key_alters_no_words_of_ours(key: str) -> None:
    """B2: only texts of the service are scrubbed; our own stay readable."""
    scrub = ApiKey(key).scrub
    assert str(refused(500, {}, b"", scrub=scrub)) == "the service failed (500)"
    assert str(refused(200, {}, b"x", scrub=scrub)) == NOT_JSON
    assert str(refused(200, {}, body(data="?"), scrub=scrub)) == (
        'the answer\'s data is not an amount: "?"'
    )


# --- other statuses


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 399])
def test_redirects_are_refused(status: int) -> None:
    """B3: a redirect is an error that says so; where it points to is not shown."""
    error = refused(status, {"Location": "https://evil.test/"}, VENDOR_GOOD)
    assert isinstance(error, InvalidResponseError)
    assert (error.reason, error.status_code, error.retryable) == ("redirect", status, False)
    assert str(error) == (
        f"the answer is a redirect (HTTP {status}), which is not followed: the key goes to no other"
        " place. If the API has moved, change base_url"
    )


@pytest.mark.parametrize("status", [0, 100, 101, 199, 201, 202, 204, 206, 226, 299, 600, 999, -200])
def test_other_statuses_are_refused(status: int) -> None:
    """E: a 2xx other than 200, and what is no status at all, is not trusted with a good body."""
    error = refused(status, JSON, VENDOR_GOOD)
    assert isinstance(error, InvalidResponseError)
    assert (error.reason, error.status_code) == ("status", status)
    assert str(error) == f"the answer has HTTP status {status} where the API documents 200"


# --- Retry-After

DATE = "Sun, 22 Nov 2026 12:00:00 GMT"
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"RETRY-AFTER": "1.5"}, 1.5),
        ({"Retry-After": "007"}, 7.0),
        ({"Retry-After": "9" * 400}, math.inf),
        ({"Retry-After": "99999999999"}, 99999999999.0),
        ({"Retry-After": "inf"}, math.inf),
        ({"Retry-After": "Infinity"}, math.inf),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "+5"}, None),
        ({"Retry-After": "5s"}, None),
        ({"Retry-After": "1e3"}, None),
        ({"Retry-After": "1_000"}, None),
        ({"Retry-After": "\u0665"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "5, 5"}, None),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT", "Date": DATE}, 30.0),
        ({"Retry-After": "Sunday, 22-Nov-26 12:00:30 GMT", "Date": DATE}, 30.0),
        ({"Retry-After": "Sun Nov 22 12:00:30 2026", "Date": DATE}, 30.0),
        ({"Retry-After": "Sun, 22 Nov 2026 13:00:30 +0100", "Date": DATE}, 30.0),
        ({"Retry-After": "Sun, 22 Nov 2026 11:59:00 GMT", "Date": DATE}, 0.0),
        ({"Retry-After": "Mon, 01 Jan 1990 00:00:00 GMT", "Date": DATE}, 0.0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": DATE}, 251_606_951_999.0),
        ({"Retry-After": "Sun, 32 Nov 2026 12:00:30 GMT", "Date": DATE}, None),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:30 +9999999", "Date": DATE}, None),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:45 GMT"}, 45.0),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:45 GMT", "Date": "yesterday"}, 45.0),
        (
            {
                "Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT",
                "Date": "Thu, 01 Jan 1970 00:00:00 GMT",
            },
            60.0,
        ),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(status: int, headers: Mapping[str, str], seconds: float | None) -> None:
    """R3: seconds or a date, read against the answer's own Date, else against its arrival."""
    assert refused(status, headers, b"", now=NOW).retry_after == seconds


def test_retry_after_inside_200() -> None:
    """B1: a refusal inside a 200 keeps its Retry-After, too."""
    error = refused(200, JSON | {"Retry-After": "3"}, INSIDE_200[429])
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 3.0


def test_a_date_without_any_now() -> None:
    """R3: a date that nothing can be compared with is no number of seconds."""
    assert refused(503, {"Retry-After": DATE}, b"").retry_after is None


# --- any answer at all

NAMES = ["Content-Type", "content-encoding", "Content-Length", "Retry-After", "date", "x"]
DATES = st.text("SunMoTueGMT, 0123456789:+-NovJan.()\"'\\", max_size=40)
VALUES = (
    st.sampled_from([DATE, "text/html", "gzip", "identity", "12"]) | DATES | st.text(max_size=30)
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([200, 401, 500, "1250.75", "1,250.75", "1250,75"])
    | st.text(max_size=20)
)
MEMBERS = st.sampled_from(["isSuccess", "statusCode", "errorMessage", "data"]) | st.text(max_size=5)
DOCUMENTS = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(MEMBERS, SCALARS, max_size=2)
BODIES = (
    st.binary(max_size=200)
    | st.dictionaries(MEMBERS, DOCUMENTS, max_size=3).map(lambda changes: body(**changes))
    | DOCUMENTS.map(lambda document: json.dumps(document).encode())
    | st.text('{}[]":,.0123456789eE+-truefalsnul \\', max_size=60).map(str.encode)
)


@given(
    st.sampled_from([200, 200, 401, 429, 503]) | st.integers(-1, 1000),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3),
    BODIES,
    st.text("aT1.", min_size=1, max_size=2),
)
@example(200, {}, VENDOR_GOOD, "a")
def test_decode_is_total(status: int, headers: dict[str, str], content: bytes, key: str) -> None:
    """B7: any status, headers and body give a balance or an error of ours, and nothing else."""
    outcome: Balance | DecaptchaError
    try:
        outcome = decode(status, headers, content, scrub=ApiKey(key).scrub, now=NOW)
    except DecaptchaError as error:
        outcome = error
    if isinstance(outcome, Balance):
        assert status == 200
        assert outcome.amount == Decimal(outcome.raw.replace(",", "").strip())
    else:
        assert isinstance(outcome, APIError | InvalidResponseError)
        assert str(outcome).isprintable()
        assert outcome.retry_after is None or outcome.retry_after >= 0


def test_what_is_asked() -> None:
    """C8, B5: GET /api/balance, as this library, for JSON that is not compressed."""
    assert (_wire.METHOD, _wire.PATH) == ("GET", "/api/balance")
    assert request_headers("0.1.0") == {
        "User-Agent": "decaptcha-async/0.1.0",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }
