"""HTTP: the only package that knows httpx."""

from __future__ import annotations

from decaptcha_async._http.connections import OwnClient, open_client, read_proxy
from decaptcha_async._http.endpoint import Endpoint, HTTPClient

__all__ = ["Endpoint", "HTTPClient", "OwnClient", "open_client", "read_proxy"]
