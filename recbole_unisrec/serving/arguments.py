"""What the commands share: the options of each, and how the model that they name is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.arguments import add_usual
from recbole_unisrec.serving.process import start_log

if TYPE_CHECKING:
    from recbole_unisrec.serving.recommender import Recommender


def parser_of(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """The options that each command has: which model, and how it is read."""
    parser = argparse.ArgumentParser(
        prog=f"unisrec {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="PATH",
        help="a saved model's folder, or a checkpoint (of a folder of checkpoints the newest)",
    )
    parser.add_argument("--data_path", type=Path, help="for a checkpoint: the folder that holds the dataset's folder")
    parser.add_argument(
        "--index", default="auto", choices=["auto", "exact", "approximate"], help="search (default: %(default)s)"
    )
    parser.add_argument("--encoder", help="encoder of new texts, where the model does not say it; save keeps it")
    parser.add_argument("--pooling", choices=["CLS", "Mean"], help="of --encoder")
    add_usual(parser)
    return parser


def load_model(args: argparse.Namespace) -> Recommender:
    """The model that the options of `parser_of` name."""
    from recbole_unisrec.serving.recommender import load

    start_log()
    share = getattr(args, "workers", 1) > 1
    rec = load(args.model, args.data_path, args.index, getattr(args, "precision", "fp32"), share)
    if args.encoder:
        rec.set_encoder(args.encoder, args.pooling)
    return rec


def natural(text: str) -> int:
    """Type of an option: a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def seconds(text: str) -> float:
    """Type of an option: seconds, 0 or more."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return found
