"""The door of the command line, with and without what the extra brings."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest

import decaptcha_async
from decaptcha_async.__main__ import main


@pytest.fixture(autouse=True)
def arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was started with ``--version``."""
    monkeypatch.setattr(sys, "argv", ["decaptcha-async", "--version"])


def test_runs_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The arguments of the process are run."""
    assert main() == 0
    assert capsys.readouterr().out == f"decaptcha-async {decaptcha_async.__version__}\n"


def test_run_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as ``python -m decaptcha_async``, it exits with the command's code."""
    monkeypatch.delitem(sys.modules, "decaptcha_async.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("decaptcha_async", run_name="__main__")
    assert ended.value.code == 0


def test_process() -> None:
    """As a process of its own it says the same and exits with the same code."""
    command = [sys.executable, "-m", "decaptcha_async", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"decaptcha-async {decaptcha_async.__version__}\n"
    assert done.stderr == ""


class Uninstalled:
    """A finder that knows that a library is not there."""

    def __init__(self, library: str) -> None:
        self.library = library

    def find_spec(self, name: str, *_: object) -> None:
        """Refuse the library, and leave other names to other finders."""
        if name == self.library:
            message = f"No module named {name!r}"
            raise ModuleNotFoundError(message, name=name)


@pytest.mark.parametrize("library", ["click", "rich"])
def test_without_the_extra(
    library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """I1: without click or rich, one line says how to get them, and the code is 2."""
    for name in list(sys.modules):
        if name == "decaptcha_async._cli" or name.partition(".")[0] == library:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Uninstalled(library), *sys.meta_path])
    assert main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "pip install 'decaptcha-async[cli]'" in printed.err


def test_other_import_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that fails for another reason is a defect, and says so."""
    monkeypatch.delitem(sys.modules, "decaptcha_async._cli", raising=False)
    monkeypatch.setitem(sys.modules, "decaptcha_async.sandbox", None)
    with pytest.raises(ModuleNotFoundError, match=r"decaptcha_async\.sandbox"):
        main()


class Interrupted:
    """A finder during whose work someone presses Ctrl-C."""

    def find_spec(self, name: str, *_: object) -> None:
        """Be interrupted."""
        if name == "decaptcha_async._cli":
            raise KeyboardInterrupt


def test_interrupted_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the imports still run ends quietly with 130, too."""
    monkeypatch.delitem(sys.modules, "decaptcha_async._cli", raising=False)
    monkeypatch.delattr(decaptcha_async, "_cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert main() == 130
