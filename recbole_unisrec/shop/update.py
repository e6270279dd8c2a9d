"""``unisrec update``: new orders and products into a shop's model; the better of the old and the new one stays."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.common import UserError
from recbole_unisrec.shop.arguments import READING, file_names, shop_parser

if TYPE_CHECKING:
    from recbole_unisrec.shop.progress import Progress
    from recbole_unisrec.shop.tables import Tables

STEPS = 6
ENOUGH = 10  # customers with a new purchase, from which two models are compared


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = shop_parser(
        "update",
        "Add new orders and products to what unisrec start made. A short training goes on from the weights of the\n"
        "last model. Old and new model are compared on the newest orders, and the better one is kept. Orders that\n"
        "are known already do no harm. A service that runs takes the model over. The options of start hold.",
        "examples:\n"
        "  unisrec update --orders new.csv\n"
        "  unisrec update --shop myshop --orders orders_export.csv --products products_export.csv --quiet\n\n"
        "every night at three, in a crontab:\n"
        "  0 3 * * *  cd /srv/shop && unisrec update --orders export.csv --quiet >> update.log 2>&1",
        folder=("--shop", "folder of start"),
        products="the products stay",
        rounds="8",
    )
    parser.add_argument(
        "--remove_missing", action="store_true",
        help="products that --products lacks are recommended no longer; what was bought of them still teaches",
    )  # fmt: skip
    return parser


def update_command(arguments: list[str]) -> int:
    """Run ``unisrec update``."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    from recbole_unisrec.shop.state import State, only_one
    from recbole_unisrec.shop.training import check_parts

    state = State.load(args.folder)
    if state is None or state.done("save") is None:
        raise UserError(
            f"{args.folder} holds no finished shop; make one with unisrec start, or give its folder by --shop"
        )
    check_parts()
    for name in READING:  # what start was told holds, unless it is told anew
        if getattr(args, name) == parser.get_default(name):
            setattr(args, name, state.values["options"].get(name, getattr(args, name)))
    with only_one(args.folder):
        _work(args, state)
    return 0


