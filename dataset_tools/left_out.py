"""Count the rows of a file that are left out while it is read, by reason, as steps of the table of counts."""

from __future__ import annotations

from typing import Any

import polars as pl

from dataset_tools.sources import BadLines, Source, Table, keep_rows


class LeftOut:
    """Rows of a file, and those that are left out of it.

    Attributes
    ----------
    rows : int
        That could be read.
    added : int
        More rows that came of them, where a row held several items.
    reasons : dict
        Reason to number of rows, in the order in which they came up.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.added = 0
        self.reasons: dict[str, int] = {}

    def out(self, table: Table, mask: pl.Series, reason: str) -> Table:
        """The rows of a table where the mask is false; the others are counted."""
        self.count(int(mask.sum()), reason)
        return keep_rows(table, ~mask.to_numpy()) if mask.any() else table

    def count(self, rows: int, reason: str) -> None:
        """Count rows that are left out; a reason stands in the table from the first time it is given."""
        self.reasons[reason] = self.reasons.get(reason, 0) + rows

    def steps(self, source: Source, bad: BadLines) -> list[dict[str, Any]]:
        """Steps for the provenance file: how many rows there are after each, and how many went; none if none did."""
        name = source.path.name
        unreadable = bad.per_file.get(name, 0)
        left = self.rows + self.added + unreadable
        steps: list[dict[str, Any]] = [{"step": f"rows of {name}", "interactions": self.rows + unreadable}]
        if self.added:
            steps.append({"step": "items of these orders", "interactions": left})
        for reason, rows in [*self.reasons.items(), ("that cannot be read", unreadable)]:
            left -= rows
            if rows:
                steps.append({"step": f"rows {reason} left out", "interactions": left, "left_out": rows})
        return steps if len(steps) > 1 else []
