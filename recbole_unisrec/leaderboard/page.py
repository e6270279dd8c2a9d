"""A report as one HTML page that needs nothing else: its figures link to the JSON files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from recbole_unisrec.leaderboard.blocks import Block, Plot

TEMPLATE = "report.html.j2"


def page(blocks: Sequence[Block], figures: Sequence[Plot]) -> str:
    """The report as HTML; whatever stands in names, settings and texts is escaped."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["link"] = quote
    template = resources.files("recbole_unisrec.leaderboard").joinpath(TEMPLATE).read_text(encoding="utf-8")
    drawn = {plot.name: {"shows": plot.shows, "svg": Markup(plot.svg)} for plot in figures}
    return environment.from_string(template).render(blocks=blocks, plots=drawn, prose=prose) + "\n"


def prose(block: Block) -> list[bool]:
    """Of each column of a table, whether it holds prose, which may be broken into lines."""
    return [i > 0 and bool(block.rows) and all(row[i].name for row in block.rows) for i in range(len(block.header))]
