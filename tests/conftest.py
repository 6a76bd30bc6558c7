"""Both backends for every asynchronous test, in virtual time where marked so; and the canary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from canary import CANARY, Plugin, Witness

from decaptcha_async.testing import virtual_backend


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer to run the tests of one rule."""
    help_ = "only tests whose docstring names this rule before its first colon, as R7 or W11"
    parser.addoption("--rule", metavar="NAME", help=help_)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep to the tests of one rule, if asked to."""
    rule = config.getoption("rule")
    if rule is not None:
        config.hook.pytest_deselected(items=[item for item in items if rule not in _rules(item)])
        items[:] = [item for item in items if rule in _rules(item)]


def _rules(item: pytest.Item) -> Sequence[str]:
    documented = item.obj.__doc__ if isinstance(item, pytest.Function) else None
    return (documented or "").partition(":")[0].split(", ")


def pytest_configure(config: pytest.Config) -> None:
    """Have the canary's witness look on."""
    # The witness hears DEBUG; `caplog` hears what it would hear without it.
    config.option.log_level = config.option.log_level or "WARNING"
    config.pluginmanager.register(Plugin(Witness(CANARY)), "canary")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """What a test marked ``anyio`` runs on: asyncio, then trio."""
    if request.node.get_closest_marker("virtual_time"):
        return virtual_backend(request.param)
    return request.param, {}
