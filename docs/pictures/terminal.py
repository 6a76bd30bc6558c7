"""Draws the live view of the command line as docs/pictures/terminal.svg: `nox -s screenshots`."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from rich.console import Console

from decaptcha_async import BalanceReading, LowBalance
from decaptcha_async._screen import LiveView

PICTURE = Path(__file__).with_suffix(".svg")
BELOW = Decimal(200)
MINUTES = 60


def main() -> None:
    """An hour of an account that runs low."""
    view = LiveView("https://decaptcha.net", BELOW)
    rule = LowBalance(BELOW)
    amount, start = Decimal("260.40"), datetime.now(UTC) - timedelta(minutes=MINUTES)
    for minute in range(MINUTES + 1):
        amount -= Decimal(minute * 7 % 13 + 2) / 6
        exact = amount.quantize(Decimal("0.01"))
        at = start + timedelta(minutes=minute)
        reading = BalanceReading(amount=exact, raw=str(exact), taken_at=at, latency=0.2)
        view.show(reading)
        if alert := rule.feed(reading):
            view.tell(alert)
    paper = Console(record=True, width=76, file=io.StringIO(), force_terminal=True)
    paper.print(view.draw())
    svg = paper.export_svg(title="decaptcha-async watch --below 200", unique_id="watch")
    # Fonts of somebody else's server: a picture asks for nothing.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
