"""Settings of Sphinx: `sphinx-build -W docs docs/_build/html`. Nothing here needs the network."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

import decaptcha_async

project = "decaptcha-async"
author = "decaptcha-async contributors"
project_copyright = author
release = decaptcha_async.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True
# Names of ours must resolve; those of others have no inventory here, which would be a download.
nitpick_ignore_regex = [
    ("py:.*", r"(?!decaptcha_async)\w+\..*"),
    ("py:exc", r"(Import|OS|Runtime|Type|Value)Error"),
]

html_theme = "furo"
html_title = f"decaptcha-async {release}"
html_copy_source = False
html_show_sourcelink = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("Handler", "Middleware")}
napoleon_attr_annotations = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 80

_AS_WRITTEN = [
    (r"\w+\('(\w+)'\)", r"\1"),  # Sphinx's stand-in for an alias inside another type
    (r"(\*\*kwargs): [^,)]*", r"\1"),  # told in words
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),  # a class as a default
    (r"NOTHING", "..."),  # attrs' mark of a default that is made anew for each object
    (r", stamp: [^,)]*", ""),  # an argument for our own use
]


def as_written(*event: Any) -> tuple[str | None, str | None]:
    """Signatures as their author would write them; none for a class that nobody makes."""
    _, what, _, obj, _, signature, returns = event
    not_made = getattr(obj, "_is_protocol", False) or obj is decaptcha_async.Subscription
    if not_made and what == "class":
        return "", None
    for pattern, replacement in _AS_WRITTEN:
        signature = signature and re.sub(pattern, replacement, signature)
        returns = returns and re.sub(pattern, replacement, returns)
    return signature, returns


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", as_written)
