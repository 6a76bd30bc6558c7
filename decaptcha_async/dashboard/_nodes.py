"""What is on the page, as values: the server writes them as HTML, the script builds them.

Text is only ever text in both, so no message of an error or a service becomes markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import attrs

Json = str | list["Json"] | dict[str, str]


@attrs.frozen
class Node:
    """An element: its tag, its attributes, and what is in it."""

    tag: str
    attributes: Mapping[str, str]
    children: tuple[Node | str, ...]

    def to_html(self) -> str:
        """The element as HTML."""
        attributes = "".join(f' {name}="{escape(v)}"' for name, v in self.attributes.items())
        return f"<{self.tag}{attributes}>{to_html(self.children)}</{self.tag}>"

    def to_json(self) -> Json:
        """The element as ``[tag, attributes, children]``."""
        return [self.tag, dict(self.attributes), to_json(self.children)]


Nodes = Sequence[Node | str]
"""What is inside an element."""


def node(tag: str, attributes: Mapping[str, str] | None = None, *children: Node | str) -> Node:
    """An element."""
    return Node(tag, attributes or {}, children)


def to_html(nodes: Iterable[Node | str]) -> str:
    """Elements and texts as HTML."""
    return "".join(escape(each) if isinstance(each, str) else each.to_html() for each in nodes)


def to_json(nodes: Iterable[Node | str]) -> Json:
    """Elements and texts as JSON-ready values."""
    return [each if isinstance(each, str) else each.to_json() for each in nodes]
