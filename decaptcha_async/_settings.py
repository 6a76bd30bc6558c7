"""Key, base URL and arguments: resolved from what was given and the environment, and checked."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import ipaddress
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

import anyio.to_thread
import attrs

from decaptcha_async._money import parse_threshold
from decaptcha_async._secret import MAX_LENGTH, ApiKey, read_key
from decaptcha_async.errors import ConfigurationError

DEFAULT_BASE_URL: Final = "https://decaptcha.net"
KEY_VARIABLE: Final = "DECAPTCHA_API_KEY"
KEY_FILE_VARIABLE: Final = "DECAPTCHA_API_KEY_FILE"
BASE_URL_VARIABLE: Final = "DECAPTCHA_BASE_URL"

# A name that ends in a number is an address in disguise: 127.1, 0x7f.1, 2130706433.
_HOST_NAME: Final = re.compile(
    r"(?!-)(?!(.*\.)?(0x[0-9a-f]*|[0-9]+)\.?$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?"
)
_PATH: Final = re.compile(r"([A-Za-z0-9/._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})*")
_PRINTABLE: Final = re.compile(r"[!-\[\]-~]{0,2048}")
_MOST_READ: Final = MAX_LENGTH + 3
"""Bytes of a key file: the longest key, a line end, and one to tell that there is more."""


@functools.cache
def version(distribution: str = "decaptcha-async") -> str:
    """The installed version; ``"unknown"`` for a copy that was not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def duration(value: object, name: str, *, zero: bool = False) -> float:
    """A duration in seconds as a float; ``name`` is the argument's, for the message.

    Raises:
        ConfigurationError: not a number or timedelta, not finite, negative, or zero where ``zero``
            is not allowed.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f"{name} must be a number of seconds or a timedelta, not {type(value).__name__}"
        raise ConfigurationError(message)
    if not 0 <= value <= sys.float_info.max or (value == 0 and not zero):
        message = f"{name} must be a finite number of seconds {'≥' if zero else '>'} 0, not {value}"
        raise ConfigurationError(message)
    return float(value)


def whole(value: object, name: str, *, least: int) -> int:
    """An int of at least ``least``.

    Raises:
        ConfigurationError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        message = f"{name} must be a whole number ≥ {least}, not {value!r}"
        raise ConfigurationError(message)
    return value


def fraction(value: object, name: str, *, below_one: bool = False) -> float:
    """A number from 0 to 1, the 1 excluded if ``below_one``.

    Raises:
        ConfigurationError: anything else.
    """
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (0 <= value < 1 or (value == 1 and not below_one))
    ):
        return float(value)
    message = f"{name} must be a number from 0 to {'below 1' if below_one else '1'}"
    raise ConfigurationError(f"{message}, not {value!r}")


def refuse_async(value: object, name: str) -> None:
    """Refuse a function that would have to be awaited.

    Raises:
        TypeError: it is an ``async def``.
    """
    if inspect.iscoroutinefunction(value):
        message = f"{name} is called, not awaited: pass a plain function"
        raise TypeError(message)


def threshold(value: object, name: str = "threshold") -> Decimal:
    """An exact amount to compare balances with.

    Raises:
        ConfigurationError: a float, a bool, NaN, or a text that is not an amount.
    """
    try:
        return parse_threshold(value)
    except (TypeError, ValueError) as error:
        message = f"{name}: {error}"
    raise ConfigurationError(message)


class KeySource(Protocol):
    """Where the key of the next attempt comes from."""

    async def ask(self) -> ApiKey:
        """The key as it is now.

        Raises:
            ConfigurationError: what came is not a key.
        """
        ...


@attrs.frozen
class _FixedKey:
    _key: ApiKey

    async def ask(self) -> ApiKey:
        return self._key


@attrs.frozen
class _CalledKey:
    _function: Callable[..., object] = attrs.field(repr=False)  # a partial shows its arguments

    async def ask(self) -> ApiKey:
        key, problem = read_key(self._function())
        if key is None:
            raise ConfigurationError(f"the API key that the callable returned {problem}")
        return key


