"""Every check of the house: `nox` runs them all, `nox -s NAME` one of them, `nox -l` lists them."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile
from itertools import chain
from pathlib import Path

import nox
from nox.command import CommandFailed
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "typing", "tests", "bare", "lowest", "docs", "build"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
VERSION: str = PYPROJECT["project"]["version"]
CORE: list[str] = PYPROJECT["project"]["dependencies"]
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]

# Tests of rooms that need an extra, and of the house, whose import-linter brings click and rich.
NEED_EXTRAS = [
    "test_cli.py",
    "test_dashboard.py",
    "test_house.py",
    "test_httpx_aiohttp.py",
    "test_integrations_aiohttp.py",
    "test_integrations_apprise.py",
    "test_integrations_fastapi.py",
    "test_main.py",
    "test_sandbox.py",
    "test_screen.py",
    "test_serve.py",
]

# Tests of what only the group `test` brings, which may need newer releases than the oldest.
NOT_OLDEST = ["test_house.py", "test_httpx_aiohttp.py"]

# Tests of connections under load, which no extra changes.
LONG = ["test_bombs.py", "test_cancellation.py", "test_reuse.py"]

# The longest of them: a minute, or two while coverage is measured. What differs from one Python or
# one release to another the rest of its file finds as well, so it runs on the oldest Python only.
LOAD = "tests/test_cancellation.py::test_a_client_outlives_two_thousand_cancellations"

# What is tested is the installed wheel, never the folder beside the tests.
INSTALLED = {"PYTHONSAFEPATH": "1"}


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, and the floors of the house."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def typing(session: nox.Session) -> None:
    """Types for the oldest and the newest Python, and for every public name."""
    session.install(wheel(session, *EXTRAS), *group("typing"))
    places = ["decaptcha_async", "tests", "noxfile.py", "docs/examples"]
    for python in (PYTHONS[0], PYTHONS[-1]):
        session.run("mypy", "--python-version", python, *(p for p in places if Path(p).exists()))
    session.run("pyright")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "decaptcha_async")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite against the built wheel (after `--`: arguments of pytest)."""
    session.install(wheel(session, *EXTRAS), *group("test"))
    without = [] if session.python == PYTHONS[0] or session.posargs else [f"--deselect={LOAD}"]
    # Tracing costs half as much again, and CPython 3.11 loses lines after some event loops.
    if session.python == PYTHONS[-1] and not session.posargs:
        session.notify("coverage")
        session.run("coverage", "run", "-m", "pytest", *without, env=INSTALLED)
    else:
        session.run("pytest", *without, *session.posargs, env=INSTALLED)


@nox.session
def coverage(session: nox.Session) -> None:
    """What the newest Python's tests covered: everything, or fail."""
    session.install(*(line for line in group("test") if line.startswith("coverage")))
    session.run("coverage", "report")


@nox.session(python=PYTHONS[0])
def bare(session: nox.Session) -> None:
    """The core without any extra."""
    session.install(wheel(session), *group("test-core"))
    present = json.loads(str(session.run("pip", "list", "--format=json", silent=True)))
    extras = {canonicalize_name(Requirement(line).name) for line in chain(*EXTRAS.values())}
    if intruders := extras & {canonicalize_name(package["name"]) for package in present}:
        session.error(f"not bare: {', '.join(sorted(intruders))}")
    session.run("decaptcha-async", success_codes=[2])
    without = [f"--ignore=tests/{name}" for name in (*NEED_EXTRAS, *LONG)]
    session.run("pytest", *without, *session.posargs, env=INSTALLED)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The oldest releases that pyproject.toml says will do."""
    pins = [line.replace(">=", "==") for line in chain(CORE, *EXTRAS.values())]
    session.install(wheel(session, *EXTRAS), *pins, *group("test-core"), *group("test-extras"))
    without = [f"--ignore=tests/{name}" for name in NOT_OLDEST]
    without.append(f"--deselect={LOAD}")
    session.run("pytest", *without, *session.posargs, env=INSTALLED)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation without a warning, and every snippet in it run."""
    session.install(wheel(session, *EXTRAS), *group("docs"))
    session.run("sphinx-build", "-q", "-W", "--keep-going", "docs", "docs/_build/html")
    session.run("pytest", "docs", *session.posargs, env=INSTALLED)


