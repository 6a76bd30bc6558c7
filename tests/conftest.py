"""Both backends for every asynchronous test, in virtual time where a test is marked so."""

from __future__ import annotations

from typing import Any

import pytest

from decaptcha_async.testing import virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """What a test marked ``anyio`` runs on: asyncio, then trio."""
    if request.node.get_closest_marker("virtual_time"):
        return virtual_backend(request.param)
    return request.param, {}
