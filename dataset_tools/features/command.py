"""The command `python -m dataset_tools.features`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from dataset_tools import lsa
from dataset_tools.arguments import POOLINGS, new_parser
from dataset_tools.common import UserError, read_properties
from dataset_tools.features.items import Fields
from dataset_tools.features.store import DTYPES, encode_dataset
from dataset_tools.features.vectors import MISSING, Columns, import_vectors
from dataset_tools.precision import PRECISIONS


def _parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "features",
        "FOLDER",
        description="Encode the item texts of a dataset with a pre-trained language model: NAME.text (or the "
        "columns of NAME.item that make the text) becomes NAME.feat1CLS, raw rows by item index, and NAME.feat1CLS.json, which says how "
        "they were made. A killed run goes on where it stopped; a file that is current is left alone.",
        epilog="examples:\n"
        "  python -m dataset_tools.features dataset/Scientific\n"
        "  python -m dataset_tools.features dataset/Scientific --encoder minilm --precision bf16\n"
        "  python -m dataset_tools.features dataset/Scientific --word_drop 0.15       # NAME.feat2CLS\n"
        "  python -m dataset_tools.features dataset/myshop --vectors photos.npy --ids photos.txt --suffix featImage\n"
        "  torchrun --nproc_per_node 4 -m dataset_tools.features dataset/Scientific   # four processes share the work",
    )
    parser.add_argument("folder", type=Path, help="the dataset's folder, for example dataset/Scientific")
    parser.add_argument("--name", help="prefix of the files (default: the folder's name)")
    items = parser.add_argument_group("the item file (as RecBole's settings of these names)")
    items.add_argument(
        "--text_cols",
        nargs="+",
        metavar="COL",
        help="columns that make the text, in this order (default: the column text, else those that look like text)",
    )
    items.add_argument(
        "--item_id_field", "--ITEM_ID_FIELD", metavar="COL", help="column of the item (default: item_id)"
    )
    items.add_argument("--field_separator", metavar="S", help="between columns (default: a tab)")
    items.add_argument("--seq_separator", metavar="S", help="between the members of a token_seq (default: a blank)")
    items.add_argument(
        "--config",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="property files of RecBole that hold these settings; what is given here goes before them",
    )
    vectors = parser.add_argument_group("vectors from elsewhere, in the place of an encoder")
    vectors.add_argument(
        "--vectors",
        type=Path,
        metavar="FILE",
        help=".npy or .safetensors with --ids, .parquet, or RecBole's .itememb; becomes NAME.featVectors (or --suffix)",
    )
    vectors.add_argument("--ids", type=Path, metavar="FILE", help="the item of each vector, an id on each line")
    vectors.add_argument("--id_col", default="", help="column of the ids, where there are several")
    vectors.add_argument("--vector_col", default="", help="column of the vectors, where there are several")
    vectors.add_argument(
        "--missing", choices=MISSING, default="error", help="items without a vector: an error, or the mean of all"
    )
    parser.add_argument(
        "--encoder",
        help="hub name, local folder, minilm, which needs no download, or lsa, which needs no language model: TF-IDF and "
        "singular vectors, fitted to these texts; NAME.feat1LSA.npz takes those of another dataset (default: bert-base-uncased); with --vectors: who made them",
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="vector of a text: of the first token, the mean of the others, or of all (default: what the encoder's own "
        "files say, else CLS)",
    )
    parser.add_argument(
        "--ngrams",
        choices=lsa.NGRAMS,
        default="auto",
        help="of lsa: pieces of characters beside words, where a script has no blanks (auto), of all words (compounds), "
        "or none (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="bf16 is about twice as fast at a cosine of 0.9999 or better (default: %(default)s)",
    )
    parser.add_argument("--max_length", type=int, default=512, help="tokens read of a text (default: %(default)s)")
    parser.add_argument(
        "--prompt", "--plm_prompt", help='put before each text, such as "passage: " (default: its own files)'
    )
    parser.add_argument(
        "--word_drop", type=float, default=0.0, help="drop each word with this probability (the paper: 0.15)"
    )
    parser.add_argument("--seed", type=int, default=2020, help="of the dropped words (default: %(default)s)")
    parser.add_argument("--suffix", help="of the file (default: feat1CLS, with --word_drop feat2CLS; or ...Mean)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="of the file (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file, whatever made it")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """RecBole's settings of the property files and the flags, later wins."""
    settings: dict[str, Any] = {}
    for file in args.config:
        settings.update(read_properties(file))
    given = {
        "ITEM_ID_FIELD": args.item_id_field,
        "field_separator": args.field_separator,
        "seq_separator": args.seq_separator,
        "text_cols": args.text_cols,
    }
    unescaped = {name: "\t" if value == "\\t" else value for name, value in given.items()}
    return settings | {name: value for name, value in unescaped.items() if value is not None}


def main(arguments: list[str]) -> None:
    """The command line; see ``--help``."""
    args = _parser().parse_args(arguments)
    folder = args.folder.resolve()
    if not folder.is_dir():
        raise UserError(f"{args.folder} is not a folder; give the one that holds NAME.text or NAME.item")
    settings = _settings(args)
    if args.vectors is not None or args.ids is not None:
        path = _import(args, folder.name, settings)
    else:
        path = _encode(args, folder.name, settings)
    if int(os.environ.get("RANK", 0)) == 0:
        meta = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
        print(f"{path}: {meta['rows']} items, width {meta['width']}, {meta['encoder']} {meta['pooling']}")


def _encode(args: argparse.Namespace, name: str, settings: dict[str, Any]) -> Path:
    return encode_dataset(
        args.folder,
        args.name or name,
        encoder=args.encoder or "bert-base-uncased",
        pooling=args.pooling,
        suffix=args.suffix,
        word_drop=args.word_drop,
        seed=args.seed,
        precision=args.precision,
        max_length=args.max_length,
        prompt=args.prompt,
        dtype=args.dtype,
        progress=not args.quiet,
        overwrite=args.overwrite,
        fields=Fields.of(settings),
        ngrams=args.ngrams,
    )


def _import(args: argparse.Namespace, name: str, settings: dict[str, Any]) -> Path:
    if args.vectors is None:
        raise UserError("--ids says whose the vectors are; give the vectors by --vectors FILE")
    if args.word_drop:
        raise UserError("--word_drop is for texts; vectors from elsewhere have no words to drop")
    named = Columns.of(settings)
    return import_vectors(
        args.folder,
        args.name or name,
        args.vectors,
        ids=args.ids,
        suffix=args.suffix,
        dtype=args.dtype,
        encoder=args.encoder,
        missing=args.missing,
        overwrite=args.overwrite,
        fields=Fields.of(settings),
        columns=Columns(args.id_col or named.item, args.vector_col or named.vector),
    )
