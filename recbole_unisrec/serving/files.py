"""A file of histories in, a file of recommendations out, block by block."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataset_tools.common import UserError, atomic_path
from recbole_unisrec.serving.checks import unknown_ids
from recbole_unisrec.serving.recommender import Recommender
from recbole_unisrec.serving.snapshot import rows_of

USERS = 4096  # users answered between two writes
ROWS = 1 << 16  # rows of a parquet file read at a time


def recommend_file(rec: Recommender, args: argparse.Namespace, candidates: list[str] | None) -> int:
    """Answer the histories of ``--orders`` or ``--input`` into ``--out``; see `serving.cli.recommend_command`."""
    from tqdm import tqdm

    snapshot = rec.snapshot
    allowed = None if candidates is None else rec._known(snapshot, candidates, "candidates", args.strict)
    chunks = _orders(args) if args.orders else _histories(args)
    started = time.perf_counter()
    users = n_unknown = n_cold = 0
    example = ""
    show = not args.quiet and sys.stderr.isatty()
    with _writer(args.out) as write, tqdm(unit=" users", desc="recommend", disable=not show) as bar:
        for names, histories in chunks:
            found = [rows_of(snapshot, history) for history in histories]
            for user, (rows, unknown) in zip(names, found, strict=True):
                if unknown and args.strict:
                    raise UserError(unknown_ids(unknown, f"the history of {user!r}"))
                n_unknown += len(unknown)
                example = unknown[0] if unknown else example
                n_cold += not rows
            best, scores = rec.rank(snapshot, [f[0] for f in found], args.k, not args.include_seen, allowed)
            write(names, snapshot, best.numpy(), scores.numpy())
            users += len(names)
            bar.update(len(names))
    seconds = time.perf_counter() - started
    if n_unknown:
        print(f"warning: skipped {n_unknown:,} unknown items of histories, for example {example!r}", file=sys.stderr)
    if n_cold:
        print(f"{n_cold:,} users have no known item; they got the most popular ones", file=sys.stderr)
    print(f"{args.out}: {users:,} users, {users / max(seconds, 1e-9):,.0f} users/s")
    return 0


def _histories(args: argparse.Namespace) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Users and histories of a file with a row for each user."""
    from dataset_tools.sources import BadLines, Source, read_table

    kind = args.input.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        yield from _parquet_histories(args)
        return
    if kind in ("jsonl", "json", "ndjson"):
        yield from _json_histories(args)
        return
    columns = {args.user_col: pl.String, args.history_col: pl.String}
    source, bad = Source(args.input, False), BadLines()
    for _, frame in read_table(source, columns, bad, required={args.user_col: "given"}):
        cells = frame[args.history_col].fill_null("").to_list()
        split = [ids_of(cell, args.history_separator) for cell in cells]
        yield from _blocks(frame[args.user_col].to_list(), split)


def ids_of(text: str, separator: str) -> list[str]:
    """Item ids of a text: a JSON list of them, or ids with a separator between."""
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, list) and all(isinstance(item, str) for item in found):
            return found
    return [item for item in text.split(separator) if item]


def _parquet_histories(args: argparse.Namespace) -> Iterator[tuple[list[str], list[list[str]]]]:
    """A parquet file, whose histories are lists (ids may hold blanks), or texts as in csv."""
    try:
        table = pl.scan_parquet(args.input)
        there, rows = table.collect_schema(), table.select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{args.input} is no readable parquet file: {error}") from error
    for name in (args.user_col, args.history_col):
        if name not in there:
            raise UserError(f"{args.input.name} has no column {name}; its columns are {', '.join(there)}")
    lists = isinstance(there[args.history_col], pl.List)
    user, history = pl.col(args.user_col).cast(pl.String), pl.col(args.history_col)
    wanted = table.select(user, history.cast(pl.List(pl.String)) if lists else history.cast(pl.String))
    for start in range(0, rows, ROWS):
        frame = wanted.slice(start, ROWS).collect().drop_nulls(args.user_col)
        cells = frame[args.history_col].to_list()
        split = [(cell or []) if lists else ids_of(cell or "", args.history_separator) for cell in cells]
        yield from _blocks(frame[args.user_col].to_list(), split)


