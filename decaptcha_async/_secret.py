"""The API key as an object that shows itself to nobody but the request it is put on."""

from __future__ import annotations

import hmac
import re
from collections.abc import MutableMapping
from typing import Final, NoReturn, Protocol, TypeVar, final

HEADER: Final = "x-api-key"
"""Name of the request header that carries the key (vendor's page: request headers)."""

MASK: Final = "[api key]"
"""What stands where a key stood."""

MAX_LENGTH: Final = 4096
"""Longest key, in characters."""

_GRAMMAR: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_LENGTH}}}")
_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Request(Protocol):
    """What a key needs of a request: headers to stand in."""

    @property
    def headers(self) -> MutableMapping[str, str]:
        """The request's headers."""
        ...


R = TypeVar("R", bound=Request)


@final
class ApiKey:
    """A key that was found well formed: masked, compared in constant time, never pickled."""

    __slots__ = ("__folded", "__value")

    def __init__(self, value: str) -> None:
        self.__value = value
        self.__folded = value.translate(_LOWER)

    def put(self, request: R) -> R:
        """Put the key on ``request``; fits where httpx takes a callable as ``auth``."""
        request.headers[HEADER] = self.__value
        return request

    def account(self, base_url: str) -> str:
        """Name this key's account at ``base_url``: 32 hex digits that do not tell the key."""
        return hmac.digest(self.__value.encode(), base_url.encode(), "sha256").hex()[:32]

    def scrub(self, text: str) -> str:
        """Mask every occurrence of the key in ``text``, in any letter case."""
        folded = text.translate(_LOWER)
        pieces: list[str] = []
        start = 0
        while (found := folded.find(self.__folded, start)) >= 0:
            pieces += text[start:found], MASK
            start = found + len(self.__folded)
        return "".join([*pieces, text[start:]])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ApiKey):
            return NotImplemented
        return hmac.compare_digest(self.__value, other.__value)

    def __hash__(self) -> int:
        return hash((ApiKey, self.__value))

    def __repr__(self) -> str:
        return "ApiKey('**********')"

    def __copy__(self) -> ApiKey:
        return self

    def __deepcopy__(self, memo: object) -> ApiKey:
        return self

    def __reduce__(self) -> NoReturn:
        message = "an API key is not pickled: hand the new process its own"
        raise TypeError(message)


def read_key(value: object) -> tuple[ApiKey | None, str]:
    """Check a key: the key and no problem, or no key and the problem in words.

    It returns the problem rather than raising it, so that no frame of a traceback holds the value.
    """
    if not isinstance(value, str):
        return None, f"must be a str, not {type(value).__name__}"
    if _GRAMMAR.fullmatch(value):
        return ApiKey(value), ""
    return None, _problem(value)


def _problem(value: str) -> str:
    if not value:
        return "is empty"
    if value.endswith(("\n", "\r")):
        return "ends with a newline: read from a file?"
    if value != value.strip():
        return "has white space around it"
    if len(value) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    if any(character.isspace() for character in value):
        return "has white space in it"
    return "has a character outside printable ASCII"
