"""The commands ``unisrec save``, ``recommend``, ``similar``, ``add-items`` and ``serve``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.common import UserError
from recbole_unisrec.refit_names import is_refit, measured, refitted
from recbole_unisrec.serving.arguments import load_model, natural, parser_of
from recbole_unisrec.serving.serve import TOKEN, is_loopback, serve_command

if TYPE_CHECKING:
    from recbole_unisrec.serving.answers import Recommendations
    from recbole_unisrec.serving.recommender import Recommender

__all__ = ["COMMANDS", "OUTPUTS", "TOKEN", "checkpoint_of", "is_loopback", "serve_command", "table"]

OUTPUTS = (".csv", ".jsonl", ".parquet")


def checkpoint_of(model: Path, as_measured: bool) -> Path:
    """Of a folder of checkpoints the newest; of a run with ``--refit`` the weights that learned from all the data.

    Parameters
    ----------
    model
        A checkpoint, a folder of checkpoints, or a saved model (which stays what it is).
    as_measured
        Take the weights that were measured instead.
    """
    from recbole_unisrec.serving.folder import CONFIG

    if model.is_dir() and not (model / CONFIG).exists():
        files = sorted(model.glob("*.pth"), key=lambda file: (file.stat().st_mtime_ns, file.name))
        files = [file for file in files if not (as_measured and is_refit(file))]
        model = files[-1] if files else model
    if as_measured:
        return measured(model) if is_refit(model) else model
    return refitted(model)


def _ids(rec: Recommender, given: list[str]) -> list[str]:
    """Item ids of ``--history``: of one argument parts between commas, or a JSON list; of several each as it is."""
    from recbole_unisrec.serving.files import ids_of

    if len(given) > 1:
        return given
    parts = ids_of(given[0], ",")
    whole = rec.snapshot.row(given[0]) is not None
    if whole and len(parts) > 1 and any(rec.snapshot.row(part) is None for part in parts):
        return given  # an id with a comma in it
    return parts


# --- save


def save_command(arguments: list[str]) -> int:
    """A training checkpoint becomes one folder with all that serving needs."""
    parser = parser_of(
        "save",
        "Write one folder with all that recommending needs: weights, items, texts, their vectors, the index.",
        "example:\n  unisrec save --model saved/UniSRec-Nov-24-2026_03-44-07-1.pth --out models/myshop",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder; a saved model is replaced")
    parser.add_argument(
        "--measured", action="store_true",
        help="of a run with --refit take the weights that were measured, not those that learned from all the data",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    args.model = checkpoint_of(args.model, args.measured)
    rec = load_model(args)
    rec.save(args.out)
    print(f"{args.out}: {rec.meta.model} {rec.meta.form}, {len(rec):,} items")
    if is_refit(args.model):
        figures = measured(args.model).with_suffix(".json")
        print(f"{args.model} has learned from all the data; figures are those of the run before it, {figures}")
    return 0


# --- recommend


def recommend_command(arguments: list[str]) -> int:
    """Recommendations for one history, or for a file of them."""
    parser = parser_of(
        "recommend",
        "Recommend items after a history, or after each history of a file.",
        "examples:\n"
        "  unisrec recommend --model models/myshop --history B00TNNWMXI,B00IBZE2EQ --k 10\n"
        "  unisrec recommend --model models/myshop --history 'Mug, blue' --history 'Pot, 2 l'\n"
        "  unisrec recommend --model models/myshop --history '[\"Mug, blue\"]'\n"
        "  unisrec recommend --model models/myshop --orders orders.csv --out recommendations.parquet\n"
        "  unisrec recommend --model models/myshop --input histories.jsonl --out recommendations.jsonl\n\n"
        "Items that the model does not know are skipped with a warning (--strict: an error). A history of which no\n"
        "item is known is answered by popularity.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--history", action="append", metavar="IDS",
        help="item ids from old to new, with commas between; given several times, each is one id; or a JSON list",
    )  # fmt: skip
    what.add_argument("--orders", type=Path, metavar="FILE", help="table with a row for each item that a user took")
    what.add_argument("--input", type=Path, metavar="FILE", help="table with a row for each user: user_id, history")
    parser.add_argument("--out", type=Path, metavar="FILE", help="csv, jsonl or parquet; for --orders and --input")
    parser.add_argument("--k", type=natural, default=10, help="items for each history (default: %(default)s)")
    parser.add_argument("--include_seen", action="store_true", help="items of the history may be recommended again")
    parser.add_argument(
        "--candidates", type=Path, metavar="FILE", help="recommend only these: an id on each line, or a .json list"
    )
    parser.add_argument("--strict", action="store_true", help="an unknown item is an error")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table (for --history)")
    parser.add_argument("--user_col", default="user_id", help="column of the user (default: %(default)s)")
    parser.add_argument("--history_col", default="history", help="column of the history (default: %(default)s)")
    parser.add_argument("--history_separator", default=" ", help="between ids of a history in csv (default: a blank)")
    parser.add_argument("--item_col", default="item_id", help="column of the item in --orders (default: %(default)s)")
    parser.add_argument("--time_col", default="timestamp", help="column of the time in --orders (default: %(default)s)")
    parser.add_argument("--no_time", action="store_true", help="--orders has no time and is in order")
    parser.add_argument(
        "--precision", default="fp32", choices=["fp32", "bf16"],
        help="of the encoder; bf16 is faster for many users on a processor that multiplies it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args(arguments)
    if args.history is None:
        _check_out(args.out)
    elif args.out is not None:
        raise UserError("--out goes with --orders or --input; the answer to --history is printed")
    candidates = _read_candidates(args.candidates) if args.candidates else None
    rec = load_model(args)
    if args.history is None:
        from recbole_unisrec.serving.files import recommend_file

        return recommend_file(rec, args, candidates)
    answer = rec.recommend(_ids(rec, args.history), args.k, not args.include_seen, candidates, args.strict)
    if args.json:
        print(json.dumps(answer.__dict__, ensure_ascii=False))
        return 0
    if answer.basis == "popularity":
        print("No item of the history is known; these are the most popular ones.", file=sys.stderr)
    print(table(answer))
    return 0


def _check_out(out: Path | None) -> None:
    if out is None or out.suffix.lower() not in OUTPUTS:
        raise UserError(f"give --out FILE with one of the endings {', '.join(OUTPUTS)}")


def _read_candidates(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            found = json.loads(text)
            if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
                raise ValueError("it holds no list of texts")
            return found
        # not splitlines, which also ends a line at characters that an id may hold
        return [line for line in (line.removesuffix("\r") for line in text.split("\n")) if line]
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {error}; it must be UTF-8 with an item id on each line, or a .json list"
        ) from error


def table(answer: Recommendations) -> str:
    """An answer as lines for the terminal: rank, score, id, title."""
    wide = max((len(item) for item in answer.ids), default=0)
    room = max(20, shutil.get_terminal_size((120, 24)).columns - wide - 18)
    lines = []
    for rank, (item, title, score) in enumerate(zip(answer.ids, answer.titles, answer.scores, strict=True), start=1):
        shown = title if len(title) <= room else title[: room - 1] + "…"
        lines.append(f"{rank:>4}  {score:7.4f}  {item:{wide}}  {shown}")
    return "\n".join(lines) if lines else "nothing is left to recommend"


# --- similar


def similar_command(arguments: list[str]) -> int:
    """The items nearest to one."""
    parser = parser_of(
        "similar",
        "Show the items whose vectors are nearest to that of an item.",
        "example:\n  unisrec similar --model models/myshop --item B00TNNWMXI --k 5",
    )
    parser.add_argument("--item", required=True, help="item id")
    parser.add_argument("--k", type=natural, default=10, help="how many (default: %(default)s)")
    args = parser.parse_args(arguments)
    print(table(load_model(args).similar_items(args.item, args.k)))
    return 0


# --- add-items


def add_items_command(arguments: list[str]) -> int:
    """New items into a saved model, without training."""
    parser = parser_of(
        "add-items",
        "Add items to a saved model by their texts, or by vectors made elsewhere, without training.",
        "examples:\n"
        "  unisrec add-items --model models/myshop --items products.csv --text_cols title brand --skip_existing\n"
        "  unisrec add-items --model models/myshop --items products.csv --vectors photos.npy --ids photos.txt",
    )
    parser.add_argument(
        "--items", type=Path, metavar="FILE", help="csv, tsv, parquet, jsonl or xlsx; not needed with --vectors"
    )
    parser.add_argument(
        "--vectors", type=Path, metavar="FILE",
        help="of a model that reads vectors made elsewhere: .npy or .safetensors with --ids, .parquet, or .itememb",
    )  # fmt: skip
    parser.add_argument("--ids", type=Path, metavar="FILE", help="the item of each vector, an id on each line")
    parser.add_argument("--item_col", default="item_id", help="column of the item (default: %(default)s)")
    parser.add_argument(
        "--text_cols", nargs="+", default=["title"], metavar="COL",
        help="text columns, the same and in the same order as for the dataset; the first is shown (default: title)",
    )  # fmt: skip
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--replace", action="store_true", help="give existing items the new texts")
    there.add_argument("--skip_existing", action="store_true", help="leave existing items as they are")
    parser.add_argument("--out", type=Path, metavar="DIR", help="save there instead of in the model's folder")
    args = parser.parse_args(arguments)
    if args.out is None and not args.model.is_dir():
        raise UserError(
            "--model is a checkpoint, which is left as it is; give --out DIR for the model with the new items"
        )
    if args.items is None and args.vectors is None:
        raise UserError("give the new items by --items FILE, or their vectors by --vectors FILE")
    new: list[Mapping[str, Any]] | None = None if args.items is None else _read_items(args)
    rec = load_model(args)
    if args.skip_existing and new is not None:
        new = [item for item in new if rec.snapshot.row(item["item_id"]) is None]
    features = None
    if args.vectors is not None:
        from recbole_unisrec.serving.side_by_side import with_vectors

        new, features = with_vectors(
            rec.texts.recorded, rec.texts.fitted, rec.settings.plm_size, new, args.vectors, args.ids
        )
        if args.skip_existing:
            kept = [i for i, item in enumerate(new) if rec.snapshot.row(item["item_id"]) is None]
            new, features = [new[i] for i in kept], features[kept]
    n = rec.add_items(new or [], features, replace=args.replace)
    rec.save(args.out or args.model)
    print(f"{args.out or args.model}: {n:,} items added, {len(rec):,} in all")
    if n and rec.meta.form == "transductive":
        print("The model is transductive: new items have no ID embedding and rank lower than trained ones.")
    return 0


def _read_items(args: argparse.Namespace) -> list[Mapping[str, Any]]:
    import polars as pl

    from dataset_tools.cleaning import join_fields
    from dataset_tools.sources import BadLines, Source, read_table

    columns = dict.fromkeys([args.item_col, *args.text_cols], pl.String)
    found: list[Mapping[str, Any]] = []
    source, required = Source(args.items, False), {args.item_col: "given"}
    for _, frame in read_table(source, columns, BadLines(), required=required):
        for item, *fields in frame.select(args.item_col, *args.text_cols).iter_rows():
            found.append({"item_id": item, "text": join_fields(fields), "title": fields[0] or ""})
    return found


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "save": (save_command, "turn a checkpoint into a folder to recommend with"),
    "recommend": (recommend_command, "recommend items for a history, or a file of them"),
    "similar": (similar_command, "show the items nearest to one"),
    "add-items": (add_items_command, "add new items by their texts, without training"),
    "serve": (serve_command, "start the HTTP service and its page"),
}
