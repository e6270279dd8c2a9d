"""Amazon Review Data (2014, 2018) and Amazon Reviews 2023 to RecBole atomic files, by the UniSRec pipeline.

python -m dataset_tools.amazon Scientific --raw dumps --out dataset
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.common import UserError, run_cli
from dataset_tools.kinds import Kind

if TYPE_CHECKING:
    import numpy as np

    from dataset_tools.ids import IdTable
    from dataset_tools.interactions import Interactions
    from dataset_tools.pipeline import Dataset
    from dataset_tools.sources import BadLines, Source

# short name -> the publisher's category in each year; None where the year lacks it
CATEGORIES: dict[str, tuple[str | None, str | None, str | None]] = {
    "Android": (None, None, "Apps_for_Android"),
    "Appliances": ("Appliances", "Appliances", None),
    "Arts": ("Arts_Crafts_and_Sewing", "Arts_Crafts_and_Sewing", None),
    "Automotive": ("Automotive", "Automotive", "Automotive"),
    "Baby": (None, "Baby_Products", "Baby"),
    "Beauty": ("All_Beauty", "All_Beauty", "Beauty"),
    "Books": ("Books", "Books", "Books"),
    "Boxes": (None, "Subscription_Boxes", None),
    "CDs": ("CDs_and_Vinyl", "CDs_and_Vinyl", "CDs_and_Vinyl"),
    "Cell": ("Cell_Phones_and_Accessories", "Cell_Phones_and_Accessories", "Cell_Phones_and_Accessories"),
    "Clothing": ("Clothing_Shoes_and_Jewelry", "Clothing_Shoes_and_Jewelry", "Clothing_Shoes_and_Jewelry"),
    "Electronics": ("Electronics", "Electronics", "Electronics"),
    "Fashion": ("AMAZON_FASHION", "Amazon_Fashion", None),
    "Food": ("Grocery_and_Gourmet_Food", "Grocery_and_Gourmet_Food", "Grocery_and_Gourmet_Food"),
    "Games": ("Video_Games", "Video_Games", "Video_Games"),
    "Garden": ("Patio_Lawn_and_Garden", "Patio_Lawn_and_Garden", "Patio_Lawn_and_Garden"),
    "Gift": ("Gift_Cards", "Gift_Cards", None),
    "Handmade": (None, "Handmade_Products", None),
    "Health": (None, "Health_and_Household", None),
    "Home": ("Home_and_Kitchen", "Home_and_Kitchen", "Home_and_Kitchen"),
    "Instruments": ("Musical_Instruments", "Musical_Instruments", "Musical_Instruments"),
    "Kindle": ("Kindle_Store", "Kindle_Store", "Kindle_Store"),
    "Luxury": ("Luxury_Beauty", None, None),
    "Magazine": ("Magazine_Subscriptions", "Magazine_Subscriptions", None),
    "Movies": ("Movies_and_TV", "Movies_and_TV", "Movies_and_TV"),
    "Music": ("Digital_Music", "Digital_Music", "Digital_Music"),
    "Office": ("Office_Products", "Office_Products", "Office_Products"),
    "Pantry": ("Prime_Pantry", None, None),
    "PersonalBeauty": (None, "Beauty_and_Personal_Care", None),
    "PersonalHealth": (None, "Health_and_Personal_Care", "Health_and_Personal_Care"),
    "Pet": ("Pet_Supplies", "Pet_Supplies", "Pet_Supplies"),
    "Scientific": ("Industrial_and_Scientific", "Industrial_and_Scientific", None),
    "Software": ("Software", "Software", None),
    "Sports": ("Sports_and_Outdoors", "Sports_and_Outdoors", "Sports_and_Outdoors"),
    "Tools": ("Tools_and_Home_Improvement", "Tools_and_Home_Improvement", "Tools_and_Home_Improvement"),
    "Toys": ("Toys_and_Games", "Toys_and_Games", "Toys_and_Games"),
    "Unknown": (None, "Unknown", None),
    "Video": (None, None, "Amazon_Instant_Video"),
}

YEARS = (2018, 2023, 2014)  # in the order of the table
PUBLISHER = "https://mcauleylab.ucsd.edu/public_datasets/data"
PUBLISHER_2014 = "https://snap.stanford.edu/data/amazon"
RATINGS_PATH = {
    2018: "amazon_v2/categoryFilesSmall/{}.csv",
    2023: "amazon_2023/benchmark/0core/rating_only/{}.csv.gz",
    2014: "productGraph/categoryFiles/reviews_{}_5.json.gz",
}
METADATA_PATH = {
    2018: "amazon_v2/metaFiles2/meta_{}.json.gz",
    2023: "amazon_2023/raw/meta_categories/meta_{}.jsonl.gz",
    2014: "productGraph/categoryFiles/meta_{}.json.gz",
}
# where a category's files may lie below --raw; the first that exists is taken
FOLDERS = {"ratings": (".", "Ratings", "ratings", "Reviews", "reviews"), "metadata": (".", "Metadata", "metadata")}
RATINGS_FILES = {
    2018: (
        *("{}.csv", "{}.csv.gz", "ratings_{}.csv", "{}.json.gz", "{}.json", "{}_5.json.gz", "{}_5.json"),
        *("reviews_{}_5.json.gz", "reviews_{}_5.json", "reviews_{}.json.gz", "reviews_{}.json"),
    ),
    2023: ("{}.csv", "{}.csv.gz", "{}.jsonl.gz", "{}.jsonl"),
    2014: (
        *("reviews_{}_5.json.gz", "reviews_{}_5.json", "reviews_{}.json.gz", "reviews_{}.json"),
        *("{}_5.json.gz", "{}_5.json", "{}.json.gz", "{}.json", "ratings_{}.csv"),
    ),
}
METADATA_FILES = {
    2018: ("meta_{}.json.gz", "meta_{}.json"),
    2023: ("meta_{}.jsonl.gz", "meta_{}.jsonl"),
    2014: ("meta_{}.json.gz", "meta_{}.json"),
}
REVIEW_FIELDS = {
    2018: ("reviewerID", "asin", "overall", "unixReviewTime"),
    2023: ("user_id", "parent_asin", "rating", "timestamp"),
}
REVIEW_FIELDS[2014] = REVIEW_FIELDS[2018]
PLAIN_COLUMNS = ("user", "item", "rating", "timestamp")
RATING_COLUMNS = {2018: PLAIN_COLUMNS, 2023: REVIEW_FIELDS[2023], 2014: PLAIN_COLUMNS}
ITEM_FIELD = {2018: "asin", 2023: "parent_asin", 2014: "asin"}
DEFAULT_FIELDS = ("title", "category", "brand")
# one name for one thing: the fields of 2018 under their names of 2023
OLD_NAMES = {"category": "categories"}  # of 2018: of 2014
FIELD_NAMES_2023: dict[str, str] = {
    "category": "categories",
    "brand": "store",
    "feature": "features",
    "main_cat": "main_category",
}


def resolve_category(name: str, year: int) -> str:
    """Return the publisher's name of a category, from its short or full name.

    >>> resolve_category("Food", 2018)
    'Grocery_and_Gourmet_Food'

    Raises
    ------
    UserError
        If there is none; it lists the names of the year.
    """
    place = YEARS.index(year)
    for short, full in CATEGORIES.items():
        known = [n.lower() for n in (short, *full) if n]
        if name.lower().replace(" ", "_") in known:
            found = full[place]
            if found:
                return found
            other = next(y for y, there in zip(YEARS, full, strict=True) if there)
            raise UserError(f"Amazon {year} has no category {name}; it is in {other}: pass --year {other}")
    names = ", ".join(short for short, full in CATEGORIES.items() if full[place])
    raise UserError(f"Amazon {year} has no category {name!r}; choose one of {names}")


def find_file(raw: Path, category: str, year: int, kind: str) -> Path:
    """Find the ratings or metadata file of a category below ``raw``.

    Raises
    ------
    UserError
        If there is none; it says what was looked for.
    """
    patterns = (RATINGS_FILES if kind == "ratings" else METADATA_FILES)[year]
    if not raw.is_dir():
        raise UserError(f"there is no folder {raw}; pass the folder of the dumps as --raw, or --download to fetch them")
    for pattern in patterns:
        for folder in FOLDERS[kind]:
            path = raw / folder / pattern.format(category)
            if path.is_file():
                return path
    names = ", ".join(pattern.format(category) for pattern in patterns)
    raise UserError(
        f"no {kind} of {category} ({year}) in {raw}: looked for {names}, also in {', '.join(FOLDERS[kind][1:])}; "
        "pass --download to fetch the files"
    )


def download_category(raw: Path, category: str, year: int, *, mirror: str | None = None, progress: bool = True) -> None:
    """Fetch the ratings and the metadata of a category to ``raw``; files that are there stay."""
    from dataset_tools.download import download

    mirror = mirror or (PUBLISHER_2014 if year == 2014 else PUBLISHER)
    for paths in (RATINGS_PATH, METADATA_PATH):
        path = paths[year].format(category)
        download(f"{mirror.rstrip('/')}/{path}", raw / path.rpartition("/")[2], progress=progress)


def read_interactions(source: Source, year: int, bad: BadLines) -> Interactions:
    """Read a ratings CSV or a review dump, whichever the file name says, into integer columns; repeated rows go."""
    import numpy as np
    import polars as pl

    from dataset_tools.interactions import Collector
    from dataset_tools.left_out import LeftOut
    from dataset_tools.sources import read_delimited, read_json_lines

    rows = Collector(np.int64, np.float32)
    if ".csv" in source.path.suffixes:
        user, item, rating, stamp = RATING_COLUMNS[year]
        types = {user: pl.String, item: pl.String, rating: pl.Float32, stamp: pl.Int64}
        if year == 2018:  # no header, and the item comes first
            types = {name: types[name] for name in (item, user, rating, stamp)}
        required = {user: "given", item: "given", rating: "a number", stamp: "a whole number"}
        for _, frame in read_delimited(source, types, bad, header=year == 2023, required=required, quoted=False):
            rows.append(frame[user], frame[item], frame[stamp].to_numpy(), frame[rating].to_numpy())
    else:
        kinds = (str, str, float, int)
        fields = dict(zip(REVIEW_FIELDS[year], kinds, strict=True))
        for _, records in read_json_lines(source, fields, bad):
            rows.append(
                pl.Series([r._0 for r in records], dtype=pl.String),
                pl.Series([r._1 for r in records], dtype=pl.String),
                np.array([r._3 for r in records], dtype=np.int64),
                np.array([r._2 for r in records], dtype=np.float32),
            )
    left = LeftOut()
    left.rows = len(rows)
    data = rows.interactions(source.path)
    data.steps[:0] = left.steps(source, bad)
    return data


def read_metadata(
    source: Source, id_field: str, fields: tuple[str, ...], item_ids: IdTable, wanted: np.ndarray, bad: BadLines
) -> tuple[np.ndarray, dict[int, str], dict[str, int]]:
    """Read the metadata once: which items are in it, and the texts of the wanted ones.

    Parameters
    ----------
    source
        JSON lines.
    id_field, fields
        Name of the id, and of the fields that make the text, in order.
    item_ids
        Codes of the items.
    wanted : array of shape (n_items,), bool
        Items whose text is kept; all others are only marked as known.
    bad
        Where broken lines go.

    Returns
    -------
    known : array of shape (n_items,), bool
    texts : dict
        Item code to text.
    counts : dict
        ``records``, and ``duplicate_records`` (of an id the first record counts).
    """
    import numpy as np
    import polars as pl

    from dataset_tools.cleaning import join_fields
    from dataset_tools.sources import read_json_lines

    rated = len(wanted)
    known = np.zeros(max(2 * rated, 1 << 16), dtype=bool)  # items without ratings get codes too, so it grows
    texts: dict[int, str] = {}
    records = repeated = 0
    # the dumps of 2014 call the categories by another name
    wanted_fields = dict.fromkeys((*fields, *(OLD_NAMES[name] for name in fields if name in OLD_NAMES)), Any)
    places = {name: f"_{place}" for place, name in enumerate(wanted_fields, start=1)}
    names = [(places[name], places.get(OLD_NAMES.get(name, name), "")) for name in fields]
    for _, block in read_json_lines(source, {id_field: str, **wanted_fields}, bad):
        if not block:
            continue
        codes = item_ids.encode(pl.Series([record._0 for record in block], dtype=pl.String))
        if len(item_ids) > len(known):
            known = np.concatenate([known, np.zeros(max(len(known), len(item_ids) - len(known)), dtype=bool)])
        fresh = np.zeros(len(codes), dtype=bool)
        fresh[np.unique(codes, return_index=True)[1]] = True
        fresh &= ~known[codes]
        known[codes] = True
        records += len(codes)
        repeated += len(codes) - int(np.count_nonzero(fresh))
        fresh &= codes < rated
        fresh[fresh] = wanted[codes[fresh]]
        for place in np.flatnonzero(fresh).tolist():
            record = block[place]
            texts[int(codes[place])] = join_fields(
                value if (value := getattr(record, name)) is not None else getattr(record, old) for name, old in names
            )
    return known, texts, {"records": records, "duplicate_records": repeated}


def build(
    ratings: Source,
    metadata: Source,
    year: int,
    *,
    user_k: int = 5,
    item_k: int = 5,
    shuffle_ties: int | None = None,
    text_fields: tuple[str, ...] = DEFAULT_FIELDS,
    bad: BadLines | None = None,
) -> tuple[Dataset, dict[str, Any]]:
    """Run the pipeline on the two files of a category.

    Returns
    -------
    dataset
    provenance : dict
        For `dataset_tools.writer.write_dataset`.
    """
    import numpy as np

    from dataset_tools import pipeline
    from dataset_tools.kcore import k_core
    from dataset_tools.sources import BadLines
    from dataset_tools.writer import provenance

    bad = bad or BadLines()
    data = read_interactions(ratings, year, bad)
    # The k-core without the metadata filter holds the one with it, so these are all texts that can be needed,
    # and the metadata, the larger file, is read once and kept in small part.
    rows = k_core(data.users, data.items, user_k, item_k)
    wanted = np.zeros(len(data.item_ids), dtype=bool)
    wanted[data.items[rows]] = True
    del rows
    fields = tuple(FIELD_NAMES_2023.get(f, f) for f in text_fields) if year == 2023 else text_fields
    known, texts, counts = read_metadata(metadata, ITEM_FIELD[year], fields, data.item_ids, wanted, bad)
    pipeline.keep_items(data, known)
    del known
    dataset = pipeline.k_core_dataset(data, texts, user_k, item_k, shuffle_ties)
    settings = {"user_k": user_k, "item_k": item_k, "shuffle_ties": shuffle_ties, "text_fields": list(fields)}
    return dataset, provenance(f"Amazon {year}", [ratings, metadata], settings, data, bad, metadata=counts)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this kind."""
    parser.add_argument(
        "category", metavar="CATEGORY", help="for example Scientific, Food, or Grocery_and_Gourmet_Food"
    )
    source = parser.add_argument_group("input")
    source.add_argument("--raw", type=Path, default=Path("raw"), help="folder of the dumps (default: raw)")
    source.add_argument("--year", type=int, choices=sorted(YEARS), default=2018, help="edition (default: %(default)s)")
    source.add_argument("--download", action="store_true", help="fetch missing files into --raw first; resumes")
    source.add_argument("--mirror", help="where --download fetches from (default: the publisher)")
    source.add_argument("--ratings", type=Path, help="ratings or reviews file, instead of looking for it in --raw")
    source.add_argument("--metadata", type=Path, help="metadata file, instead of looking for it in --raw")
    source.add_argument(
        "--text_fields",
        nargs="+",
        default=list(DEFAULT_FIELDS),
        metavar="FIELD",
        help="metadata fields that make the text, in order, such as description (default: title category brand)",
    )
    parser.add_argument("--name", help="name of the dataset (default: the category as you wrote it)")


