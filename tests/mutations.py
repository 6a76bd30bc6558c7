"""Remove each rule from the code, one at a time, and see that a test which names the rule fails.

The ways to remove them are in `mutations.toml`. Run this by `nox -s rules`, or as
`python tests/mutations.py [RULE ...]`. The working tree is copied for each mutant and left alone.
It fails if a mutant survives, or a rule has no mutant or no test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Final

import attrs

HOUSE: Final = Path(__file__).parent.parent
PACKAGE: Final = "decaptcha_async"
COPIED: Final = (PACKAGE, "tests", "docs")

RULES: Final = [f"R{number}" for number in range(1, 14)] + [f"W{number}" for number in range(1, 12)]

AT_ONCE: Final = 2
PATIENCE: Final = 30.0
"""Seconds, besides twice what the code took as it is: a mutant that waits for ever fails, too."""
PATIENCE_WITHOUT: Final = 300.0
"""Seconds for the tests of one rule when nothing was removed."""


@attrs.frozen(kw_only=True)
class Mutation:
    """A rule, taken out of the code.

    Attributes:
        rule: its name.
        removed: what the code no longer does, for a reader of the table.
        file: in the package.
        old: text that occurs there once.
        new: text in its place.
    """

    rule: str
    removed: str
    file: str
    old: str
    new: str


def mutations() -> list[Mutation]:
    """The table of them."""
    table = tomllib.loads((HOUSE / "tests" / "mutations.toml").read_text("utf-8"))
    return [Mutation(rule=rule, **fields) for rule, rows in table.items() for fields in rows]


@attrs.frozen
class Run:
    """What the tests of one rule did.

    Attributes:
        passed: the names of those that passed.
        failed: the name of the first that did not, or what else went wrong; empty if all passed.
        broken: whether they could not be run at all.
    """

    passed: list[str]
    failed: str
    broken: bool = False


class UnusableMutationError(Exception):
    """A mutation does not fit the code, or the mutant cannot even be imported."""


def main(wanted: list[str]) -> int:
    """Mutate, print the table, and return the exit code."""
    unknown = set(wanted) - set(RULES)
    if unknown:
        say(f"no such rule: {', '.join(sorted(unknown))}")
        return 2
    good = True
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for rows in pool.map(rows_of, wanted or RULES):
            for verdict, line in rows:
                good &= verdict
                say(line)
    say("every rule is proven" if good else "NOT every rule is proven")
    return not good


def rows_of(rule: str) -> list[tuple[bool, str]]:
    """The rows of the table for one rule: whether each is good, and its text."""
    known = [mutation for mutation in mutations() if mutation.rule == rule]
    with house() as folder:
        began = time.monotonic()
        control = tests_of(rule, folder, files_about(rule), patience=PATIENCE_WITHOUT)
        patience = PATIENCE + 2 * (time.monotonic() - began)
    if control.failed or not control.passed:
        problem = control.failed or "no test names it"
        return [(False, row(rule, "nothing", f"{problem}  <-- NOT PROVEN"))]
    if not known:
        return [(False, row(rule, "nothing", "no mutation is known  <-- NOT PROVEN"))]
    files = [file for file, _ in groupby(name.partition("::")[0] for name in control.passed)]
    rows = [(True, row(rule, "nothing", f"{len(control.passed)} tests pass"))]
    for mutation in known:
        try:
            with house(mutation) as folder:
                run = tests_of(rule, folder, files, patience=patience)
        except UnusableMutationError as problem:
            rows.append((False, row(rule, mutation.removed, f"{problem}  <-- UNUSABLE")))
            continue
        proven = bool(run.failed) and not run.broken
        text = (run.failed or "all pass") + ("" if proven else "  <-- SURVIVED")
        rows.append((proven, row(rule, mutation.removed, text)))
    return rows


def files_about(rule: str) -> list[str]:
    """The test files that may have a test of it: collecting all of them takes long."""
    files = sorted((HOUSE / "tests").glob("test_*.py"))
    return [f"tests/{file.name}" for file in files if rule in file.read_text("utf-8")]


def row(rule: str, removed: str, found: str) -> str:
    """A row of the table."""
    return f"{rule:<4} {removed:<55} {found}"


@contextmanager
def house(mutation: Mutation | None = None) -> Generator[Path, None, None]:
    """A copy of the house, with a rule removed, or as it is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in COPIED:
            shutil.copytree(HOUSE / part, folder / part, ignore=shutil.ignore_patterns("_build"))
        shutil.copy(HOUSE / "pyproject.toml", folder)
        if mutation is not None:
            file = folder / PACKAGE / mutation.file
            code = file.read_text("utf-8")
            if (times := code.count(mutation.old)) != 1:
                message = f"{mutation.old!r} is {times} times in {mutation.file}"
                raise UnusableMutationError(message)
            file.write_text(code.replace(mutation.old, mutation.new), "utf-8")
        check_import(folder, mutation)
        yield folder


def check_import(folder: Path, mutation: Mutation | None) -> None:
    """See that it is the copy which is imported, and that it can be."""
    file = mutation.file if mutation is not None else "__init__.py"
    module = f"{PACKAGE}.{file.removesuffix('.py').replace('/', '.')}"
    program = f"import importlib; print(importlib.import_module({module!r}).__file__)"
    try:
        said = python(["-c", program], folder, patience=PATIENCE)
    except subprocess.TimeoutExpired as late:
        message = "its import hangs"
        raise UnusableMutationError(message) from late
    if (
        said.returncode
        or Path(said.stdout.strip()).resolve() != (folder / PACKAGE / file).resolve()
    ):
        message = f"what is imported is not the mutant: {(said.stdout + said.stderr).strip()}"
        raise UnusableMutationError(message)


def tests_of(rule: str, folder: Path, files: Iterable[str], *, patience: float) -> Run:
    """Run the tests that name a rule, up to the first that fails."""
    options = ["-x", "-q", "-rfEp", "--tb=no", "-p", "no:cacheprovider", "--rule", rule]
    try:
        done = python(["-m", "pytest", *options, *files], folder, patience=patience)
    except subprocess.TimeoutExpired:
        return Run([], f"no end within {patience:g} s")
    lines = [line.split(" - ")[0].split(maxsplit=1) for line in done.stdout.splitlines()]
    passed = [line[1] for line in lines if line[:1] == ["PASSED"]]
    # A test that could not be collected has no "::", and proves nothing.
    failed = [line[1] for line in lines if line[0:1] in (["FAILED"], ["ERROR"]) and "::" in line[1]]
    if done.returncode == 1 and failed:
        return Run(passed, failed[0])
    if done.returncode in {0, 5}:  # all passed; none was selected
        return Run(passed, "")
    last = (done.stdout + done.stderr).strip().rpartition("\n")[2]
    return Run(passed, f"pytest ended with {done.returncode}: {last}", broken=True)


def python(
    arguments: list[str], folder: Path, *, patience: float
) -> subprocess.CompletedProcess[str]:
    """Run this Python in a copy of the house."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
