"""Tables and figures of Markdown pages, made again from stored runs: ``python -m recbole_unisrec.leaderboard.pages docs``.

A page says what stands where, in the words of the command ``tables``; paths start at the page's folder::

    <!-- board table runs/Scientific.runs.zip Pop text-kNN SASRecPacked -->
    <!-- /board -->
    <!-- board figure figures/scientific-cost.svg cost runs/Scientific.runs.zip -->
    <!-- /board -->

What lies between the two comments is replaced. Kinds of figures are those of a report (``metrics``, ``groups``, ``curves``,
``cost``), ``new-items``, and of several datasets ``summary`` and ``summary-shares``.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from dataset_tools.common import UserError, run_cli, write_text
from recbole_unisrec.leaderboard.plots import ALL_KINDS, plot, shows
from recbole_unisrec.leaderboard.tables import Selection, add_options, one_board

BLOCK = re.compile(r"(<!-- board (table|figure) (.+?) -->\n)(.*?)(<!-- /board -->)", re.DOTALL)
OPENED = re.compile(r"<!-- board ")
FENCED = re.compile(r"(^```.*?^```[ \t]*$)", re.DOTALL | re.MULTILINE)  # code, in which comments are examples
CHANGE = re.compile(r"%, p [<=] [\d.]+( /)?")
SEVERAL = ("summary", "summary-shares")


class Words(argparse.ArgumentParser):
    """Reads the words of a comment; what is wrong with them is a `UserError`."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Say it with the comment."""
        raise UserError(message)


def regenerate(page: Path, tables_only: bool = False) -> str:
    """The text of a page with its tables made again; its figures are drawn and written, unless `tables_only`.

    Raises
    ------
    UserError
        If a comment asks for what is not there.
    """
    parts = FENCED.split(page.read_text(encoding="utf-8"))
    plain = "".join(parts[::2])
    if len(OPENED.findall(plain)) != len(BLOCK.findall(plain)):
        raise UserError(
            f"{page}: a comment `<!-- board table …` or `<!-- board figure …` has no `<!-- /board -->` after it"
        )

    def made(match: re.Match[str]) -> str:
        opening, kind, words, _, closing = match.groups()
        try:
            if kind == "figure" and tables_only:
                return match[0]
            new = table_of(words, page.parent) if kind == "table" else figure_of(words, page.parent)
        except UserError as error:
            raise UserError(f"{page}, board {kind} {words}: {error}") from error
        return f"{opening}{new}\n{closing}"

    return "".join(part if place % 2 else BLOCK.sub(made, part) for place, part in enumerate(parts))


def table_of(words: str, root: Path) -> str:
    """A Markdown table, with the empty lines that Markdown wants around it; a change and its p stay on one line."""
    parser = Words(prog="board table", add_help=False)
    add_options(parser)
    table = Selection.of(parser.parse_args(shlex.split(words)), root).table()
    return "\n" + CHANGE.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), table) + "\n"


def figure_of(words: str, root: Path) -> str:
    """Draw a figure and give the Markdown that shows it.

    Raises
    ------
    UserError
        If there is no such kind, or no such runs.
    """
    parser = Words(prog="board figure", add_help=False)
    parser.add_argument("file")
    parser.add_argument("kind", choices=[*ALL_KINDS, *SEVERAL])
    add_options(parser)
    options = parser.parse_args(shlex.split(words))
    chosen = Selection.of(options, root)
    if options.kind in SEVERAL:
        drawn = {p.name: p for p in chosen.summary("").plots}
        if options.kind not in drawn:
            raise UserError("no runs learned from a share of the users; run some with --train_users")
        caption, svg = drawn[options.kind].shows, drawn[options.kind].svg
    else:
        board = one_board(chosen.boards, chosen.share, chosen.other)
        standings = [s for s in board.standings if not chosen.rows or s.name in chosen.rows]
        if not standings:
            known = ", ".join(s.name for s in board.standings)
            raise UserError(f"no finished run of {', '.join(chosen.rows)}; rows are {known}")
        caption, svg = f"{board.dataset}: {shows(options.kind, board)}", plot(options.kind, board, standings)
    write_text(root / options.file, svg)
    return f"\n![{caption}]({options.file})\n"


def main(arguments: list[str]) -> int:
    """Make the tables and figures of pages again."""
    parser = argparse.ArgumentParser(
        prog="python -m recbole_unisrec.leaderboard.pages",
        description=(__doc__ or "").partition("\n")[0],
        epilog="A page says in comments what stands where, see docs/compare.md.",
    )
    parser.add_argument("what", nargs="+", type=Path, metavar="PAGE", help="Markdown files, or folders of them")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a table is not up to date"
    )
    options = parser.parse_args(arguments)
    pages = [page for path in options.what for page in (sorted(path.rglob("*.md")) if path.is_dir() else [path])]
    stale = []
    for page in pages:
        before = page.read_text(encoding="utf-8")
        if not OPENED.search(before):
            continue
        after = regenerate(page, tables_only=options.check)
        if after != before:
            stale.append(str(page))
            if not options.check:
                write_text(page, after)
        print(f"{page}: {'as it was' if after == before else 'not up to date' if options.check else 'made again'}")
    if options.check and stale:
        raise UserError(
            f"{', '.join(stale)} {'is' if len(stale) == 1 else 'are'} not what the stored runs say; run this without --check"
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