@attrs.frozen
class _KeyFile:
    _path: Path

    async def ask(self) -> ApiKey:
        key, problem = await anyio.to_thread.run_sync(self.read, abandon_on_cancel=True)
        if key is None:
            raise ConfigurationError(problem)
        return key

    def read(self) -> tuple[ApiKey | None, str]:
        try:
            with self._path.open("rb") as file:
                key, problem = read_key(_without_line_end(file.read(_MOST_READ)))
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            return None, f"cannot read the API key file {self._path}: {reason}"
        return key, problem and f"the API key in the file {self._path} {problem}"


def _without_line_end(content: bytes) -> str:
    text = content.decode("latin-1")
    return text.removesuffix("\n").removesuffix("\r")


def key_source(
    given: object, environment: Mapping[str, str] = os.environ
) -> tuple[KeySource | None, str]:
    """Where the key comes from: what was given, else the environment, else a problem in words.

    ``given`` is a key, a callable that returns one, or None. The problem is returned, not raised:
    see :func:`decaptcha_async._secret.read_key`.
    """
    if callable(given):
        return _CalledKey(given), ""
    if given is not None:
        key, problem = read_key(given)
        return key and _FixedKey(key), problem and f"the API key {problem}"
    if environment.get(KEY_VARIABLE):
        key, problem = read_key(environment[KEY_VARIABLE])
        return key and _FixedKey(key), problem and f"the API key in {KEY_VARIABLE} {problem}"
    if path := environment.get(KEY_FILE_VARIABLE):
        file = _KeyFile(Path(path))
        key, problem = file.read()
        return key and file, problem
    return None, f"no API key: pass api_key, or set {KEY_VARIABLE} or {KEY_FILE_VARIABLE}"


def resolve_base_url(
    given: object, *, allow_http: bool, environment: Mapping[str, str] = os.environ
) -> str:
    """The base URL in canonical form: lower-case scheme and host, no default port, no final slash.

    Raises:
        ConfigurationError: it is not an ``https`` URL of a host and perhaps a path; ``http`` is
            for loopback unless ``allow_http``.
    """
    if given is None:
        given = environment.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL
    del environment  # it may hold the key, and a traceback may show this frame
    if not isinstance(given, str):
        message = f"base_url must be a str, not {type(given).__name__}"
        raise ConfigurationError(message)
    canonical, problem = _canonical(given, allow_http=allow_http)
    if problem:
        # The URL may hold a password, so the message does not show it.
        raise ConfigurationError(f"base_url {problem}")
    return canonical


def _canonical(url: str, *, allow_http: bool) -> tuple[str, str]:
    if not _PRINTABLE.fullmatch(url):
        return "", "must be at most 2048 characters of printable ASCII, with no backslash"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "", "has a malformed host or port"
    if parts.scheme not in {"http", "https"}:
        return "", "must begin with https://"
    if "@" in parts.netloc:
        return "", "must not hold user info: the key is the only credential"
    if "?" in url or "#" in url:
        return "", "must not have a query or a fragment"
    address = _address(host)
    if address is None and not _HOST_NAME.fullmatch(host):
        return "", "needs a host name or an IP address, such as https://decaptcha.net"
    if port == 0:
        return "", "has a malformed host or port"
    if not _PATH.fullmatch(parts.path) or {".", ".."} & set(unquote(parts.path).split("/")):
        return "", "has a path that is not a plain prefix"
    loopback = host == "localhost" or (address is not None and _is_loopback(address))
    if parts.scheme == "http" and not (loopback or allow_http):
        return "", "is plain http, which would send the key in clear: use https (or allow_http)"
    shown = f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else host
    default = {"http": 80, "https": 443}[parts.scheme]
    place = shown if port in {None, default} else f"{shown}:{port}"
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}", ""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if getattr(address, "scope_id", None) else address


def _is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
