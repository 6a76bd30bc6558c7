"""Settings: key, base URL and arguments, resolved and checked before anything is sent."""

from __future__ import annotations

import importlib.metadata
import math
import os
import re
import traceback
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import httpx
import pytest
from canary import CANARY

from decaptcha_async import BalanceClient, _settings
from decaptcha_async._secret import ApiKey
from decaptcha_async._settings import DEFAULT_BASE_URL, key_source, resolve_base_url
from decaptcha_async.errors import ConfigurationError

NOT_GIVEN: Mapping[str, str] = {}


async def asked(given: object, environment: Mapping[str, str] = NOT_GIVEN) -> str:
    """The key that a request made now would carry."""
    source, problem = key_source(given, environment)
    assert problem == ""
    assert source is not None
    return sent(await source.ask())


def sent(key: ApiKey) -> str:
    """The key as a request carries it."""
    request = key.put(httpx.Request("GET", DEFAULT_BASE_URL))
    return str(request.headers["x-api-key"])


def sightings(error: BaseException) -> list[str]:
    """Where an error shows the key: its texts, and every frame from our code on, with locals."""
    assert error.__traceback__ is not None
    shown = traceback.TracebackException(
        type(error), error, error.__traceback__.tb_next, capture_locals=True
    )
    chain = [error, error.__cause__, error.__context__]
    places = [*shown.format(), *(f"{link}{link!r}{vars(link)}" for link in chain if link)]
    return [place for place in places if CANARY.lower() in place.lower()]


# --- the key


@pytest.mark.anyio
async def test_a_given_key_is_used() -> None:
    """K1: a key that was given wins over the environment."""
    assert await asked(CANARY, {"DECAPTCHA_API_KEY": "other"}) == CANARY


@pytest.mark.anyio
async def test_a_callable_is_asked_each_time() -> None:
    """API: a callable is asked at every attempt, so that a key can be rotated."""
    keys = iter(["one", "two"])
    source, _ = key_source(partial(next, keys), NOT_GIVEN)
    assert source is not None
    assert [sent(await source.ask()), sent(await source.ask())] == ["one", "two"]


@pytest.mark.anyio
async def test_the_environment_is_read() -> None:
    """API: DECAPTCHA_API_KEY is used; empty, it counts as not set."""
    assert await asked(None, {"DECAPTCHA_API_KEY": CANARY}) == CANARY
    source, problem = key_source(None, {"DECAPTCHA_API_KEY": ""})
    assert source is None
    assert problem == (
        "no API key: pass api_key, or set DECAPTCHA_API_KEY or DECAPTCHA_API_KEY_FILE"
    )


BAD_KEYS = {
    "newline": (f"{CANARY}\n", "ends with a newline: read from a file?"),
    "space": (f"{CANARY} {CANARY}", "has white space in it"),
    "around": (f" {CANARY}", "has white space around it"),
    "control": (f"{CANARY}\x00", "has a character outside printable ASCII"),
    "accent": (f"{CANARY}é", "has a character outside printable ASCII"),
    "header": (f"{CANARY}\r\nx-admin: 1", "has white space in it"),
    "long": (CANARY * 400, "is longer than 4096 characters"),
    "bytes": (CANARY.encode(), "must be a str, not bytes"),
    "list": ([CANARY], "must be a str, not list"),
}


