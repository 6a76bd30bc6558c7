"""Every Python block of the documentation, the README and the docstrings is run by pytest.

A block may await at top level. What it prints must be the block of `output` below it. The sandbox
answers on 127.0.0.1, where `DECAPTCHA_BASE_URL` and `DECAPTCHA_API_KEY` lead.
"""

from __future__ import annotations

import asyncio
import inspect
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from sybil import Example, Sybil
from sybil.evaluators.python import pad
from sybil.integration.pytest import SybilFile
from sybil.parsers import markdown, rest

from decaptcha_async.sandbox import Sandbox

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PACKAGE = HERE.parent / "decaptcha_async"


def run(example: Example) -> None:
    """Run a block in its document's event loop, and keep what it prints."""
    source = pad(example.parsed, example.line + example.parsed.line_offset)
    code = compile(source, example.path, "exec", PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    with redirect_stdout(StringIO()) as printed:
        awaitable = eval(code, example.namespace)  # noqa: S307 - our own documentation
        if code.co_flags & inspect.CO_COROUTINE:
            example.namespace["runner"].run(awaitable)
    example.namespace["printed"] = printed.getvalue()


def compare(example: Example) -> None:
    """What the block above printed is what the page says."""
    assert example.namespace.pop("printed") == example.parsed  # noqa: S101


FIXTURES = ["sandbox", "runner"]
PAGES = Sybil(
    [markdown.CodeBlockParser("python", run), markdown.CodeBlockParser("output", compare)],
    fixtures=FIXTURES,
)
DOCSTRINGS = Sybil([rest.CodeBlockParser("python", run)], fixtures=FIXTURES)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[None]:
    """The API on 127.0.0.1 in a thread of its own, and the environment that leads to it."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Sandbox().serve()) as base_url,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DECAPTCHA_BASE_URL", base_url)
        patch.setenv("DECAPTCHA_API_KEY", "sandbox")
        yield


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all blocks of a document."""
    with asyncio.Runner() as runner:
        yield runner


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The pages of this folder; and, in the name of this file, what lies outside of it."""
    if file_path.suffix == ".md":
        return SybilFile.from_parent(parent, path=file_path, sybils=[PAGES])
    if file_path == Path(__file__):
        return Elsewhere.from_parent(parent, name="elsewhere")
    return None


class Elsewhere(pytest.Collector):
    """README.md and the package's docstrings."""

    def collect(self) -> Iterator[pytest.Collector]:
        """Each file with its blocks."""
        yield SybilFile.from_parent(self, path=README, sybils=[PAGES])
        for path in sorted(PACKAGE.rglob("*.py")):
            yield SybilFile.from_parent(self, path=path, sybils=[DOCSTRINGS])
