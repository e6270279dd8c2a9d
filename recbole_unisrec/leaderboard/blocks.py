"""The pieces that a report is made of, and the report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote


@dataclass(frozen=True)
class Cell:
    """Text of a table, perhaps marked (``best``, ``second``) and linked."""

    text: str
    mark: str = ""
    links: tuple[tuple[str, str], ...] = ()  # (text, file); of one link the text is the cell's
    name: bool = False  # the row's name, or prose that may be broken into lines


@dataclass(frozen=True)
class Block:
    """A piece of the report: ``title``, ``head``, ``text``, ``code``, ``table`` (rows of cells) or ``plot``."""

    kind: str
    text: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()


@dataclass(frozen=True)
class Plot:
    """A plot as SVG, the name of its file without ending, and what it shows; its finding is the title within."""

    name: str
    shows: str
    svg: str


def markdown(blocks: Sequence[Block], figures: Sequence[Plot]) -> str:
    """The report in Markdown; plots are SVG files beside it."""
    titles = {plot.name: plot.shows for plot in figures}
    out = []
    for block in blocks:
        if block.kind == "table":
            out.append(markdown_table(block))
        elif block.kind == "plot":
            out.append(f"![{titles[block.text]}]({block.text}.svg)")
        else:
            around = {"title": "# {}", "head": "## {}", "code": "```sh\n{}\n```", "text": "{}"}[block.kind]
            out.append(around.format(block.text))
    return "\n\n".join(out) + "\n"


def markdown_table(block: Block) -> str:
    """One table in Markdown."""

    def cell(c: Cell) -> str:
        text = {"best": f"**{c.text}**", "second": f"_{c.text}_", "": c.text}[c.mark]
        if len(c.links) == 1 and not c.links[0][0]:
            return f"[{text}]({quote(c.links[0][1])})"
        return " ".join(f"[{name}]({quote(file)})" for name, file in c.links) + text

    lines = ["| " + " | ".join(block.header) + " |", "|" + "---|" * len(block.header)]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in block.rows)])


def cut(block: Block, after: str) -> list[Block]:
    """A table in two, for a page that is not wide enough: columns up to `after`, then the first one with the others."""
    place = block.header.index(after) + 1
    if place == len(block.header):
        return [block]
    first = replace(block, header=block.header[:place], rows=tuple(row[:place] for row in block.rows))
    header = (block.header[0], *block.header[place:])
    return [first, replace(block, header=header, rows=tuple((row[0], *row[place:]) for row in block.rows))]


def p_value(p: float) -> str:
    """``p < .001``, or the value without its zero, as all tables show it."""
    return "p < .001" if p < 1e-3 else f"p = {p:.3f}".replace("= 0.", "= .")
