"""The documentation and the typed rows leave no public name out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import decaptcha_async
from decaptcha_async import sandbox, testing

PROJECT = Path(__file__).parent.parent
NAMES = sorted({*decaptcha_async.__all__, *sandbox.__all__, *testing.__all__})


@pytest.mark.parametrize("page", ["docs/reference.md", "tests/typing/api.py"])
def test_every_public_name_has_its_place(page: str) -> None:
    """House: each public name has an entry in the reference, and a row for the type checkers."""
    words = set(re.findall(r"\w+", (PROJECT / page).read_text("utf-8")))
    assert [name for name in NAMES if name not in words] == []


def test_the_drawing_of_the_house_names_every_room() -> None:
    """House: the drawing in the documentation has a row for each module of the package."""
    drawing = (PROJECT / "docs/house.md").read_text("utf-8")
    package = Path(str(decaptcha_async.__file__)).parent
    rooms = {path.name + "/" * path.is_dir() for path in package.iterdir() if path.name[:2] != "__"}
    rooms = {room for room in rooms if room.endswith((".py", "/"))}
    assert [room for room in sorted(rooms) if f"| `{room}` |" not in drawing] == []