def _json_histories(args: argparse.Namespace) -> Iterator[tuple[list[str], list[list[str]]]]:
    """A file with an object on each line, whose histories are lists (ids may hold blanks), or texts as in csv."""
    from dataset_tools.sources import BadLines, Source
    from dataset_tools.sources.json_lines import read_json_lines

    source, bad, seen = Source(args.input, False), BadLines(), False
    for numbers, lines in read_json_lines(source, {args.user_col: Any, args.history_col: Any}, bad):
        users, histories = [], []
        for number, line in zip(numbers, lines, strict=True):
            user, history = line._0, line._1
            if user is None:
                raise UserError(f"{args.input.name} line {number} has no {args.user_col}; give its name by --user_col")
            seen |= history is not None
            users.append(str(user))
            if isinstance(history, str):
                histories.append(ids_of(history, args.history_separator))
            elif history is None or isinstance(history, list):
                histories.append([str(item) for item in history or () if item is not None])
            else:
                raise UserError(
                    f"{args.input.name} line {number}: {args.history_col} is {history!r}, and no list of ids"
                )
        yield from _blocks(users, histories)
    if not seen:
        raise UserError(f"{args.input.name} has no column {args.history_col}; give its name by --history_col")


def _blocks(users: list[str], histories: list[list[str]]) -> Iterator[tuple[list[str], list[list[str]]]]:
    for start in range(0, len(users), USERS):
        yield users[start : start + USERS], [[i for i in h if i] for h in histories[start : start + USERS]]


def _orders(args: argparse.Namespace) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Users and histories of a file with a row for each item that a user took; all of it must fit in memory."""
    from dataset_tools.sources import ISO_FORMATS, BadLines, Source, read_table, with_times

    columns: dict[str, Any] = {args.user_col: pl.String, args.item_col: pl.String}
    if not args.no_time:
        columns[args.time_col] = pl.String
    source, bad = Source(args.orders, False), BadLines()
    frames = []
    for table in read_table(source, columns, bad, required=dict.fromkeys(columns, "given")):
        _, frame = table if args.no_time else with_times(table, args.time_col, source, bad, ISO_FORMATS)
        frames.append(frame)
    if not frames:
        raise UserError(f"{args.orders} holds no rows; is it the right file?")
    rows = pl.concat(frames)
    if not args.no_time:
        rows = rows.sort("_time", maintain_order=True)
    grouped = rows.group_by(args.user_col, maintain_order=True).agg(args.item_col)
    yield from _blocks(grouped[args.user_col].to_list(), grouped[args.item_col].to_list())


Write = Callable[[list[str], Any, Any, Any], None]


@contextlib.contextmanager
def _writer(out: Path) -> Iterator[Write]:
    """A function that writes answers into a csv, jsonl or parquet file, which is whole or absent."""
    kind = out.suffix.lower()
    with atomic_path(out) as temporary:
        if kind != ".parquet":
            with open(temporary, "wb") as file:
                n = 0

                def append(*answers: Any) -> None:
                    nonlocal n
                    frame = _frame(*answers)
                    if kind == ".csv":
                        frame.write_csv(file, include_header=n == 0)
                    else:
                        items = pl.struct("item_id", "title", "score").alias("items")
                        frame.group_by("user_id", maintain_order=True).agg(items).write_ndjson(file)
                    n += 1

                yield append
            return
        # polars writes a parquet file at once, so the parts lie beside it until the end
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            parts: list[Path] = []

            def add(*answers: Any) -> None:
                parts.append(Path(folder) / f"{len(parts):08d}.parquet")
                _frame(*answers).write_parquet(parts[-1])

            yield add
            if not parts:
                raise UserError("there is no history in the file; nothing was written")
            pl.scan_parquet(parts).sink_parquet(temporary)


def _frame(users: list[str], snapshot: Any, rows: Any, scores: Any) -> pl.DataFrame:
    """Answers of some users, int64 [B, k] rows (-1 for none) and float32 [B, k] scores, as a table."""
    there = rows >= 0
    flat = rows[there]
    who, rank = np.nonzero(there)
    return pl.DataFrame(
        {
            "user_id": pl.Series(users, dtype=pl.String).gather(who),
            "rank": rank.astype(np.int32) + 1,
            "item_id": snapshot.items["item_id"].gather(flat),
            "title": snapshot.items["title"].gather(flat),
            "score": scores[there],
        }
    )
