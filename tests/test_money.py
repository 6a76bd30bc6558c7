"""Amounts: exact or refused."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decaptcha_async._money import (
    MAX_LENGTH,
    not_an_amount,
    parse_amount,
    parse_threshold,
    printable,
)

SIGNS = st.sampled_from(["", "+", "-"])
SPACES = st.text(" \t\n\r\v\f", max_size=2)
SCALES = st.integers(0, 18)


@st.composite
def well_formed(draw: st.DrawFn) -> tuple[str, Decimal]:
    """A text in the grammar, and the amount that it says, put together digit by digit."""
    whole = draw(st.integers(0, 10**15 - 1))
    scale = draw(SCALES)
    behind = draw(st.integers(0, 10**scale - 1)) if scale else 0
    sign = draw(SIGNS)
    shown = f"{whole:,}" if draw(st.booleans()) else f"{whole}"
    decimals = f".{behind:0{scale}}" if scale else ""
    digits = tuple(int(digit) for digit in f"{whole}{decimals.lstrip('.')}")
    negative = sign == "-" and any(digits)
    room = MAX_LENGTH - len(f"{sign}{shown}{decimals}")
    around = draw(SPACES)[: room // 2]
    return f"{around}{sign}{shown}{decimals}{around}", Decimal((int(negative), digits, -scale))


@given(well_formed())
def test_well_formed_amounts_are_read_exactly(case: tuple[str, Decimal]) -> None:
    """A2: with signs, groups, decimals and white space, the value and its scale are exact."""
    text, expected = case
    assert parse_amount(text).as_tuple() == expected.as_tuple()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "0"),
        ("1250.75", "1250.75"),
        ("1,250.75", "1250.75"),
        ("1250.70", "1250.70"),
        ("+12.00", "12.00"),
        ("-3.20", "-3.20"),
        ("-0", "0"),
        ("-0.00", "0.00"),
        ("0.000000000000000001", "1E-18"),
        ("999999999999999", "999999999999999"),
        ("999,999,999,999,999", "999999999999999"),
        ("-999,999,999,999,999.999999999999999999", "-999999999999999.999999999999999999"),
        (" \t\r\n\v\f1250.75 \t\r\n\v\f", "1250.75"),
        (f"{'1250.75':>40}", "1250.75"),
    ],
)
def test_amounts_keep_their_scale(text: str, expected: str) -> None:
    """A2: up to 15 digits before the point and 18 behind it; negative zero becomes zero."""
    assert str(parse_amount(text)) == expected


REFUSED = {
    "comma as point": "1250,75",
    "comma as point, two digits": "12,50",
    "points as groups": "1.250,75",
    "mixed points and commas": "1,25,0.75",
    "groups of one": "1,2,5,0",
    "groups of two": "12,34,567",
    "group of four": "1,2500",
    "group before zero": "0,250",
    "first group of four": "1250,750",
    "first group empty": ",250.75",
    "last group empty": "1,250,",
    "two commas": "1,,250",
    "five groups": "1,000,000,000,000,000",
    "space as group": "1 250.75",
    "no-break space": "1\u00a0250.75",
    "narrow no-break space": "1\u202f250.75",
    "thin space": "1\u2009250.75",
    "apostrophe": "1'250.75",
    "no-break space around": "\u00a01250.75",
    "ideographic space around": "1250.75\u3000",
    "next line around": "1250.75\x85",
    "information separator": "\x1c1250.75",
    "byte order mark": "\ufeff1250.75",
    "zero width space": "1250.75\u200b",
    "line end inside": "1250\n.75",
    "dollar": "$1,250.75",
    "currency behind": "1250.75 USD",
    "percent": "12%",
    "brackets": "(3.20)",
    "exponent": "1e3",
    "capital exponent": "1.25E+3",
    "NaN": "NaN",
    "nan": "nan",
    "signalling NaN": "sNaN",
    "Infinity": "Infinity",
    "inf": "-inf",
    "underscore": "1_000",
    "Arabic digits": "١٢٥٠",
    "full-width digits": "\uff11\uff12\uff15\uff10",
    "one full-width digit": "125\uff10",
    "Devanagari digits": "१२५०.७५",
    "superscript": "12²",
    "Arabic decimal separator": "12\u066b50",
    "unicode minus": "−3.20",
    "en dash": "–3.20",
    "hexadecimal": "0x4e2",
    "octal": "0o17",
    "empty": "",
    "only space": " \t\n",
    "only sign": "-",
    "two signs": "--1",
    "sign apart": "- 1",
    "sign behind": "1-",
    "only point": ".",
    "no digit before the point": ".75",
    "no digit behind the point": "1250.",
    "two points": "1.2.5",
    "leading zero": "01250.75",
    "two zeros": "00",
    "sixteen digits": "1000000000000000",
    "nineteen decimals": "1.0000000000000000001",
    "control character": "12\x0050",
    "escape sequence": "\x1b[2J1250.75",
    "quotes": '"1250.75"',
    "41 characters": f"{'1250.75':>41}",
    "lone surrogate": "\ud800",
    "a word": "null",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_refused(text: str) -> None:
    """A3: what is not in the grammar is refused, with a message that can be printed."""
    with pytest.raises(ValueError, match=r'^not an amount: ".*"$') as caught:
        parse_amount(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1250,75", 'not an amount: "1250,75"'),
        ("", 'not an amount: ""'),
        ("١٢٥٠", 'not an amount: "١٢٥٠"'),
        ("12\x00\n\x1b[31m", 'not an amount: "12\\x00\\n\\x1b[31m"'),
        ("\u202e\ud800\u2028", 'not an amount: "\\u202e\\ud800\\u2028"'),
        ("9" * 40, f'not an amount: "{"9" * 40}"'),
        ("9" * 41, f'not an amount: "{"9" * 40}…"'),
        ("\x00" * 10**6, 'not an amount: "' + r"\x00" * 10 + '…"'),
    ],
    ids=["plain", "empty", "foreign digits", "controls", "tricks", "40", "41", "a million"],
)
def test_the_refused_text_is_shown(text: str, message: str) -> None:
    """A3: the message shows the text, cut to 40 characters, control characters escaped."""
    assert not_an_amount(text) == message
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_amount(text)


@given(st.text(max_size=60) | st.text("0123456789,.+-eE_ \t\n\u0661\uff12", max_size=45))
@example("\ud800" * 41)
@example("\t-1,250.70 ")
def test_parse_amount_is_total(text: str) -> None:
    """B7: any text gives a finite amount or a ValueError, and an amount says what the text says."""
    try:
        amount = parse_amount(text)
    except ValueError:
        return
    assert amount.is_finite()
    assert amount == Decimal(text.replace(",", "").strip())
    assert text.isascii()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("12.50"), "12.50"),
        (Decimal("1.5E+3"), "1500"),
        (Decimal("1E-18"), "1E-18"),
        (Decimal("-0.0"), "0.0"),
        (0, "0"),
        (-25, "-25"),
        (10**15 - 1, "999999999999999"),
        ("1,250.70", "1250.70"),
        (" 5 ", "5"),
    ],
)
def test_thresholds_are_read_by_the_same_grammar(value: Decimal | int | str, expected: str) -> None:
    """A4: a Decimal, an int or a text becomes the exact amount."""
    assert str(parse_threshold(value)) == expected


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (100.0, "a float cannot hold an amount exactly: write '12.50' or Decimal('12.50')"),
        (float("nan"), "a float cannot hold an amount exactly: write '12.50' or Decimal('12.50')"),
        (True, "an amount is a Decimal, an int or a str, not bool"),
        (None, "an amount is a Decimal, an int or a str, not NoneType"),
        (b"12", "an amount is a Decimal, an int or a str, not bytes"),
        (Fraction(1, 2), "an amount is a Decimal, an int or a str, not Fraction"),
    ],
    ids=["float", "nan", "bool", "None", "bytes", "Fraction"],
)
def test_thresholds_of_another_type_are_refused(value: object, advice: str) -> None:
    """A4: floats, bools and other types are refused with advice."""
    with pytest.raises(TypeError, match=f"^{re.escape(advice)}$"):
        parse_threshold(value)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (Decimal("NaN"), "must be finite, not NaN"),
        (Decimal("sNaN"), "must be finite, not sNaN"),
        (Decimal("-Infinity"), "must be finite, not -Infinity"),
        (Decimal("1E+15"), "at most 15 digits before the point and 18 behind it"),
        (Decimal("1E+999999"), "at most 15 digits before the point and 18 behind it"),
        (Decimal("1E-999999999999"), "at most 15 digits before the point and 18 behind it"),
        (Decimal("0E-999999999999"), "at most 15 digits before the point and 18 behind it"),
        (Decimal("1.0000000000000000001"), "not an amount"),
        (-(10**15), "at most 15 digits before the point and 18 behind it"),
        (10**4000, "at most 15 digits before the point and 18 behind it"),
        ("12,50", "not an amount"),
        ("nan", "not an amount"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, Decimal | str) else None,
)
def test_thresholds_out_of_bounds_are_refused(value: Decimal | int | str, problem: str) -> None:
    """A4: NaN, infinities and what the grammar cannot write are refused, however large."""
    with pytest.raises(ValueError, match=problem):
        parse_threshold(value)


@given(st.text(max_size=300), st.integers(0, 250))
def test_printable_is_printable_and_short(text: str, limit: int) -> None:
    """A3: whatever the text, what is shown can be printed and is no longer than allowed."""
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert shown.startswith(text[:limit]) or not text[:limit].isprintable()
