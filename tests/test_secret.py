"""The key: shown to nobody but the request it is put on."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle
import re
import string
from collections.abc import Callable
from random import Random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decaptcha_async._secret import MASK, MAX_LENGTH, ApiKey, read_key

VALUE = "Sk-Live/7f3A+9c=~!"
BASE = "https://decaptcha.net"
PRINTABLE = string.ascii_letters + string.digits + string.punctuation


@pytest.fixture
def key() -> ApiKey:
    """A key as the library holds it."""
    return ApiKey(VALUE)


def sent(key: ApiKey) -> str:
    """The key as a request carries it."""
    return key.put(httpx.Request("GET", BASE)).headers["x-api-key"]


@pytest.mark.parametrize(
    "value", [VALUE, "!", "~", PRINTABLE, "k" * MAX_LENGTH], ids=["usual", "!", "~", "all", "4096"]
)
def test_a_good_key_is_read(value: str) -> None:
    """K1: 1 to 4096 characters of printable ASCII without the space are a key, kept as it is."""
    key, problem = read_key(value)
    assert problem == ""
    assert key is not None
    assert sent(key) == value


BAD = {
    "": "is empty",
    f"{VALUE}\n": "ends with a newline: read from a file?",
    f"{VALUE}\r\n": "ends with a newline: read from a file?",
    f"{VALUE}\r": "ends with a newline: read from a file?",
    "\n": "ends with a newline: read from a file?",
    f" {VALUE}": "has white space around it",
    f"{VALUE}\t": "has white space around it",
    f"\n{VALUE}": "has white space around it",
    f"{VALUE}\u00a0": "has white space around it",
    f"{VALUE} {VALUE}": "has white space in it",
    f"{VALUE}\nx-admin: 1": "has white space in it",
    f"{VALUE}\r\n\r\nGET /": "has white space in it",
    f"{VALUE}\x85x": "has white space in it",
    f"{VALUE}\x00": "has a character outside printable ASCII",
    f"{VALUE}\x7f": "has a character outside printable ASCII",
    f"{VALUE}é": "has a character outside printable ASCII",
    f"{VALUE}\u200b": "has a character outside printable ASCII",
    f"\ufeff{VALUE}": "has a character outside printable ASCII",
    f"{VALUE}\ud800": "has a character outside printable ASCII",
    "\uff53\uff4b": "has a character outside printable ASCII",
    "k" * (MAX_LENGTH + 1): "is longer than 4096 characters",
}


@pytest.mark.parametrize(("value", "problem"), BAD.items(), ids=[ascii(bad)[:40] for bad in BAD])
def test_a_bad_key_is_named_not_shown(value: str, problem: str) -> None:
    """K1: a bad key gives the problem in words, without the value."""
    assert read_key(value) == (None, problem)


@pytest.mark.parametrize(
    "value", [None, b"bytes", 42, ["key"]], ids=lambda value: type(value).__name__
)
def test_a_key_is_a_str(value: object) -> None:
    """K1: anything but a str is refused by its type, not shown."""
    assert read_key(value) == (None, f"must be a str, not {type(value).__name__}")


@given(st.text(max_size=50))
def test_reading_a_key_is_total(value: str) -> None:
    """K1: every text is either a key or one problem, by exactly the grammar."""
    key, problem = read_key(value)
    good = value != "" and all("\x21" <= character <= "\x7e" for character in value)
    assert (key is not None) is good is (problem == "")


@pytest.mark.parametrize("show", [str, repr, format, ascii, "%s".__mod__])
def test_a_key_is_masked(show: Callable[[ApiKey], str], key: ApiKey) -> None:
    """K3: however it is shown, nothing of the value is seen, not even its length."""
    assert show(key) == "ApiKey('**********')"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_is_not_pickled(protocol: int, key: ApiKey) -> None:
    """K3: pickling raises, by every protocol and however deep the key lies."""
    with pytest.raises(
        TypeError, match=r"^an API key is not pickled: hand the new process its own$"
    ):
        pickle.dumps({"keys": [key]}, protocol)


def test_a_copy_of_a_key_is_itself(key: ApiKey) -> None:
    """K3: copy and deepcopy make no second key."""
    assert copy.copy(key) is key
    assert copy.deepcopy([key])[0] is key


def test_a_key_has_no_attributes(key: ApiKey) -> None:
    """K2: there is no `__dict__` for vars, asdict or a debugger to walk through."""
    assert not hasattr(key, "__dict__")


def test_keys_are_equal_by_value(key: ApiKey) -> None:
    """K3: keys are equal, and hash alike, when their values are, in their very letter case."""
    same, other = ApiKey(VALUE), ApiKey(VALUE.swapcase())
    assert key == same
    assert hash(key) == hash(same)
    assert key != other
    assert key != VALUE
    assert len({key, same, other}) == 2


def test_a_key_is_put_on_the_request_itself(key: ApiKey) -> None:
    """K2: the key goes into `x-api-key` of the given request, replacing what was there."""
    request = httpx.Request("GET", BASE, headers={"X-Api-Key": "old"})
    assert key.put(request) is request
    assert request.headers.get_list("x-api-key") == [VALUE]


def test_an_account_names_key_and_place(key: ApiKey) -> None:
    """API: account is HMAC-SHA256(key, base URL) as 32 hex digits, which tells neither."""
    digest = hmac.new(VALUE.encode(), BASE.encode(), hashlib.sha256).hexdigest()
    assert key.account(BASE) == digest[:32]
    assert key.account(f"{BASE}/v2") != key.account(BASE) != ApiKey("other").account(BASE)


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("nothing", "nothing"),
        ("", ""),
        (VALUE, MASK),
        (f"key {VALUE.upper()} or {VALUE.lower()}!", f"key {MASK} or {MASK}!"),
        (f"{VALUE}{VALUE.swapcase()}", f"{MASK}{MASK}"),
        (f"İ{VALUE}K", f"İ{MASK}K"),
        (VALUE[:-1], VALUE[:-1]),
    ],
    ids=["absent", "empty", "alone", "cases", "twice", "letters that grow when lowered", "part"],
)
def test_a_key_is_scrubbed(text: str, scrubbed: str, key: ApiKey) -> None:
    """B2: every occurrence is masked, in any letter case; the rest stays as it is."""
    assert key.scrub(text) == scrubbed


@given(st.text(PRINTABLE, min_size=1, max_size=30), st.lists(st.text(), min_size=1), st.randoms())
def test_scrubbing_is_replacing(value: str, pieces: list[str], random: Random) -> None:
    """B2: whatever key and text, scrubbing is to replace the key in any ASCII letter case."""
    text = "".join(
        piece + random.choice([value, value.upper(), value.lower(), value.swapcase()])
        for piece in pieces
    )
    anyhow = re.compile(re.escape(value), re.IGNORECASE | re.ASCII)
    assert ApiKey(value).scrub(text) == anyhow.sub(MASK, text)
