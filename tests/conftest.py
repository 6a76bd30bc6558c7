"""Both backends for every asynchronous test, in virtual time where marked so; and the canary."""

from __future__ import annotations

from typing import Any

import pytest
from canary import CANARY, Plugin, Witness

from decaptcha_async.testing import virtual_backend


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