@pytest.mark.parametrize(("bad", "problem"), BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_a_bad_key_stops_construction(bad: object, problem: str) -> None:
    """K1: a bad key is refused at construction; no text, repr or captured local shows it."""
    with pytest.raises(ConfigurationError) as caught:
        BalanceClient(cast("str", bad))
    assert str(caught.value) == f"the API key {problem}"
    assert sightings(caught.value) == []


@pytest.mark.parametrize("bad", [f"{CANARY}\n", f"{CANARY}é"], ids=["newline", "accent"])
def test_a_bad_key_in_the_environment(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """K1: the message names the variable, and nothing shows the key."""
    monkeypatch.setenv("DECAPTCHA_API_KEY", bad)
    with pytest.raises(ConfigurationError, match=r"^the API key in DECAPTCHA_API_KEY ") as caught:
        BalanceClient()
    assert sightings(caught.value) == []


@pytest.mark.anyio
@pytest.mark.parametrize(("bad", "problem"), BAD_KEYS.values(), ids=BAD_KEYS.keys())
async def test_a_bad_key_from_a_callable(bad: object, problem: str) -> None:
    """K1: what a callable returns is checked at each attempt, and shown nowhere."""
    keys: dict[str, object] = {"key": CANARY}
    source, _ = key_source(partial(keys.pop, "key", bad), NOT_GIVEN)
    assert source is not None
    assert sent(await source.ask()) == CANARY
    with pytest.raises(ConfigurationError) as caught:
        await source.ask()
    assert str(caught.value) == f"the API key that the callable returned {problem}"
    assert sightings(caught.value) == []


@pytest.mark.parametrize("given", [CANARY, partial(str, CANARY)], ids=["key", "callable"])
def test_sources_do_not_show_the_key(given: object) -> None:
    """K2: the object that keeps the key, or asks for it, shows nothing of it."""
    source, _ = key_source(given, NOT_GIVEN)
    assert source is not None
    assert CANARY not in f"{source}{source!r}"


# --- the key file


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Where a key file would be."""
    return tmp_path / "key"


@pytest.mark.anyio
@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["none", "LF", "CRLF"])
@pytest.mark.parametrize("key", [CANARY, "k" * 4096], ids=["usual", "longest"])
async def test_a_key_file_is_read(key: str, end: str, key_file: Path) -> None:
    """API: one line end at the end of the file is dropped."""
    await anyio.Path(key_file).write_bytes(f"{key}{end}".encode())
    assert await asked(None, {"DECAPTCHA_API_KEY_FILE": str(key_file)}) == key


@pytest.mark.anyio
async def test_a_key_file_is_read_again(key_file: Path) -> None:
    """API: the file is read at every attempt; one that went bad is an error of that attempt."""
    await anyio.Path(key_file).write_text("one\n")
    source, _ = key_source(None, {"DECAPTCHA_API_KEY_FILE": str(key_file)})
    assert source is not None
    assert sent(await source.ask()) == "one"
    await anyio.Path(key_file).write_text("two\n")
    assert sent(await source.ask()) == "two"
    await anyio.Path(key_file).write_text(f"{CANARY}\n\n")
    with pytest.raises(ConfigurationError, match="ends with a newline") as caught:
        await source.ask()
    assert sightings(caught.value) == []
    await anyio.Path(key_file).unlink()
    with pytest.raises(ConfigurationError, match=r"no such file or directory$"):
        await source.ask()


BAD_FILES = {
    "empty": (b"", "is empty"),
    "only a line end": (b"\n", "is empty"),
    "two line ends": (CANARY.encode() + b"\n\n", "ends with a newline: read from a file?"),
    "line ends reversed": (CANARY.encode() + b"\n\r", "ends with a newline: read from a file?"),
    "two lines": (b"one\ntwo\n", "has white space in it"),
    "UTF-8 with mark": (
        b"\xef\xbb\xbf" + CANARY.encode(),
        "has a character outside printable ASCII",
    ),
    "UTF-16": (CANARY.encode("utf-16"), "has a character outside printable ASCII"),
    "binary": (bytes(range(192, 256)), "has a character outside printable ASCII"),
    "too long": (b"k" * 5000, "is longer than 4096 characters"),
    "one too long": (b"k" * 4097 + b"\r\n", "is longer than 4096 characters"),
}


@pytest.mark.parametrize(("content", "problem"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_key_file_is_named(content: bytes, problem: str, key_file: Path) -> None:
    """K1: at construction the message names the file and the problem, never what is in it."""
    key_file.write_bytes(content)
    source, said = key_source(None, {"DECAPTCHA_API_KEY_FILE": str(key_file)})
    assert source is None
    assert said == f"the API key in the file {key_file} {problem}"


def test_a_key_file_that_cannot_be_read(tmp_path: Path) -> None:
    """K1: a missing file and a directory are named with the system's reason."""
    missing = tmp_path / "missing"
    for path, reason in ((missing, "no such file or directory"), (tmp_path, "is a directory")):
        source, problem = key_source(None, {"DECAPTCHA_API_KEY_FILE": str(path)})
        assert source is None
        assert problem == f"cannot read the API key file {path}: {reason}"


# --- the base URL


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("https://decaptcha.net", "https://decaptcha.net"),
        ("https://decaptcha.net/", "https://decaptcha.net"),
        ("HTTPS://DeCaptcha.NET", "https://decaptcha.net"),
        ("https://decaptcha.net:443", "https://decaptcha.net"),
        ("https://decaptcha.net:", "https://decaptcha.net"),
        ("https://decaptcha.net:0443/", "https://decaptcha.net"),
        ("https://decaptcha.net:8443", "https://decaptcha.net:8443"),
        ("https://decaptcha.net:80", "https://decaptcha.net:80"),
        ("https://decaptcha.net/Proxy/v2/", "https://decaptcha.net/Proxy/v2"),
        ("https://decaptcha.net/a%20b/~c", "https://decaptcha.net/a%20b/~c"),
        ("https://decaptcha.net.", "https://decaptcha.net."),
        (
            "https://api_1.internal-2.xn--bcher-kva.example",
            "https://api_1.internal-2.xn--bcher-kva.example",
        ),
        ("https://3com", "https://3com"),
        ("https://192.0.2.7:8443", "https://192.0.2.7:8443"),
        ("https://[2001:DB8:0:0::1]", "https://[2001:db8::1]"),
        ("https://[2001:db8::1]:443/x", "https://[2001:db8::1]/x"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://LOCALHOST:80", "http://localhost"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://127.255.0.9:1", "http://127.255.0.9:1"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
        ("http://[::ffff:127.0.0.1]", "http://[::ffff:7f00:1]"),
    ],
)
def test_good_urls_have_one_form(given: str, canonical: str) -> None:
    """K4: one canonical form, which is a fixed point."""
    assert same_url(resolve_base_url(given, allow_http=False), canonical)
    assert resolve_base_url(resolve_base_url(given, allow_http=False), allow_http=False) == (
        resolve_base_url(given, allow_http=False)
    )


def same_url(one: str, other: str) -> bool:
    """Python 3.13 writes a mapped address with dots."""
    return one.replace("[::ffff:127.0.0.1]", "[::ffff:7f00:1]") == other


PLAIN_HTTP = "is plain http, which would send the key in clear: use https (or allow_http)"
NO_HOST = "needs a host name or an IP address, such as https://decaptcha.net"
NO_PLACE = "has a malformed host or port"
NO_SCHEME = "must begin with https://"
NO_USER = "must not hold user info: the key is the only credential"
NO_QUERY = "must not have a query or a fragment"
NO_PREFIX = "has a path that is not a plain prefix"
NO_TEXT = "must be at most 2048 characters of printable ASCII, with no backslash"

HOSTILE = {
    "": NO_SCHEME,
    "decaptcha.net": NO_SCHEME,
    "//decaptcha.net": NO_SCHEME,
    "ftp://decaptcha.net": NO_SCHEME,
    "file:///etc/passwd": NO_SCHEME,
    "javascript:alert(1)": NO_SCHEME,
    "httpss://decaptcha.net": NO_SCHEME,
    "https+unix://decaptcha.net": NO_SCHEME,
    "https:decaptcha.net": NO_HOST,
    "https:/decaptcha.net": NO_HOST,
    "https://": NO_HOST,
    "https:///api": NO_HOST,
    "https://:443": NO_HOST,
    "https://-decaptcha.net": NO_HOST,
    "https://decaptcha..net": NO_HOST,
    "https://.decaptcha.net": NO_HOST,
    "https://decaptcha,net": NO_HOST,
    "https://decaptcha%2enet": NO_HOST,
    "https://*.decaptcha.net": NO_HOST,
    "https://" + "a" * 64 + ".net": NO_HOST,
    "https://[fe80::1%25eth0]": NO_HOST,
    "https://127.1": NO_HOST,
    "https://2130706433": NO_HOST,
    "https://0x7f000001": NO_HOST,
    "https://127.0.0.0x1": NO_HOST,
    "https://256.256.256.256": NO_HOST,
    "https://1.2.3.4.": NO_HOST,
    "https://[::1": NO_PLACE,
    "https://[decaptcha.net]": NO_PLACE,
    "https://decaptcha.net:99999": NO_PLACE,
    "https://decaptcha.net:0": NO_PLACE,
    "https://decaptcha.net:-1": NO_PLACE,
    "https://decaptcha.net:4_43": NO_PLACE,
    "https://decaptcha.net:443:443": NO_PLACE,
    "https://user@decaptcha.net": NO_USER,
    "https://user:secret@decaptcha.net": NO_USER,
    "https://@decaptcha.net": NO_USER,
    "https://decaptcha.net:443@evil.test": NO_USER,
    "https://decaptcha.net?": NO_QUERY,
    "https://decaptcha.net/?x=1": NO_QUERY,
    "https://decaptcha.net#": NO_QUERY,
    "https://decaptcha.net/#@evil.test": NO_QUERY,
    "https://evil.test?.decaptcha.net": NO_QUERY,
    "https://decaptcha.net/../admin": NO_PREFIX,
    "https://decaptcha.net/./x": NO_PREFIX,
    "https://decaptcha.net/a/%2e%2E/b": NO_PREFIX,
    "https://decaptcha.net/..%2fadmin": NO_PREFIX,
    "https://decaptcha.net/a;b": NO_PREFIX,
    "https://decaptcha.net/<script>": NO_PREFIX,
    "https://decaptcha.net/%zz": NO_PREFIX,
    "https://evil.test\\@decaptcha.net": NO_TEXT,
    "https:\\\\decaptcha.net": NO_TEXT,
    "https://decaptcha.net /": NO_TEXT,
    " https://decaptcha.net": NO_TEXT,
    "https://decaptcha.net\n": NO_TEXT,
    "https://decap\ttcha.net": NO_TEXT,
    "https://decaptcha.net\r\nx-admin: 1": NO_TEXT,
    "https://decaptcha.net\x00": NO_TEXT,
    "https://décaptcha.net": NO_TEXT,
    "https://decaptcha\uff0enet": NO_TEXT,
    "https://decaptcha.net/" + "a" * 2048: NO_TEXT,
    "http://decaptcha.net": PLAIN_HTTP,
    "HTTP://decaptcha.net:443": PLAIN_HTTP,
    "http://localhost.evil.test": PLAIN_HTTP,
    "http://127.0.0.1.evil.test": PLAIN_HTTP,
    "http://0.0.0.0": PLAIN_HTTP,
    "http://192.168.0.1": PLAIN_HTTP,
    "http://[::]": PLAIN_HTTP,
    "http://[::ffff:8.8.8.8]": PLAIN_HTTP,
}


@pytest.mark.parametrize(
    ("url", "problem"), HOSTILE.items(), ids=[ascii(url)[:50] for url in HOSTILE]
)
def test_hostile_urls_are_refused(url: str, problem: str) -> None:
    """K4: user info, query, fragment, plain http and every trick are refused by name."""
    with pytest.raises(ConfigurationError) as caught:
        resolve_base_url(url, allow_http=False)
    assert str(caught.value) == f"base_url {problem}"


def test_plain_http_can_be_insisted_on() -> None:
    """K4: allow_http lets plain http leave the machine, and nothing else pass."""
    assert (
        resolve_base_url("http://decaptcha.net:80/x", allow_http=True) == "http://decaptcha.net/x"
    )
    with pytest.raises(ConfigurationError, match=NO_USER):
        resolve_base_url("http://user@decaptcha.net", allow_http=True)


def test_where_the_url_comes_from() -> None:
    """API: what was given wins, then DECAPTCHA_BASE_URL unless empty, then the default."""
    name = "DECAPTCHA_BASE_URL"
    resolve = partial(resolve_base_url, allow_http=False)
    assert resolve("https://a.test", environment={name: "https://b.test"}) == "https://a.test"
    assert resolve(None, environment={name: "https://b.test/"}) == "https://b.test"
    assert resolve(None, environment={name: ""}) == DEFAULT_BASE_URL == "https://decaptcha.net"
    assert resolve(None, environment={}) == DEFAULT_BASE_URL


def test_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """API: without another, the environment is that of the process, as it is at the call."""
    monkeypatch.setitem(os.environ, "DECAPTCHA_BASE_URL", "https://process.test")
    monkeypatch.setitem(os.environ, "DECAPTCHA_API_KEY", CANARY)
    assert resolve_base_url(None, allow_http=False) == "https://process.test"
    assert key_source(None)[1] == ""


def test_a_url_is_a_str() -> None:
    """K4: another type is refused by its name."""
    with pytest.raises(ConfigurationError, match=r"^base_url must be a str, not URL$"):
        resolve_base_url(httpx.URL(DEFAULT_BASE_URL), allow_http=False)


# --- arguments


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1, 1.0),
        (0.25, 0.25),
        (timedelta(minutes=1), 60.0),
        (timedelta(milliseconds=1), 0.001),
        (1e300, 1e300),
    ],
    ids=str,
)
def test_durations_become_seconds(value: float | timedelta, seconds: float) -> None:
    """House: a duration is a number of seconds or a timedelta, kept as a float."""
    duration = _settings.duration(value, "interval")
    assert (type(duration), duration) == (float, seconds)