def _read(args: argparse.Namespace, show: bool, bad: BadLines) -> tuple[Dataset, dict[str, Any]]:
    from dataset_tools.sources import Source

    category = resolve_category(args.category, args.year)
    if args.download:
        download_category(args.raw, category, args.year, mirror=args.mirror, progress=not args.quiet)
    ratings = args.ratings or find_file(args.raw, category, args.year, "ratings")
    metadata = args.metadata or find_file(args.raw, category, args.year, "metadata")
    if not args.quiet:
        print(f"ratings: {ratings}\nmetadata: {metadata}", file=sys.stderr)
    return build(
        Source(ratings, show, args.quiet),
        Source(metadata, show, args.quiet),
        args.year,
        user_k=args.user_k,
        item_k=args.item_k,
        shuffle_ties=args.shuffle_ties,
        text_fields=tuple(args.text_fields),
        bad=bad,
    )


KIND = Kind(
    tool="amazon",
    usage="CATEGORY [--raw DIR]",
    description=(
        "Turn a category of the Amazon review data into a dataset for RecBole and UniSRec. "
        "It takes two files as the publisher has them: the ratings (CSV, or the JSON reviews) and the metadata of "
        "the products. Ratings of products without metadata go, then users and products with fewer than "
        "five ratings, again and again until all have five; each user's ratings are sorted by time (ties keep the "
        "order of the file); the text of a product is its title, category and brand."
    ),
    epilog=(
        "examples:\n"
        "  python -m dataset_tools.amazon Scientific --raw dumps --download\n"
        "  python -m dataset_tools.amazon Scientific --raw dumps --year 2023 --name Scientific23\n"
        "  python -m dataset_tools.amazon Pantry --raw dumps --benchmark_splits --encoder minilm\n\n"
        "categories (or the publisher's full names):\n"
        + textwrap.fill(", ".join(CATEGORIES), 100, initial_indent="  ", subsequent_indent="  ")
    ),
    options=add_options,
    read=_read,
    name=lambda args: args.name or args.category.replace(" ", "_"),
)
main = KIND.main

if __name__ == "__main__":
    sys.exit(run_cli(main))
