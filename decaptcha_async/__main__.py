"""The command ``decaptcha-async``, which is ``python -m decaptcha_async``."""

from __future__ import annotations

import sys

_WITHOUT_EXTRA = (
    "decaptcha-async: the command line needs more: pip install 'decaptcha-async[cli]'\n"
)


def main() -> int:
    """Run the command with the process's arguments; the exit code, 2 without the extra ``cli``."""
    try:
        from decaptcha_async._cli import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.stderr.write(_WITHOUT_EXTRA)
        return 2
    except KeyboardInterrupt:  # while the imports still run
        return 130
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