@pytest.mark.parametrize(
    "zero", [0, 0.0, -0.0, timedelta(0)], ids=["0", "0.0", "-0.0", "timedelta"]
)
def test_zero_is_a_duration_where_allowed(zero: float | timedelta) -> None:
    """House: an argument says whether it may be 0."""
    assert _settings.duration(zero, "initial_delay", zero=True) == 0
    with pytest.raises(
        ConfigurationError, match=r"^interval must be a finite number of seconds > 0"
    ):
        _settings.duration(zero, "interval")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (-1, "must be a finite number of seconds ≥ 0, not -1"),
        (timedelta(seconds=-2), "must be a finite number of seconds ≥ 0, not -2.0"),
        (math.nan, "must be a finite number of seconds ≥ 0, not nan"),
        (math.inf, "must be a finite number of seconds ≥ 0, not inf"),
        (10**400, "must be a finite number of seconds ≥ 0, not 1000"),
        (True, "must be a number of seconds or a timedelta, not bool"),
        ("60", "must be a number of seconds or a timedelta, not str"),
        (None, "must be a number of seconds or a timedelta, not NoneType"),
        (Decimal(60), "must be a number of seconds or a timedelta, not Decimal"),
    ],
    ids=["negative", "timedelta", "nan", "inf", "huge", "bool", "str", "None", "Decimal"],
)
def test_other_durations_are_refused(value: object, problem: str) -> None:
    """House: what is not a finite, non-negative duration is a ConfigurationError that says why."""
    with pytest.raises(ConfigurationError, match=rf"^interval {re.escape(problem)}"):
        _settings.duration(value, "interval", zero=True)


