"""The commands ``unisrec start`` and ``unisrec update``."""

from __future__ import annotations

from collections.abc import Callable

from recbole_unisrec.shop.start import start_command
from recbole_unisrec.shop.update import update_command

COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "start": (start_command, "your shop's exports to a model, a report and a page, in one go"),
    "update": (update_command, "add new orders and products; the better of the old and the new model stays"),
}
