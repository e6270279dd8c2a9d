"""Write Amazon-like dumps in the exact raw formats, any size, seeded: the same arguments give the same bytes.

    python benchmarks/generate_dumps.py --out dumps --ratings 5000000 --items 300000

writes ``Ratings/Industrial_and_Scientific.csv`` (``item,user,rating,timestamp``, sorted by item as the publisher's
files are) and ``Metadata/meta_Industrial_and_Scientific.json.gz``. ``--year 2023`` writes the 2023 forms instead
(``Industrial_and_Scientific.csv`` with a header, times in milliseconds, and ``meta_....jsonl.gz``). Both the
project's tool and the authors' scripts read the 2018 layout.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
from isal import igzip

WORDS = (  # noqa: SIM905
    "Digital Industrial Stainless Steel Adhesive Thread Precision Laboratory Glass Safety Rubber Nylon Brass Copper "
    "Heavy Duty Micro Filter Sensor Cable Clamp Bearing Valve Hose Tape Glove Mask Plate Screw Washer Nut Bolt "
    "Connector Adapter Gauge Meter Probe Pump Motor Switch Relay Lamp Black White Blue Red Pack Inch Foot Ounce"
).split()
SECTIONS = ["Abrasive & Finishing Products", "Tapes, Adhesives & Sealants", "Test, Measure & Inspect", "Fasteners"]
ALPHABET = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)


def make_ids(first: str, codes: np.ndarray, width: int) -> pl.Series:
    """Distinct ids such as ``A0K3...``: the code, scrambled by an odd multiplier, in base 36."""
    scrambled = codes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) % np.uint64(36 ** min(width, 12))
    digits = np.full((len(codes), len(first) + width), ord("0"), dtype=np.uint8)
    digits[:, : len(first)] = np.frombuffer(first.encode(), dtype=np.uint8)
    for place in range(min(width, 12)):
        digits[:, -1 - place] = ALPHABET[scrambled % np.uint64(36)]
        scrambled //= np.uint64(36)
    return pl.Series(digits.view(f"S{digits.shape[1]}").ravel().astype(f"U{digits.shape[1]}").tolist())


def distinct_ids(first: str, count: int, width: int) -> pl.Series:
    """Return ``count`` distinct ids; the few that collide after scrambling are replaced by plain numbers."""
    parts = [make_ids(first, np.arange(a, min(a + 1_000_000, count)), width) for a in range(0, count, 1_000_000)]
    ids = pl.concat(parts)
    clash = ids.is_first_distinct().not_().to_numpy()
    if clash.any():
        plain = pl.Series([f"{first[0]}Z{number:0{width + len(first) - 2}d}" for number in range(int(clash.sum()))])
        ids = ids.scatter(np.flatnonzero(clash), plain)
    return ids


def write_ratings(path: Path, ratings: int, items: pl.Series, year: int, rng: np.random.Generator) -> None:
    """Write the ratings in blocks of items, so that any size fits in memory."""
    users = distinct_ids("A" if year == 2018 else "AE", max(ratings // 3, 10), 12 if year == 2018 else 26)
    # long tails on both sides: a few items with thousands of ratings, most users with one or two
    weight = 1.0 / (np.arange(len(items)) + 20.0) ** 0.9
    per_item = rng.multinomial(ratings, weight / weight.sum())
    order = rng.permutation(len(items))
    with open(path, "wb") as out:
        if year == 2023:
            out.write(b"user_id,parent_asin,rating,timestamp\n")
        for block in np.array_split(order, max(ratings // 1_000_000, 1)):
            item = np.repeat(block, per_item[block])
            user = np.minimum((len(users) * rng.random(len(item)) ** 3).astype(np.int64), len(users) - 1)
            day = rng.integers(14_000, 17_800, len(item)) * 86_400
            stars = rng.choice([1.0, 2.0, 3.0, 4.0, 5.0], len(item), p=[0.08, 0.05, 0.09, 0.18, 0.6])
            # one row in two hundred is there twice, as in the publisher's files
            twice = np.sort(np.concatenate([np.arange(len(item)), np.flatnonzero(rng.random(len(item)) < 0.005)]))
            item, user, day, stars = item[twice], user[twice], day[twice], stars[twice]
            if year == 2023:
                day = day * 1000 + rng.integers(0, 86_400_000, len(day))
            columns = {"item": items.gather(item), "user": users.gather(user), "rating": stars, "time": day}
            if year == 2023:
                columns = {key: columns[key] for key in ("user", "item", "rating", "time")}
            pl.DataFrame(columns).write_csv(out, include_header=False)


def write_metadata(path: Path, items: pl.Series, year: int, rng: np.random.Generator) -> None:
    """Write one JSON object a line with the publisher's fields, about 1.5 kB each, for 97 items in a hundred."""
    with igzip.open(path, "wb", compresslevel=1) as out:
        for start in range(0, len(items), 10_000):
            lines = []
            for item in items[start : start + 10_000].to_list():
                if rng.random() < 0.03:
                    continue
                picks = rng.integers(0, len(WORDS), 90)
                words = [WORDS[p] for p in picks]
                title = " ".join(words[: 4 + picks[0] % 12])
                brand = f"{words[20]} & {words[21]}"
                if year == 2018:
                    title = title.replace("Inch", "&quot;Inch&quot;")
                    record = {
                        "category": ["Industrial &amp; Scientific", SECTIONS[picks[1] % 4], words[22]],
                        "tech1": "",
                        "description": [" ".join(words[20:60]), " ".join(words[30:80])],
                        "fit": "",
                        "title": title,
                        "also_buy": [f"B00{p:07d}" for p in picks[:20]],
                        "tech2": "",
                        "brand": brand,
                        "feature": [" ".join(words[60:75]), " ".join(words[70:90])],
                        "rank": f">#{picks[2]:,} in Industrial & Scientific",
                        "also_view": [],
                        "details": {"Shipping Weight:": "0.5 ounces", "ASIN: ": item},
                        "main_cat": words[3],
                        "similar_item": "",
                        "date": "",
                        "price": "$5.99",
                        "asin": item,
                        "imageURL": [
                            f"https://images-na.ssl-images-amazon.com/images/I/{p:09d}.jpg" for p in picks[:3]
                        ],
                        "imageURLHighRes": [],
                    }
                else:
                    record = {
                        "main_category": "Industrial & Scientific",
                        "title": title,
                        "average_rating": 4.1,
                        "rating_number": int(picks[3]),
                        "features": [" ".join(words[60:75])],
                        "description": [" ".join(words[20:60])],
                        "price": None,
                        "images": [],
                        "videos": [],
                        "store": brand,
                        "categories": ["Industrial & Scientific", SECTIONS[picks[1] % 4], words[22]],
                        "details": {"Item Weight": "0.5 ounces"},
                        "parent_asin": item,
                        "bought_together": None,
                    }
                lines.append(json.dumps(record))
            out.write(("\n".join(lines) + "\n").encode())


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--ratings", type=int, default=1_000_000, help="number of ratings (default: %(default)s)")
    parser.add_argument("--items", type=int, default=None, help="metadata records (default: ratings * 0.06)")
    parser.add_argument("--year", type=int, choices=(2018, 2023), default=2018, help="format (default: %(default)s)")
    parser.add_argument("--category", default="Industrial_and_Scientific", help="file name (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    rng = np.random.default_rng(args.seed)
    (args.out / "Ratings").mkdir(parents=True, exist_ok=True)
    (args.out / "Metadata").mkdir(parents=True, exist_ok=True)
    items = distinct_ids("B0", args.items or max(int(args.ratings * 0.06), 10), 8)
    suffix = "json" if args.year == 2018 else "jsonl"
    write_metadata(args.out / "Metadata" / f"meta_{args.category}.{suffix}.gz", items, args.year, rng)
    write_ratings(args.out / "Ratings" / f"{args.category}.csv", args.ratings, items, args.year, rng)
    return 0


if __name__ == "__main__":
    sys.exit(main())
