"""What `decaptcha_async` exports: complete, sorted, documented, and free of every extra."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

import decaptcha_async
from decaptcha_async import errors, middleware

NAMES = decaptcha_async.__all__
SINCE = ".. versionadded:: "


def documented() -> Iterator[tuple[str, str | None]]:
    """Every public object and public member of a public class, with its docstring."""
    aliases = docstrings_of_aliases()
    for name in NAMES:
        value = getattr(decaptcha_async, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            yield name, value.__doc__
        else:
            yield name, aliases.get(name)
        if inspect.isclass(value):
            for member, attribute in vars(value).items():
                what = attribute.fget if isinstance(attribute, property) else attribute
                what = getattr(what, "__func__", what)
                if inspect.isroutine(what) and not member.startswith("_"):
                    yield f"{name}.{member}", what.__doc__


def docstrings_of_aliases() -> dict[str, str]:
    """The strings below assignments, by the name assigned; Python itself does not keep them."""
    return {
        ast.unparse(
            node.targets[0] if isinstance(node, ast.Assign) else node.target
        ): below.value.value
        for path in Path(str(decaptcha_async.__file__)).parent.rglob("*.py")
        for node, below in pairwise(ast.parse(path.read_text("utf-8")).body)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(below.value.value, str)
    }


def test_all_is_sorted_and_without_doubles() -> None:
    """House: `__all__` is sorted and names nothing twice."""
    assert sorted(set(NAMES)) == NAMES


def test_all_is_complete_and_exact() -> None:
    """House: `__all__` names every public name of the package that is no module, and no other."""
    public = {
        name
        for name, value in vars(decaptcha_async).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    public.discard("annotations")  # of `from __future__`
    assert {name for name in NAMES if not name.startswith("_")} == public
    assert [name for name in NAMES if not hasattr(decaptcha_async, name)] == []


@pytest.mark.parametrize("module", [errors, middleware], ids=lambda module: module.__name__)
def test_errors_and_middleware_are_at_the_root(module: ModuleType) -> None:
    """API: every public class and function of `errors` and `middleware` is at the root too."""
    ours = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith(module.__name__)
    }
    assert ours
    assert {name: getattr(decaptcha_async, name, None) for name in ours} == ours


def test_every_public_object_says_since_when() -> None:
    """House: public classes, functions, methods and aliases say in their docstring since when."""
    assert [name for name, text in documented() if text is None or SINCE not in text] == []


@pytest.mark.parametrize("name", ["LAZY", "Missing"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    """House: a name that is not there is an AttributeError, whatever is loaded lazily."""
    with pytest.raises(AttributeError, match=name):
        getattr(decaptcha_async, name)


def test_import_needs_no_extra() -> None:
    """I1: the package and all its names load with every extra's library made unimportable."""
    program = """
import sys
for library in ("click", "fastapi", "httpx2", "redis", "rich", "starlette", "trio", "uvicorn"):
    sys.modules[library] = None
import decaptcha_async
for name in decaptcha_async.__all__:
    getattr(decaptcha_async, name)
print([name for name in ("_cli", "sandbox", "testing") if "decaptcha_async." + name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_library_says_nothing_by_itself() -> None:
    """R11: in a program that sets up no logging, a warning of ours goes nowhere."""
    program = """
import logging
import decaptcha_async
logging.getLogger("decaptcha_async._watch").warning("the balance cannot be asked for")
logging.getLogger("theirs").warning("heard")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("", "heard\n")
