"""The house keeps its own rules: floors, commands, versions, and the script that CI runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

HOUSE = Path(__file__).parents[1]
FLOORS = "A room imports only from lower floors, and none beside it"
ONLY_HTTP = "Only _http imports httpx, and testing, which injects a client"
SANDBOX = "The sandbox imports nothing of ours"


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    """The settings of the project."""
    return tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The house again, to plant something in."""
    shutil.copy(HOUSE / "pyproject.toml", tmp_path)
    shutil.copytree(HOUSE / "decaptcha_async", tmp_path / "decaptcha_async")
    return tmp_path


def lint_imports(house: Path) -> dict[str, str]:
    """Run import-linter in ``house``: KEPT or BROKEN for each contract, by its name."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=house,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = dict(re.findall(r"(?m)^(.+) (KEPT|BROKEN)\s*$", done.stdout))
    assert done.returncode == ("BROKEN" in verdicts.values()), done.stdout + done.stderr
    return verdicts


def test_floors_are_kept(copy: Path) -> None:
    """House: as it stands, every contract of import-linter is kept."""
    assert lint_imports(copy) == dict.fromkeys([FLOORS, ONLY_HTTP, SANDBOX], "KEPT")


@pytest.mark.parametrize(
    ("room", "line", "contract"),
    [
        pytest.param("_money.py", "import decaptcha_async._client", FLOORS, id="upward"),
        pytest.param("_money.py", "import decaptcha_async", FLOORS, id="upward-by-the-front-door"),
        pytest.param("_schedule.py", "import decaptcha_async._settings", FLOORS, id="sideways"),
        pytest.param("_unplanned.py", "import json", FLOORS, id="a-room-without-a-floor"),
        pytest.param("_watch.py", "import httpx", ONLY_HTTP, id="httpx-elsewhere"),
        pytest.param(
            "sandbox.py", "import decaptcha_async._money", SANDBOX, id="oracle-leans-on-us"
        ),
    ],
)
def test_a_planted_import_is_found(copy: Path, room: str, line: str, contract: str) -> None:
    """House: an import that a contract forbids breaks it, and the contract is named."""
    with (copy / "decaptcha_async" / room).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    assert lint_imports(copy)[contract] == "BROKEN"


def test_readme_opens_with_its_two_commands() -> None:
    """House: the README's first two blocks of sh are its two commands, word for word."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)\n```$", (HOUSE / "README.md").read_text("utf-8"))
    make, pip = "python3 -m venv .venv", ".venv/bin/pip install"
    assert blocks[:2] == [
        f"{make} && {pip} '.[cli]' && .venv/bin/decaptcha-async watch --sandbox",
        f"{make} && {pip} nox && .venv/bin/nox",
    ]


def test_one_version(pyproject: dict[str, Any]) -> None:
    """House: pyproject, the installed package and the top of the changelog say one version."""
    top = re.search(r"(?m)^## \[([^\]]+)\]", (HOUSE / "CHANGELOG.md").read_text("utf-8"))
    assert top is not None
    assert pyproject["project"]["version"] == version("decaptcha-async") == top[1]


def test_one_list_of_pythons(pyproject: dict[str, Any]) -> None:
    """House: classifiers, `requires-python`, the tools and .ci/run name the same Pythons."""
    named = [line.rpartition(" :: ")[2] for line in pyproject["project"]["classifiers"]]
    pythons = [name for name in named if name.startswith("3.")]
    tool = pyproject["tool"]
    assert pyproject["project"]["requires-python"] == f">={pythons[0]}"
    assert tool["mypy"]["python_version"] == tool["pyright"]["pythonVersion"] == pythons[0]
    assert tool["ruff"]["target-version"] == f"py{pythons[0].replace('.', '')}"
    script = (HOUSE / ".ci" / "run").read_text("utf-8")
    assert f"for python in {' '.join(pythons)}; do" in script
    assert re.findall(r"(3\.\d+)\.\d+[:\n]", script) == pythons


def test_lower_bounds_can_be_installed(pyproject: dict[str, Any]) -> None:
    """House: each requirement is one lower bound, which the session `lowest` turns into a pin."""
    project = pyproject["project"]
    for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
        assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", line), line


def test_what_bare_leaves_out_exists() -> None:
    """House: the session `bare` leaves out no test file that is not there (a renamed one, say)."""
    tree = ast.parse((HOUSE / "noxfile.py").read_text("utf-8"))
    [left_out] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NEED_EXTRAS"
    ]
    assert [name for name in left_out if not (HOUSE / "tests" / name).is_file()] == []


def ci_run(house: Path, readme: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/run in a house that consists of it and this README."""
    (house / ".ci").mkdir()
    shutil.copy(HOUSE / ".ci" / "run", house / ".ci")
    (house / "README.md").write_text(readme, "utf-8")
    return subprocess.run(
        [house / ".ci" / "run"],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def readme_with(second: str) -> str:
    """A README whose second command is this one, between two that must not be run."""
    return f"# Title\n\n```sh\nexit 9\n```\n\n```sh\n{second}\n```\n\n```sh\nexit 8\n```\n"


GREEN = """\
nox > Running session tests-3.11
===== 3 passed in 0.10s =====
nox > Session tests-3.11 was successful.
\x1b[36mnox > Running session tests-3.13\x1b[0m
\x1b[32m===== \x1b[1m4 passed\x1b[0m\x1b[32m in 0.20s =====\x1b[0m
nox > Running session bare
===== 2 passed in 0.30s =====
nox > Ran multiple sessions:
nox > * tests-3.11: success, took 3 seconds
nox > * tests-3.12: success
\x1b[36mnox > * tests-3.13: success\x1b[0m
nox > * bare: success
"""


def saying(text: str) -> str:
    """A README whose second command prints ``text``."""
    return readme_with(f"printf '%b' '{text.encode('unicode_escape').decode()}'")


def test_ci_repeats_the_summary(tmp_path: Path) -> None:
    """House: .ci/run runs README's second command and ends with pytest's last full summary."""
    done = ci_run(tmp_path, saying(GREEN))
    assert done.returncode == 0, done.stderr
    assert "nox > * bare: success" in done.stdout
    assert done.stdout.splitlines()[-1] == "===== 4 passed in 0.20s ====="


@pytest.mark.parametrize(
    ("readme", "complaint"),
    [
        pytest.param(readme_with("exit 3"), "the command ended with 3", id="command-fails"),
        pytest.param(
            saying(GREEN.replace("3.12: success", "3.12: skipped")),
            "tests-3.12 did not run",
            id="a-python-is-missing",
        ),
        pytest.param(
            saying(re.sub("[34] passed", "no tests ran", GREEN)),
            "pytest printed no summary",
            id="nothing-tested",
        ),
        pytest.param("# Title\n\n```sh\nexit 9\n```\n", "no second block", id="no-command"),
        pytest.param(readme_with("echo one\necho two"), "no second block", id="two-lines"),
    ],
)
def test_ci_fails(tmp_path: Path, readme: str, complaint: str) -> None:
    """House: .ci/run fails, and says why, unless all was run and all was good."""
    done = ci_run(tmp_path, readme)
    assert done.returncode == 1
    assert complaint in done.stderr
