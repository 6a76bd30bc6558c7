"""The balance as a web page: to leave open on a wall, or to mount in an application of yours.

The page never sees the key. It is a view of a :class:`~decaptcha_async.BalanceMonitor` that you
have entered: the amount, how long it lasts, a chart of the readings, and the alerts.
"""

from __future__ import annotations

try:
    from decaptcha_async.dashboard._app import create_app
except ImportError as _error:
    _message = "the dashboard needs starlette and more: pip install 'decaptcha-async[dashboard]'"
    raise ImportError(_message, name=_error.name) from _error

__all__ = ["create_app"]
