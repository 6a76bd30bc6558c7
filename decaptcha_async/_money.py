"""Amounts of money, read exactly or not at all.

A wrong amount is worse than none: the vendor's samples strip every comma, which reads ``1250,75``
as 125075, and a float ``nan`` is below no threshold, so an alarm would never ring. Hence one strict
grammar, for answers of the API and for thresholds alike.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

MAX_LENGTH: Final = 40
"""Longest text, in characters, that is looked at as an amount."""

_MOST_BEFORE: Final = 15
_MOST_BEHIND: Final = 18
_ASCII_SPACE: Final = " \t\n\r\v\f"
_GRAMMAR: Final = re.compile(
    r"""
    [+-]?
    (?: 0
      | [1-9][0-9]{0,14}                        # 1250
      | [1-9][0-9]{0,2} (?: ,[0-9]{3} ){1,4}    # 1,250
    )
    (?: \.[0-9]{1,18} )?
    """,
    re.VERBOSE,
)


def parse_amount(text: str) -> Decimal:
    """Read an amount such as ``"1250.75"`` or ``"1,250.75"`` as an exact :class:`~decimal.Decimal`.

    The scale is kept (``"1250.70"`` stays ``1250.70``) and a negative zero becomes zero.

    Raises:
        ValueError: the text is anything else; its message shows the text, shortened and escaped.
    """
    if len(text) <= MAX_LENGTH:
        stripped = text.strip(_ASCII_SPACE)
        if _GRAMMAR.fullmatch(stripped):
            amount = Decimal(stripped.replace(",", ""))
            return amount or amount.copy_abs()
    raise ValueError(not_an_amount(text))


def not_an_amount(text: str) -> str:
    """The message for a text that is none, with the text shortened and escaped."""
    more = "…" if len(text) > MAX_LENGTH else ""
    return f'not an amount: "{printable(text, MAX_LENGTH)}{more}"'


def parse_threshold(value: object) -> Decimal:
    """Read a threshold: a Decimal, an int, or a text in the grammar of :func:`parse_amount`.

    Raises:
        TypeError: a float or a bool, which cannot say an amount exactly, or any other type.
        ValueError: not finite, or outside the grammar (at most 15 digits before the point and 18
            behind it).
    """
    if isinstance(value, float):
        message = "a float cannot hold an amount exactly: write '12.50' or Decimal('12.50')"
        raise TypeError(message)
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        message = f"an amount is a Decimal, an int or a str, not {type(value).__name__}"
        raise TypeError(message)
    if isinstance(value, str):
        return parse_amount(value)
    exact = Decimal(value)
    if not exact.is_finite():
        message = f"an amount must be finite, not {exact}"
        raise ValueError(message)
    if not -_MOST_BEHIND <= exact.adjusted() < _MOST_BEFORE:  # spelt out, it may fill the memory
        message = (
            f"an amount has at most {_MOST_BEFORE} digits before the point and {_MOST_BEHIND}"
            " behind it"
        )
        raise ValueError(message)
    return parse_amount(format(exact, "f"))


def printable(text: str, limit: int) -> str:
    """Escape what a terminal or a log should not meet, and cut to ``limit`` characters."""
    cut = text[:limit]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown[:limit]