def _work(args: argparse.Namespace, state: Any) -> None:
    """Read, train, compare, keep the better one, report. Nothing of the shop changes before the comparison."""
    from recbole_unisrec.shop.measure import (
        Measured,
        best_sellers,
        buys_again,
        held_out,
        in_one_order,
        list_length,
        measure,
        read_sequences,
    )
    from recbole_unisrec.shop.progress import Again, Progress, Rounds
    from recbole_unisrec.shop.report import write_report
    from recbole_unisrec.shop.tables import Tables, build_dataset, read_exports
    from recbole_unisrec.shop.training import (
        NAME,
        Learning,
        encode,
        encoders_of,
        learn_all,
        recommender,
        rounds_again,
        train,
    )

    folder, progress = args.folder, Progress(STEPS, args.quiet)
    bars = not args.quiet and sys.stderr.isatty()
    _mend(folder)
    work = folder / "next"  # what is made here takes its place at the end
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    with progress.step("reading the new files"):
        before = Tables.read(folder)
        fresh = read_exports(args.orders, args.products, args, before)
        tables = before.joined(fresh)
        keys = before.orders.columns
        new_orders = tables.orders.join(before.orders, on=keys, how="anti")
        n_new, n_gone = len(new_orders), len(before.orders.join(tables.orders, on=keys, how="anti"))
        tables.write(work)
        steps = build_dataset(tables, work, NAME)
    added = len(tables.products) - len(before.products)
    came = f"{n_new:,} new purchases, {added:,} new products"
    if n_gone:
        came += f", {n_gone:,} purchases of before were sent back or cancelled"
    progress.say(f"      {came}")
    gone = _no_longer_sold(args, before, fresh, state, progress)
    if not n_new and not n_gone and tables.products.equals(before.products) and gone == state.values.get("gone", []):
        shutil.rmtree(work)
        print("no new purchase, no new product; nothing was changed")
        return
    last = state.done("train")
    start = last.get("final") or last["checkpoint"]
    with progress.step("turning the product texts into numbers"):
        names = state.values["options"]["encoder"]
        suffixes = encode(work, encoders_of(folder, names, state.done("encode")), bars)
    sequences = read_sequences(work / "dataset" / NAME, NAME)
    k, again = list_length(steps[-1]["items"]), buys_again(sequences)
    customers = set(new_orders["user_id"].to_list())
    held = held_out(sequences, among=customers) if customers else held_out(sequences.head(0))
    old = recommender(folder / "model", work, tables.products, gone)
    sold = best_sellers(sequences)
    if len(held) < ENOUGH:
        progress.number += 3
        model, shown, trained, kept = old, old, None, "old"
        measured = Measured(**state.done("measure"))  # nothing new to measure by: the figure of before
        sentence = (
            f"the model before stays: only {len(held):,} customers with a new purchase can be compared, "
            f"{ENOUGH} are needed; new products are in"
        )
    else:
        with progress.step("learning from the weights of the last model"):
            recipe, seed = (state.values["options"][name] for name in ("recipe", "seed"))
            how = Learning(recipe, args.epochs, seed, start, bars, args.verbose)
            trained = train(work, suffixes, k, Rounds(progress, how.most, how.patience), how)
        with progress.step("comparing both models on the newest orders"):
            new = recommender(trained.checkpoint, work, tables.products, gone)
            shared = sorted(set(old.snapshot.items["item_id"]) & set(new.snapshot.items["item_id"]))
            was = measure(old, held, sold, k, again, shared)
            now = measure(new, held, sold, k, again, shared)
        kept, model, shown, measured = "old", old, old, measure(old, held, sold, k, again)
        if now.gain >= was.gain:
            kept, shown, measured = "new", new, measure(new, held, sold, k, again)
            with progress.step("learning once more, from all purchases"):
                trained = replace(
                    trained,
                    final=learn_all(
                        work, suffixes, k, trained.checkpoint, Again(progress, rounds_again(trained.checkpoint)), how
                    ),
                )
                model = recommender(trained.final, work, tables.products, gone)
        else:
            progress.number += 1
        sentence = (
            f"the {'new model is kept' if kept == 'new' else 'model before stays'}: of {len(held):,} customers with a new "
            f"purchase {now.hits:,} found it in the list of the new model, {was.hits:,} in that of the one before "
            f"(its place counted too, NDCG@{k}: {now.gain:.4f} and {was.gain:.4f})"
        )
    with progress.step("saving, and writing the report"):
        model.save(folder / "model")  # at once, for a service that runs
        if kept == "new" and trained is not None:
            for path in (work / "saved").iterdir():
                os.replace(path, folder / "saved" / path.name)
            saved = folder.resolve() / "saved"
            moved = {name: str(saved / Path(getattr(trained, name)).name) for name in ("checkpoint", "final")}
            state.values["steps"]["train"] = {**asdict(trained), **moved}
        state.values["steps"]["measure"] = asdict(measured)
        state.values["gone"] = gone
        entry = {"when": datetime.now().strftime("%Y-%m-%d %H:%M"), "purchases": n_new, "products": added}
        state.values["updates"].append({**entry, "kept": kept, "sentence": sentence})
        _take_over(folder, work)
        state.write()
        tables.notes = fresh.notes
        write_report(
            folder / "report.html", tables, steps, measured, shown, held if len(held) >= ENOUGH else held_out(sequences),
            files=file_names(args),
            updates=state.values["updates"],
            one_order=in_one_order(sequences),
        )  # fmt: skip
    print(f"{came}; {sentence}")


def _no_longer_sold(
    args: argparse.Namespace, before: Tables, fresh: Tables, state: Any, progress: Progress
) -> list[str]:
    """Products that are taken out of the model: those that were before, and with a flag those that the new export lacks."""
    gone: list[str] = state.values.get("gone", [])
    if args.products is None:
        return gone
    sold = set(fresh.products["item_id"])
    missing = [item for item in before.products["item_id"] if item not in sold]
    if args.remove_missing:
        if missing:
            progress.say(
                f"      {len(missing):,} products are not in {args.products.name} and are recommended no longer"
            )
        return missing
    stay = len(set(missing) - set(gone))
    if stay:
        progress.say(
            f"      {stay:,} products of before are not in {args.products.name}; they stay (--remove_missing takes them out)"
        )
    return [item for item in gone if item not in sold]


def _take_over(folder: Path, work: Path) -> None:
    """Move the new dataset and tables to their place, the orders last.

    Until they are there the new orders count as new: an update that is killed on the way is done again by the next.
    """
    aside = folder / "dataset.old"
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder / "dataset", aside)
    os.rename(work / "dataset", folder / "dataset")
    shutil.rmtree(aside, ignore_errors=True)
    for name in ("products.parquet", "ledger.parquet", "orders.parquet"):
        os.replace(work / name, folder / name)
    shutil.rmtree(work, ignore_errors=True)


def _mend(folder: Path) -> None:
    """Put the dataset back that a killed update had put aside."""
    aside = folder / "dataset.old"
    if aside.is_dir() and not (folder / "dataset").exists():
        os.rename(aside, folder / "dataset")
