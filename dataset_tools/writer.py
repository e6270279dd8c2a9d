"""Write a dataset folder, whole or not at all: RecBole's atomic files, the index files and the provenance.

| file | content |
|---|---|
| ``NAME.inter`` | ``user_id:token``, ``item_id:token``, ``timestamp:float``; raw ids, user after user, in time order |
| ``NAME.item`` | ``item_id:token``, ``text:token_seq``, in index order |
| ``NAME.text`` | the same, under the name that the authors' files have |
| ``NAME.user2index``, ``NAME.item2index`` | raw id, tab, index |
| ``NAME.json`` | provenance: sources with sizes and checksums, counts after each step, settings, tool version |
| ``NAME.{train,valid,test}.inter`` | the authors' leave-one-out splits, on request |
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from dataset_tools import __version__
from dataset_tools.cleaning import is_empty_text
from dataset_tools.common import UserError, whole_folder
from dataset_tools.ids import check_ids
from dataset_tools.interactions import Interactions
from dataset_tools.pipeline import Dataset
from dataset_tools.sources import BadLines, Source

MAX_HISTORY = 50  # the authors cut every history to its last 50 items
ROWS = 1 << 20
SPLIT_HEADER = b"user_id:token\titem_id_list:token_seq\titem_id:token\n"


def check_target(folder: Path, name: str, overwrite: bool) -> None:
    """Refuse a folder that must not be replaced.

    Raises
    ------
    UserError
        If the folder holds something and ``overwrite`` is off, or holds something that is no dataset.
    """
    if not name or name != Path(name).name or name.startswith(".") or any(c.isspace() for c in name):
        raise UserError(f"{name!r} cannot name a dataset; use letters, digits, dashes and underscores")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another --out or --name")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{folder} exists and is not empty; pass --overwrite to replace it, or choose another --name")
    if not any((folder / f"{name}.{suffix}").exists() for suffix in ("inter", "train.inter", "json")):
        raise UserError(f"{folder} holds no dataset named {name}, so --overwrite leaves it alone; choose another --out")


def write_dataset(
    out: str | os.PathLike[str],
    name: str,
    dataset: Dataset,
    *,
    provenance: dict[str, Any] | None = None,
    benchmark_splits: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write ``out/NAME/NAME.*`` and return the folder.

    Parameters
    ----------
    out
        Folder of datasets, for example ``dataset``.
    name
        Name of the dataset and prefix of its files.
    dataset
        Sequences, ids and texts.
    provenance
        Written to ``NAME.json`` with the counts and the tool version; nothing in it changes between two equal runs.
    benchmark_splits
        Also write the authors' ``NAME.{train,valid,test}.inter``.
    overwrite
        Replace a dataset that is there.

    Raises
    ------
    UserError
        If the folder exists, an id cannot be written, or the disk is full. What was there stays then.
    """
    folder = Path(out) / name
    if len(dataset.texts) != len(dataset.item_ids):
        raise ValueError(f"{len(dataset.texts)} texts for {len(dataset.item_ids)} items")
    check_ids(dataset.user_ids, "user")
    check_ids(dataset.item_ids, "item")
    with whole_folder(folder, lambda: check_target(folder, name, overwrite)) as temporary:
        _write_inter(temporary / f"{name}.inter", dataset)
        _write_text(temporary / f"{name}.item", dataset)
        # a second name for the same bytes: the authors' name of the file
        shutil.copyfile(temporary / f"{name}.item", temporary / f"{name}.text")
        _write_index(temporary / f"{name}.user2index", dataset.user_ids)
        _write_index(temporary / f"{name}.item2index", dataset.item_ids)
        if benchmark_splits:
            write_benchmark_splits(temporary, name, dataset.offsets, dataset.items)
        lengths = np.diff(dataset.offsets)
        record = {
            "dataset": name,
            "tool": "recbole_unisrec.dataset_tools",
            "version": __version__,
            "counts": {
                "interactions": len(dataset.items),
                "users": len(dataset.user_ids),
                "items": len(dataset.item_ids),
                "mean_sequence": round(float(lengths.mean()), 4) if len(lengths) else 0,
                "empty_texts": sum(map(is_empty_text, dataset.texts)),
            },
            "steps": dataset.steps,
            "benchmark_splits": benchmark_splits,
            "ties": "equal times keep the order of the source file",
            **(provenance or {}),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (temporary / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")
    return folder


def _write_inter(path: Path, dataset: Dataset) -> None:
    """Write in slices, so that the raw ids of all rows are never in memory at once."""
    with open(path, "wb") as out:
        out.write(b"user_id:token\titem_id:token\ttimestamp:float\n")
        for start in range(0, len(dataset.items), ROWS):
            stop = min(start + ROWS, len(dataset.items))
            user = np.searchsorted(dataset.offsets, np.arange(start, stop), side="right") - 1
            frame = pl.DataFrame(
                {
                    "user": dataset.user_ids.gather(user),
                    "item": dataset.item_ids.gather(dataset.items[start:stop]),
                    "time": dataset.times[start:stop],
                }
            )
            _write_frame(out, frame)


def _write_frame(out: BinaryIO, frame: pl.DataFrame) -> None:
    """Tab-separated rows, in a way that a full disk is an OSError."""
    out.write(frame.write_csv(include_header=False, separator="\t", quote_style="never").encode("utf-8"))


def _write_text(path: Path, dataset: Dataset) -> None:
    """Write the texts; quotes at the start of one go, as RecBole's reader would take them for its own."""
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        out.write("item_id:token\ttext:token_seq\n")
        for item, text in zip(dataset.item_ids, dataset.texts, strict=True):
            out.write(item + "\t" + text.lstrip('"') + "\n")


def _write_index(path: Path, ids: pl.Series) -> None:
    frame = pl.DataFrame({"id": ids, "index": np.arange(len(ids))})
    with open(path, "wb") as out:
        _write_frame(out, frame)


def write_benchmark_splits(folder: Path, name: str, offsets: np.ndarray, items: np.ndarray) -> None:
    """Write the authors' leave-one-out files, of index ids.

    The last item of a user is the test target, the one before it the valid target, and every item before those but the
    first a training target, the latest first. A history holds its last 50 items. A target without a history (users of
    one or two interactions) has no row.
    """
    with (
        open(folder / f"{name}.train.inter", "wb") as train,
        open(folder / f"{name}.valid.inter", "wb") as valid,
        open(folder / f"{name}.test.inter", "wb") as test,
    ):
        for file in (train, valid, test):
            file.write(SPLIT_HEADER)
        for user in range(len(offsets) - 1):
            tokens = [b"%d" % item for item in items[offsets[user] : offsets[user + 1]].tolist()]
            # every history is a slice of this one line; ends[i] is where item i starts in it
            line = b" ".join(tokens)
            starts = [0]
            for token in tokens:
                starts.append(starts[-1] + len(token) + 1)
            number = b"%d\t" % user
            length = len(tokens)
            train.writelines(_row(number, line, starts, tokens, target) for target in range(length - 3, 0, -1))
            if length > 2:
                valid.write(_row(number, line, starts, tokens, length - 2))
            if length > 1:
                test.write(_row(number, line, starts, tokens, length - 1))


def _row(number: bytes, line: bytes, starts: list[int], tokens: list[bytes], target: int) -> bytes:
    first = target - MAX_HISTORY if target > MAX_HISTORY else 0
    return b"%b%b\t%b\n" % (number, line[starts[first] : starts[target] - 1], tokens[target])


def provenance(
    kind: str, sources: list[Source], settings: dict[str, Any], data: Interactions, bad: BadLines, **more: Any
) -> dict[str, Any]:
    """Where a dataset comes from and what was left out on the way, for `write_dataset`."""
    seed = settings.get("shuffle_ties")
    if seed is not None:
        more["ties"] = f"equal times of a user come in random order (seed {seed})"
    return {
        "sources": [source.record() for source in sources],
        "source_kind": kind,
        "settings": settings,
        "duplicate_interactions": data.repeated,
        **more,
        "bad_lines": dict(sorted(bad.per_file.items())),
    }


def make_dataset(
    args: argparse.Namespace, name: str, build: Callable[[bool, BadLines], tuple[Dataset, dict[str, Any]]]
) -> Path:
    """What every command does around its own ``build``: look at the target first, then write, report and encode.

    Parameters
    ----------
    args
        With the flags of `dataset_tools.arguments.add_arguments`.
    name
        Of the dataset.
    build
        Given whether to show progress, and where bad lines go; returns the dataset and its provenance.

    Raises
    ------
    UserError
        As `write_dataset`.
    """
    started = time.perf_counter()
    check_target(args.out / name, name, args.overwrite)
    dataset, record = build(not args.quiet and sys.stderr.isatty(), BadLines(args.max_bad_lines))
    folder = write_dataset(
        args.out,
        name,
        dataset,
        provenance=record,
        benchmark_splits=args.benchmark_splits,
        overwrite=args.overwrite,
    )
    if not args.quiet:
        print(steps_table(dataset.steps), file=sys.stderr)
        for file, lines in record["bad_lines"].items():
            print(f"{lines:,} lines of {file} could not be read and are left out", file=sys.stderr)
        empty = sum(map(is_empty_text, dataset.texts))
        if empty:
            print(f"{empty:,} of {len(dataset.texts):,} item texts are empty after cleaning", file=sys.stderr)
    print(f"{folder}  ({time.perf_counter() - started:.1f} s)")
    if args.encoder:
        from dataset_tools.features import encode_dataset

        options = {
            "encoder": args.encoder,
            "pooling": args.pooling,
            "precision": args.precision,
            "progress": not args.quiet,
        }
        print(encode_dataset(folder, name, word_drop=0.0, **options))
        if args.word_drop:
            print(encode_dataset(folder, name, word_drop=args.word_drop, **options))
    return folder


def steps_table(steps: list[dict[str, Any]]) -> str:
    """Counts after each step, as lines of text; before ids are known there are no users and items to count."""

    def line(step: str, *counts: int | str) -> str:
        cells = [f"{count:,}" if isinstance(count, int) else count for count in counts]
        return f"{step:<46}" + "".join(f"{cell:>13}" for cell in cells)

    lines = [line("step", "interactions", "users", "items")]
    lines += [line(s["step"], s["interactions"], s.get("users", ""), s.get("items", "")) for s in steps]
    return "\n".join(lines)