def test_whole_numbers() -> None:
    """House: a count is an int, not below its least."""
    assert _settings.whole(4, "attempts", least=1) == 4
    assert _settings.whole(0, "burst", least=0) == 0


@pytest.mark.parametrize("value", [0, -1, 4.0, True, "4", None], ids=repr)
def test_other_counts_are_refused(value: object) -> None:
    """House: a float, bool or text is no count, nor is what lies below the least."""
    message = f"attempts must be a whole number ≥ 1, not {value!r}"
    with pytest.raises(ConfigurationError, match=rf"^{re.escape(message)}$"):
        _settings.whole(value, "attempts", least=1)


@pytest.mark.parametrize("value", [0, 0.05, 0.5, 1], ids=str)
def test_fractions(value: float) -> None:
    """W3: a fraction is from 0 to 1."""
    assert _settings.fraction(value, "ratio") == float(value)


@pytest.mark.parametrize(
    "value", [1, 1.0, 1.5, -0.1, math.nan, True, "0.5", Fraction(1, 2)], ids=repr
)
def test_other_fractions_are_refused(value: object) -> None:
    """W3: jitter is from 0 to below 1, and a number."""
    message = f"jitter must be a number from 0 to below 1, not {value!r}"
    with pytest.raises(ConfigurationError, match=rf"^{re.escape(message)}$"):
        _settings.fraction(value, "jitter", below_one=True)


def test_a_fraction_above_one_is_refused() -> None:
    """W3: where 1 is allowed, more is not."""
    with pytest.raises(ConfigurationError, match=r"^ratio must be a number from 0 to 1, not 1\.5$"):
        _settings.fraction(1.5, "ratio")


@pytest.mark.parametrize("value", [Decimal("12.50"), "12.50"], ids=repr)
def test_thresholds(value: object) -> None:
    """A4: a threshold is an exact amount."""
    assert _settings.threshold(value) == Decimal("12.50")


@pytest.mark.parametrize("value", [12.5, math.nan, True, Decimal("NaN"), "12,50"], ids=repr)
def test_other_thresholds_are_refused(value: object) -> None:
    """A4: floats, NaN, bools and what is no amount are a ConfigurationError, named and alone."""
    with pytest.raises(ConfigurationError, match=r"^below: .*amount") as caught:
        _settings.threshold(value, "below")
    assert caught.value.__context__ is None


def test_the_version() -> None:
    """C8: the version is the installed one, or unknown where nothing is installed."""
    assert _settings.version("attrs") == importlib.metadata.version("attrs")
    assert _settings.version("no-such-distribution") == "unknown"
