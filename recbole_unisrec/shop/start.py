"""``unisrec start``: a shop's order and product exports to a model, a report and a page; goes on where it was."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.common import UserError
from recbole_unisrec.shop.arguments import LEARNING, READING, file_names, shop_parser

if TYPE_CHECKING:
    from recbole_unisrec.shop.measure import Measured

STEPS = 7


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = shop_parser(
        "start",
        "From your shop's exports to recommendations: reads the files, learns, measures, writes a report\n"
        "(report.html), and shows a page to try it. An interrupted run goes on where it was.",
        "examples:\n"
        "  unisrec start --orders orders.csv --products products.csv\n"
        "  unisrec start --orders orders_export.csv --products products_export.csv --preset shopify --out myshop\n"
        "  unisrec start --orders 2023.xlsx 2024.xlsx --no_serve",
        folder=("--out", "folder of it all"),
        products="the orders name the products",
        rounds="until nothing improves",
    )
    parser.add_argument("--restart", action="store_true", help="begin anew in a folder that start made")
    learn = parser.add_argument_group("learning")
    learn.add_argument(
        "--encoder", nargs="+", default=["auto"], metavar="NAME",
        help="of the product texts: minilm, a hub name or a folder, or lsa, or one of them and lsa side by side (default: minilm "
        "if installed, else lsa)",
    )  # fmt: skip
    learn.add_argument("--recipe", default="ours", help="ours or paper (default: %(default)s)")
    learn.add_argument("--seed", type=int, help="random seed")
    page = parser.add_argument_group("page")
    page.add_argument("--no_serve", action="store_true", help="end without the page")
    page.add_argument("--port", type=int, default=8000, help="of the page (default: %(default)s)")
    return parser


def start_command(arguments: list[str]) -> int:
    """Run ``unisrec start``."""
    args = make_parser().parse_args(arguments)
    from recbole_unisrec.shop.state import only_one
    from recbole_unisrec.shop.training import check_parts

    check_parts()
    with only_one(args.folder):
        _work(args)
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if args.no_serve or missing:
        if missing:
            print(f'the page needs {" and ".join(missing)}: pip install "recbole_unisrec[serve]", then unisrec serve')
        return 0
    from recbole_unisrec.serving.cli import serve_command

    print(f"the page: http://127.0.0.1:{args.port}  (stop it with Ctrl-C)")
    return serve_command(["--model", str(args.folder / "model"), "--port", str(args.port)])


def _open_state(args: argparse.Namespace) -> Any:
    """The folder's state if it is of the same files and options, else a new one.

    Raises
    ------
    UserError
        If the folder is of other files, and ``--restart`` is not given.
    """
    from recbole_unisrec.shop.state import State, fingerprint

    options = {name: getattr(args, name) for name in (*READING, *LEARNING)}
    if len(args.encoder) == 1:
        options["encoder"] = args.encoder[0]  # as versions before several wrote it, so that their folders are known
    files = [*args.orders, *([args.products] if args.products else [])]
    mark = fingerprint(files, options)
    state = State.load(args.folder) if not args.restart else None
    if state is not None and state.values["mark"] != mark:
        raise UserError(
            f"{args.folder} was made of other files or with other options; add new orders with unisrec update, begin anew "
            "with --restart, or give another --out"
        )
    if state is not None:
        return state
    if args.restart and (args.folder / "shop.json").is_file():
        for name in ("dataset", "saved", "model"):
            shutil.rmtree(args.folder / name, ignore_errors=True)
    state = State.new(args.folder, mark, options)
    state.values["files"] = file_names(args)
    return state


def _work(args: argparse.Namespace) -> None:
    """The steps; each that is done is noted in the state."""
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
    from recbole_unisrec.shop.report import left_out, write_report
    from recbole_unisrec.shop.tables import Tables, build_dataset, read_exports
    from recbole_unisrec.shop.training import (
        NAME,
        Learning,
        choose_encoders,
        encode,
        learn_all,
        listed,
        recommender,
        rounds_again,
        train,
    )

    state, folder = _open_state(args), args.folder
    bars = not args.quiet and sys.stderr.isatty()
    progress = Progress(STEPS, args.quiet)
    if state.done("report") and (folder / "model").is_dir() and (folder / "report.html").is_file():
        progress.say("all of it was done before, and is kept; begin anew with --restart")
        _say_result(folder, Measured(**state.done("measure")))
        return
    read = state.done("read")
    if read is None:
        with progress.step("reading your files"):
            tables = read_exports(args.orders, args.products, args)
            tables.write(folder)
            steps = build_dataset(tables, folder, NAME)
            read = state.finish("read", {"tables": tables.steps, "dataset": steps, "notes": tables.notes})
    else:
        progress.skip("reading your files")
    tables = Tables.read(folder)
    tables.steps, tables.notes = read["tables"], read["notes"]
    last = read["dataset"][-1]
    for row in left_out([*tables.steps, *read["dataset"]]):
        progress.say(f"      left out: {row['out']} rows {row['what']}")
    progress.say(
        f"      {last['users']:,} customers, {last['items']:,} products, {last['interactions']:,} purchases to learn from"
    )
    sequences = read_sequences(folder / "dataset" / NAME, NAME)
    k = list_length(last["items"])

    suffixes = listed(state.done("encode") or [])
    encoders = choose_encoders(args.encoder)
    if not suffixes:
        with progress.step(f"turning the product texts into numbers ({' and '.join(encoders)})"):
            suffixes = state.finish("encode", encode(folder, encoders, bars))
    else:
        progress.skip("turning the product texts into numbers")

    how = Learning(args.recipe, args.epochs, args.seed, bars=bars, verbose=args.verbose)
    trained = state.done("train")
    if trained is None:
        with progress.step("learning"):
            rounds = Rounds(progress, how.most, how.patience)
            trained = state.finish("train", asdict(train(folder, suffixes, k, rounds, how)))
    else:
        progress.skip("learning")

    rec = recommender(trained["checkpoint"], folder, tables.products)
    again, held = buys_again(sequences), held_out(sequences)
    with progress.step("measuring on the last purchases"):
        sold = best_sellers(sequences)
        measured = measure(rec, held, sold, k, again)
        state.finish("measure", asdict(measured))
    if not trained.get("final"):
        with progress.step("learning once more, from all purchases"):
            again_told = Again(progress, rounds_again(trained["checkpoint"]))
            final = learn_all(folder, suffixes, k, trained["checkpoint"], again_told, how)
            trained = state.finish("train", {**trained, "final": final})
    else:
        progress.skip("learning once more, from all purchases")
    if state.done("save") is None or not (folder / "model").is_dir():
        with progress.step("saving the model"):
            served = recommender(trained["final"], folder, tables.products)
            served.save(folder / "model")
            state.finish("save", {"items": len(served)})
    else:
        progress.skip("saving the model")
    with progress.step("writing the report"):
        write_report(
            folder / "report.html", tables, read["dataset"], measured, rec, held,
            files=state.values["files"], updates=state.values["updates"],
            one_order=in_one_order(sequences), refit=trained["final"] != trained["checkpoint"],
        )  # fmt: skip
        state.finish("report", "report.html")
    _say_result(folder, measured)


def _say_result(folder: Path, measured: Measured) -> None:
    hits, low, high, sellers = measured.per_hundred()
    print(
        f"of 100 customers {hits} bought next what stood in their list of {measured.k} ({low} to {high} with 95% "
        f"certainty, measured on {measured.customers:,}); the best sellers: {sellers}"
    )
    print(f"the report: {folder / 'report.html'}\nthe model: {folder / 'model'}")