@nox.session
def rules(session: nox.Session) -> None:
    """Each rule of middleware and watch removed from the code: a test that names it fails.

    (After `--`: names of rules.)
    """
    session.install(wheel(session, *EXTRAS), *group("test"))
    session.run("python", "tests/mutations.py", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """The dashboard in headless Chromium: drain, top-up, restart, accessibility."""
    session.install(wheel(session, *EXTRAS), *group("test-core"), *group("browser"))
    session.run("pytest", "tests/browser.py", *session.posargs, env=chromium(session))


@nox.session
def screenshots(session: nox.Session) -> None:
    """The pictures of the dashboard and of the live view, taken anew; look at them."""
    session.install(wheel(session, *EXTRAS), *group("browser"))
    session.run("python", "docs/pictures/terminal.py", env=INSTALLED)
    session.run("python", "docs/pictures/dashboard.py", env=chromium(session))


@nox.session
def connections(session: nox.Session) -> None:
    """What faults on the wire do to this client, and to httpx, httpx2 and aiohttp: one table."""
    session.install(wheel(session), "httpx2>=2.16", "aiohttp>=3.12")
    session.run("python", "docs/benchmarks/connections.py", env=INSTALLED)


@nox.session
def simulation(session: nox.Session) -> None:
    """The pictures and figures of docs/why-these-defaults.md, made anew."""
    session.install(wheel(session), *group("simulation"))
    session.run("python", "docs/simulation/simulate.py", env=INSTALLED)


@nox.session
def watchers(session: nox.Session) -> None:
    """Ten thousand watches on one loop, beside bare sleeping loops: lateness and memory."""
    session.install(wheel(session))
    session.run("python", "docs/benchmarks/watchers.py", env=INSTALLED)


@nox.session
def build(session: nox.Session) -> None:
    """The archives: complete, well described, and at work in an empty environment."""
    session.install(*group("build"))
    folder = Path(session.create_tmp())
    session.run("python", "-m", "build", "--outdir", str(folder), silent=True)
    [source] = folder.glob("*.tar.gz")
    [built] = folder.glob("*.whl")
    session.run("twine", "check", "--strict", str(source), str(built))

    kinds = {".css", ".html", ".js", ".py", ".svg", ".typed"}
    files = Path("decaptcha_async").rglob("*")
    package = {path.as_posix() for path in files if path.suffix in kinds}
    with zipfile.ZipFile(built) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    if shipped != package:
        session.error(f"the wheel differs from the package in {sorted(shipped ^ package)}")
    with tarfile.open(source) as archive:
        kept = {name.partition("/")[2] for name in archive.getnames()}
    if missing := (package | {"LICENSE", "noxfile.py", "tests/test_house.py"}) - kept:
        session.error(f"the source archive lacks {sorted(missing)}")

    session.run("python", "-m", "venv", str(folder / "empty"))
    python = str(folder / "empty" / "bin" / "python")
    session.run(python, "-m", "pip", "install", "--quiet", f"{built}[cli]", external=True)
    said = session.run(python, "-m", "decaptcha_async", "--version", external=True, silent=True)
    if VERSION not in str(said):
        session.error(f"the installed command says {said!r}, not {VERSION}")


def chromium(session: nox.Session) -> dict[str, str]:
    """The environment that names a Chromium: $CHROMIUM, the system's, or one from playwright."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        try:
            session.run("playwright", "install", "--with-deps", "--only-shell", "chromium")
        except CommandFailed:
            session.error("no Chromium: install your system's, or say where one is in CHROMIUM")
    return INSTALLED | {"CHROMIUM": path or ""}


def group(name: str) -> tuple[str, ...]:
    """The requirements of a dependency group."""
    return nox.project.dependency_groups(PYPROJECT, name)


_built: list[Path] = []


def wheel(session: nox.Session, *extras: str) -> str:
    """The requirement of the built wheel with these extras; it is built once a run."""
    if not _built:
        folder = session.cache_dir / "wheel"
        shutil.rmtree(folder, ignore_errors=True)
        session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), ".")
        _built.extend(folder.glob("*.whl"))
    return f"{_built[0]}[{','.join(extras)}]" if extras else str(_built[0])
