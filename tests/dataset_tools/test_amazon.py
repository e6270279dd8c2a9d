"""Amazon dumps: the published sets come out of their raw data, and bad dumps end in one clear sentence."""

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataset_tools import amazon
from dataset_tools.common import UserError, run_cli
from dataset_tools.sources import BadLines, Source

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"


def need(folder):
    path = SHARED / folder
    if not path.exists():
        pytest.skip(f"the real data ({folder}) is not here")
    return path


def lines_of(path):
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    return text.removesuffix("\n").split("\n")


def run(capsys, *arguments):
    """Run the command; return (status, stderr)."""
    status = run_cli(amazon.main, [str(a) for a in arguments])
    return status, capsys.readouterr().err


def toy(users=6, items=6):
    """Every user has every item, at times that count down, so that file order and time order differ."""
    return [(f"U{u}", f"I{i}", 5.0, 1000 - i) for u in range(users) for i in range(items)]


def write_2018(raw, rows, metas=None, category="Gift_Cards"):
    raw.mkdir(exist_ok=True, parents=True)
    text = "".join(f"{i},{u},{r},{t}\n" for u, i, r, t in rows)
    (raw / f"{category}.csv").write_text(text)
    if metas is None:
        metas = [{"asin": i, "title": f"Title {i}", "category": ["A", "B"], "brand": "Br"} for i in _items(rows)]
    with gzip.open(raw / f"meta_{category}.json.gz", "wt") as out:
        out.writelines(json.dumps(meta) + "\n" for meta in metas)


def _items(rows):
    return sorted({row[1] for row in rows})


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# the real sets


def test_the_official_scientific_set_comes_back(tmp_path, capsys):
    official = need("Scientific")
    users = [line.split("\t")[0] for line in lines_of(official / "Scientific.user2index")]
    items = [line.split("\t")[0] for line in lines_of(official / "Scientific.item2index")]
    sequences = {}
    # histories are cut to the last 50, so the longest chain of a user is pieced together from all rows
    chains = [[] for _ in users]
    for part in ("train", "valid", "test"):
        rows = [line.split("\t") for line in lines_of(official / f"Scientific.{part}.inter")][1:]
        for user, history, target in reversed(rows) if part == "train" else rows:
            chain = chains[int(user)]
            if not chain:
                chain += history.split()
            chain.append(target)
    # the train rows come longest first, so reversed they grow by one target each
    raw = tmp_path / "raw"
    (raw / "Ratings").mkdir(parents=True)
    (raw / "Metadata").mkdir()
    with open(raw / "Ratings" / "Industrial_and_Scientific.csv", "w") as out:
        for user, chain in enumerate(chains):
            sequences[user] = chain
            # pairs of equal times, so that the order of the file has to settle ties
            for place, item in enumerate(chain):
                # (the ratings differ: a user may take an item twice in a row)
                stamp = 1_400_000_000 + place // 2 * 86_400
                out.write(f"{items[int(item)]},{users[user]},{place % 5 + 1}.0,{stamp}\n")
            # rows that the filters must take out: a rare item, an item without metadata, a user with one rating
            out.write(f"RARE{user:06d},{users[user]},1.0,1500000000\nNOMETA,{users[user]},5.0,1\n")
            out.write(f"{items[0]},ONCE{user},5.0,2\n")
    with open(official / "Scientific.text", encoding="utf-8") as file:
        texts = dict(line.rstrip("\n").split("\t", 1) for line in file)
    del texts["item_id:token"]
    with gzip.open(raw / "Metadata" / "meta_Industrial_and_Scientific.json.gz", "wt", compresslevel=1) as out:
        for item, text in texts.items():
            title = text.rstrip(" ").removesuffix(".") + "..."
            out.write(json.dumps({"asin": item, "title": title.replace("&", "&amp;"), "price": "$1"}) + "\n")
        for user in range(0, len(users), 2):
            out.write(json.dumps({"asin": f"RARE{user:06d}", "title": "rare"}) + "\n")
    status, _ = run(capsys, "Scientific", "--raw", raw, "--out", tmp_path / "out", "--benchmark_splits", "--quiet")
    assert status == 0
    folder = tmp_path / "out" / "Scientific"
    for part in ("train.inter", "valid.inter", "test.inter", "user2index", "item2index"):
        ours, theirs = (folder / f"Scientific.{part}").read_bytes(), (official / f"Scientific.{part}").read_bytes()
        assert ours == theirs, part
    ours = dict(line.split("\t", 1) for line in lines_of(folder / "Scientific.text"))
    assert {item: ours[item] for item in texts} == texts
    record = json.loads((folder / "Scientific.json").read_text())
    assert record["counts"]["users"] == 8442
    assert record["counts"]["items"] == 4385
    # and RecBole's standard file holds the same sequences under the raw ids
    again = {}
    for line in lines_of(folder / "Scientific.inter")[1:]:
        user, item, _ = line.split("\t")
        again.setdefault(user, []).append(item)
    assert again == {users[u]: [items[int(i)] for i in chain] for u, chain in sequences.items()}


def test_the_real_gift_cards_dump(tmp_path, capsys):
    raw = need("amazon2018_raw")
    status, _ = run(capsys, "Gift", "--raw", raw, "--out", tmp_path, "--quiet")
    assert status == 0
    record = json.loads((tmp_path / "Gift" / "Gift.json").read_text())
    assert [(s["step"], s["interactions"], s["users"], s["items"]) for s in record["steps"]] == [
        ("read", 2972, 458, 148),
        ("duplicates removed", 2969, 458, 148),
        ("items without metadata removed", 2969, 458, 148),
        ("k-core pass 1", 2957, 456, 147),
        ("k-core pass 2", 2949, 454, 147),
        ("k-core", 2949, 454, 147),
    ]
    assert record["metadata"]["records"] == 1547
    # each step once more, the long way
    rows, lines = {}, lines_of(raw / "Gift_Cards_5.json.gz")
    for line in lines:
        r = json.loads(line)
        rows[r["reviewerID"], r["asin"], r["overall"], r["unixReviewTime"]] = None
    metas = {}
    for line in lines_of(raw / "meta_Gift_Cards.json.gz"):
        meta = json.loads(line)
        metas.setdefault(meta["asin"], meta)
    kept = [row for row in rows if row[1] in metas]
    assert (len(lines), len(rows), len(kept)) == (2972, 2969, 2969)
    while True:
        users, items = [row[0] for row in kept], [row[1] for row in kept]
        good = {u for u in set(users) if users.count(u) >= 5}, {i for i in set(items) if items.count(i) >= 5}
        smaller = [row for row in kept if row[0] in good[0] and row[1] in good[1]]
        if len(smaller) == len(kept):
            break
        kept = smaller
    expected = {}
    for user, item, _, stamp in kept:
        expected.setdefault(user, []).append((item, stamp))
    found = {}
    for line in (tmp_path / "Gift" / "Gift.inter").read_text().splitlines()[1:]:
        user, item, stamp = line.split("\t")
        found.setdefault(user, []).append((item, int(stamp)))
    assert found == {user: sorted(own, key=lambda pair: pair[1]) for user, own in expected.items()}
    # the texts of the simple cases, from the fields as they are
    texts = dict(line.split("\t") for line in (tmp_path / "Gift" / "Gift.text").read_text().splitlines())
    checked = 0
    for item in texts:
        if item in metas and "&" not in (title := metas[item]["title"]) and '"' not in title and title[-1:] != ".":
            category, brand = " ".join(metas[item]["category"]), metas[item]["brand"]
            if "&" not in category + brand and '"' not in category + brand:
                assert texts[item] == f"{title}. {category}. {brand.rstrip('.')}. "
                checked += 1
    assert checked > 100
    source = raw / "Gift_Cards_5.json.gz"
    assert record["sources"][0] == {
        "file": source.name,
        "bytes": source.stat().st_size,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }


# formats


def test_reviews_and_ratings_give_the_same_files(tmp_path, capsys):
    rows = toy()
    write_2018(tmp_path / "csv", rows)
    write_2018(tmp_path / "json", rows)
    (tmp_path / "json" / "Gift_Cards.csv").unlink()
    with gzip.open(tmp_path / "json" / "Gift_Cards.json.gz", "wt") as out:
        for u, i, r, t in rows:
            review = {"overall": r, "verified": True, "reviewerID": u, "asin": i, "unixReviewTime": t, "vote": "2"}
            out.write(json.dumps(review) + "\n")
    for kind in ("csv", "json"):
        assert run(capsys, "Gift", "--raw", tmp_path / kind, "--out", tmp_path / f"out_{kind}")[0] == 0
    one, two = content(tmp_path / "out_csv" / "Gift"), content(tmp_path / "out_json" / "Gift")
    assert one.pop("Gift.json") != two.pop("Gift.json")
    assert one == two
    lines = one["Gift.inter"].decode().splitlines()
    assert lines[1:7] == [f"U0\tI{i}\t{1000 - i}" for i in (5, 4, 3, 2, 1, 0)]
    assert one["Gift.item"].decode().splitlines()[1] == "I5\tTitle I5. A B. Br. "


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl.gz"])
def test_2023(tmp_path, capsys, kind):
    rows = toy()
    if kind == "jsonl.gz":
        lines = [
            json.dumps({"rating": r, "title": "x", "asin": "other", "parent_asin": i, "user_id": u, "timestamp": t})
            for u, i, r, t in rows
        ]
    else:
        lines = ["user_id,parent_asin,rating,timestamp", *(f"{u},{i},{r},{t}" for u, i, r, t in rows)]
    with (gzip.open if kind.endswith("gz") else open)(tmp_path / f"Gift_Cards.{kind}", "wt") as out:
        out.write("\n".join(lines) + "\n")
    with gzip.open(tmp_path / "meta_Gift_Cards.jsonl.gz", "wt") as out:
        for i in _items(rows):
            meta = {"parent_asin": i, "title": f"T{i}", "categories": ["A"], "store": None, "features": ["soft", "red"]}
            out.write(json.dumps(meta) + "\n")
    arguments = ["Gift", "--raw", tmp_path, "--out", tmp_path / "out", "--year", 2023]
    assert run(capsys, *arguments)[0] == 0
    text = (tmp_path / "out" / "Gift" / "Gift.text").read_text().splitlines()
    assert text[1] == "I5\tTI5. A. "
    assert run(capsys, *arguments, "--overwrite", "--text_fields", "title", "feature")[0] == 0
    text = (tmp_path / "out" / "Gift" / "Gift.text").read_text().splitlines()
    assert text[1] == "I5\tTI5. soft red. "


def test_two_runs_give_the_same_bytes(tmp_path, capsys):
    write_2018(tmp_path / "raw", [(u, i, r, 7) for u, i, r, _ in toy(40, 30)])  # nothing but ties
    for out in ("one", "two"):
        assert run(capsys, "Gift", "--raw", tmp_path / "raw", "--out", tmp_path / out, "--benchmark_splits")[0] == 0
    assert content(tmp_path / "one" / "Gift") == content(tmp_path / "two" / "Gift")


def test_blocks_do_not_matter(tmp_path, monkeypatch):
    write_2018(tmp_path, toy(9, 7))
    whole = amazon.build(Source(tmp_path / "Gift_Cards.csv"), Source(tmp_path / "meta_Gift_Cards.json.gz"), 2018)
    blocks = Source.blocks
    monkeypatch.setattr(Source, "blocks", lambda self, size=0, quoted=False: blocks(self, 64, quoted))
    small = amazon.build(Source(tmp_path / "Gift_Cards.csv"), Source(tmp_path / "meta_Gift_Cards.json.gz"), 2018)
    assert whole[0].items.tolist() == small[0].items.tolist()
    assert whole[0].texts == small[0].texts
    assert whole[1] == small[1]
    assert whole[1]["sources"][0]["sha256"] == hashlib.sha256((tmp_path / "Gift_Cards.csv").read_bytes()).hexdigest()


def test_categories():
    assert amazon.resolve_category("Scientific", 2018) == "Industrial_and_Scientific"
    assert amazon.resolve_category("grocery_and_gourmet_food", 2023) == "Grocery_and_Gourmet_Food"
    assert amazon.resolve_category("Fashion", 2018) == "AMAZON_FASHION"
    assert amazon.resolve_category("Amazon_Fashion", 2023) == "Amazon_Fashion"
    assert amazon.resolve_category("Handmade", 2023) == "Handmade_Products"
    with pytest.raises(UserError, match="--year 2018"):
        amazon.resolve_category("Pantry", 2023)
    with pytest.raises(UserError, match="Scientific"):
        amazon.resolve_category("Cars", 2018)
    assert sum(full[0] is not None for full in amazon.CATEGORIES.values()) == 29
    assert sum(full[1] is not None for full in amazon.CATEGORIES.values()) == 34
    for paper in "Food Home CDs Kindle Movies Pantry Scientific Instruments Arts Office".split():  # noqa: SIM905
        assert amazon.resolve_category(paper, 2018)


# bad input


def fails(capsys, tmp_path, *more, pattern):
    status, err = run(capsys, "Gift", "--raw", tmp_path, "--out", tmp_path / "out", *more)
    assert status == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(pattern, last), last
    left = list((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else []
    assert left == []


def test_truncated_gzip(tmp_path, capsys):
    write_2018(tmp_path, toy())
    path = tmp_path / "meta_Gift_Cards.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    fails(capsys, tmp_path, pattern=r"meta_Gift_Cards.json.gz is cut short .*download it again")


def test_damaged_gzip(tmp_path, capsys):
    write_2018(tmp_path, toy())
    (tmp_path / "meta_Gift_Cards.json.gz").write_bytes(b"this is no gzip file at all")
    fails(capsys, tmp_path, pattern=r"meta_Gift_Cards.json.gz is damaged")


def test_broken_json_lines_are_counted_and_shown(tmp_path, capsys):
    rows = toy()
    write_2018(tmp_path, rows)
    path = tmp_path / "meta_Gift_Cards.json.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    lines[2:2] = [b'{"asin": "I0", "title": ', b"not json", b'{"title": "no id"}', b""]
    lines.append(b'{"asin": "I6", "title": "caf\xe9", "price": NaN}')
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    with open(tmp_path / "Gift_Cards.csv", "a") as out:
        out.writelines(f"I6,U{u},5.0,9\n" for u in range(6))
    status, err = run(capsys, "Gift", "--raw", tmp_path, "--out", tmp_path / "out")
    assert status == 0
    assert "skipped meta_Gift_Cards.json.gz, line 3" in err
    assert "line 4" in err
    assert "asin" in err
    folder = tmp_path / "out" / "Gift"
    assert json.loads((folder / "Gift.json").read_text())["bad_lines"] == {"meta_Gift_Cards.json.gz": 3}
    assert "I6\tcaf\ufffd. " in (folder / "Gift.text").read_text().splitlines()
    shutil.rmtree(tmp_path / "out")
    fails(capsys, tmp_path, "--max_bad_lines", 2, pattern="more than 2 lines")


def test_bad_ratings(tmp_path, capsys):
    write_2018(tmp_path, toy())
    bad = [b"I0,U0,5.0", b"I0,U0,five,3", b"I0,U0,5.0,soon", b"I0,U0,5.0,3,more", b"I\xff,U0,5.0,3", b"", b",U0,5.0,3"]
    text = (tmp_path / "Gift_Cards.csv").read_bytes()
    (tmp_path / "Gift_Cards.csv").write_bytes(text + b"\n".join(bad) + b"\n")
    status, err = run(capsys, "Gift", "--raw", tmp_path, "--out", tmp_path / "out")
    assert status == 0
    assert "3 columns where 4 are due" in err
    assert "5 columns where 4 are due" in err
    assert "rating is not a number" in err
    record = json.loads((tmp_path / "out" / "Gift" / "Gift.json").read_text())
    steps = [(step["step"], step["interactions"]) for step in record["steps"]]
    assert steps[:3] == [("rows of Gift_Cards.csv", 42), ("rows that cannot be read left out", 36), ("read", 36)]
    assert record["bad_lines"] == {"Gift_Cards.csv": 6}
    # lines of a wrong shape are told first, then those with a wrong value; five are shown
    shown = re.findall(r"skipped Gift_Cards.csv, line (\d+)", err)
    assert shown == ["37", "40", "41", "38", "39"]
    shutil.rmtree(tmp_path / "out")
    fails(capsys, tmp_path, "--max_bad_lines", 5, pattern="more than 5")


def test_windows_line_ends(tmp_path, capsys):
    write_2018(tmp_path, toy())
    path = tmp_path / "Gift_Cards.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    status, err = run(capsys, "Gift", "--raw", tmp_path, "--out", tmp_path / "out")
    assert status == 0
    assert "skipped" not in err


def test_missing_column(tmp_path, capsys):
    write_2018(tmp_path, toy())
    (tmp_path / "Gift_Cards.csv").write_text("user_id,item,rating,timestamp\nU,I,5,1\n")
    (tmp_path / "meta_Gift_Cards.json.gz").rename(tmp_path / "meta_Gift_Cards.jsonl.gz")
    fails(
        capsys,
        tmp_path,
        "--year",
        2023,
        pattern="has no column parent_asin; its columns are user_id, item, rating, timestamp",
    )


def test_another_kind_of_json_is_told_by_its_fields(tmp_path, capsys):
    write_2018(tmp_path, toy())
    metadata = tmp_path / "meta_Gift_Cards.json.gz"
    fails(
        capsys,
        tmp_path,
        "--ratings",
        metadata,
        pattern="has no field reviewerID, overall, unixReviewTime; its fields are asin, title",
    )


def test_duplicate_metadata_first_wins(tmp_path, capsys):
    rows = toy()
    metas = [{"asin": i, "title": f"First {i}"} for i in _items(rows)]
    metas += [{"asin": i, "title": f"Second {i}"} for i in _items(rows)] + [{"asin": "Z"}, {"asin": "Z"}]
    write_2018(tmp_path, rows, metas)
    assert run(capsys, "Gift", "--raw", tmp_path, "--out", tmp_path / "out")[0] == 0
    folder = tmp_path / "out" / "Gift"
    assert "Second" not in (folder / "Gift.text").read_text()
    record = json.loads((folder / "Gift.json").read_text())
    assert record["metadata"] == {"records": 14, "duplicate_records": 7}


def test_no_metadata_in_common(tmp_path, capsys):
    write_2018(tmp_path, toy(), [{"asin": "elsewhere", "title": "x"}])
    fails(capsys, tmp_path, pattern="none of the 36 interactions .* metadata")


def test_empty_after_the_k_core(tmp_path, capsys):
    write_2018(tmp_path, toy(3, 6))
    fails(capsys, tmp_path, pattern=r"empty after pass 1 of the k-core .*largest k that leaves something is 3")


def test_empty_files(tmp_path, capsys):
    write_2018(tmp_path, toy())
    (tmp_path / "Gift_Cards.csv").write_text("")
    fails(capsys, tmp_path, pattern="holds no interaction")


def test_empty_texts_are_said(tmp_path, capsys):
    rows = toy()
    titles = dict.fromkeys(_items(rows), "") | {"I0": "Card"}
    write_2018(tmp_path, rows, [{"asin": i, "title": title, "category": []} for i, title in titles.items()])
    status, err = run(capsys, "Gift", "--raw", tmp_path, "--out", tmp_path / "out")
    assert status == 0
    assert "5 of 6 item texts are empty after cleaning" in err
    assert (tmp_path / "out" / "Gift" / "Gift.text").read_text().splitlines()[1] == "I5\t. . "


def test_nothing_there(tmp_path, capsys):
    fails(capsys, tmp_path, pattern="looked for Gift_Cards.csv.*--download")
    fails(capsys, tmp_path / "none", pattern="there is no folder")


def test_existing_folder(tmp_path, capsys):
    write_2018(tmp_path, toy())
    assert run(capsys, "Gift", "--raw", tmp_path, "--out", tmp_path / "out")[0] == 0
    before = content(tmp_path / "out" / "Gift")
    status, err = run(capsys, "Gift", "--raw", tmp_path, "--out", tmp_path / "out")
    assert status == 1
    assert "--overwrite" in err
    # a run that fails half-way leaves the old dataset
    write_2018(tmp_path, toy(), [{"asin": "elsewhere"}])
    assert run(capsys, "Gift", "--raw", tmp_path, "--out", tmp_path / "out", "--overwrite")[0] == 1
    assert content(tmp_path / "out" / "Gift") == before


def test_a_disk_that_fills_up(tmp_path):
    """The system itself refuses to write on: no file may grow beyond 20 kB."""
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")
    write_2018(tmp_path, toy(60, 40))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dataset_tools.amazon", "Gift", "--raw", str(tmp_path), "--out", str(out)]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    assert subprocess.run(command, **options).returncode == 0
    before = content(out / "Gift")
    limit = (20_000, 20_000)
    done = subprocess.run(
        [*command, "--overwrite", "--quiet"],
        **options,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: could not write")
    assert "free some space" in done.stderr
    assert done.stderr.count("\n") == 1
    assert content(out / "Gift") == before
    assert [path.name for path in out.iterdir()] == ["Gift"]


def test_no_largest_k_of_items_without_metadata(tmp_path, capsys):
    # a dense block of items without metadata must not raise the k that is recommended
    known = [(f"U{u}", f"I{i}", 5.0, i) for u in range(2) for i in range(2)]
    write_2018(tmp_path, known + [(f"U{u}", f"X{i}", 5.0, i) for u in range(4) for i in range(4)], [
        {"asin": "I0"}, {"asin": "I1"},
    ])  # fmt: skip
    fails(capsys, tmp_path, pattern="largest k that leaves something is 2 ")


def test_cut_in_the_first_block_says_no_line(tmp_path, capsys):
    write_2018(tmp_path, toy())
    with gzip.open(tmp_path / "Gift_Cards.csv.gz", "wb") as out:
        out.write((tmp_path / "Gift_Cards.csv").read_bytes())
    (tmp_path / "Gift_Cards.csv").unlink()
    path = tmp_path / "Gift_Cards.csv.gz"
    path.write_bytes(path.read_bytes()[:-9])
    fails(capsys, tmp_path, pattern="Gift_Cards.csv.gz is cut short near its beginning; download it again")


def test_an_empty_item_is_named_as_the_dump_names_it(tmp_path, capsys):
    write_2018(tmp_path, toy())
    with open(tmp_path / "Gift_Cards.csv", "a") as out:
        out.write(",U0,5.0,3\n")
    status, err = run(capsys, "Gift", "--raw", tmp_path, "--out", tmp_path / "out")
    assert status == 0
    assert "line 37: item is not given" in err


def test_bad_lines_shows_only_the_first(capsys):
    bad = BadLines(limit=8, shown=2)
    for number in range(8):
        bad.add("f", number, "odd", b"\xff" * 500)
    assert capsys.readouterr().err.count("skipped f") == 2
    with pytest.raises(UserError, match="more than 8"):
        bad.add("f", 9, "odd", "x")


# the dumps of 2014


@pytest.mark.parametrize("year", [2014, 2018])
def test_2014(tmp_path, capsys, year):
    rows = toy()
    with gzip.open(tmp_path / "reviews_Toys_and_Games_5.json.gz", "wt") as out:
        for u, i, r, t in rows:
            out.write(
                json.dumps({"reviewerID": u, "asin": i, "overall": r, "unixReviewTime": t, "helpful": [0, 0]}) + "\n"
            )
    with gzip.open(tmp_path / "meta_Toys_and_Games.json.gz", "wt") as out:
        for i in _items(rows):
            out.write(str({"asin": i, "title": f'It\'s a "T" {i}', "brand": "Br", "categories": [["A", "B"]]}) + "\n")
        out.write("{'asin': 'X', 'title': open('gone', 'w')}\n")
    status, err = run(capsys, "Toys", "--raw", tmp_path, "--out", tmp_path / "out", "--year", year)
    assert status == 0
    assert "Python dicts, not JSON" in err
    assert "1 lines of meta_Toys_and_Games.json.gz could not be read" in err
    text = (tmp_path / "out" / "Toys" / "Toys.text").read_text().splitlines()
    assert text[1] == "I5\tIt's a T I5. A B. Br. "
    assert not Path("gone").exists()


def test_ratings_of_2014_name_the_user_first(tmp_path, capsys):
    rows = toy()
    (tmp_path / "ratings_Baby.csv").write_text("".join(f"{u},{i},{r},{t}\n" for u, i, r, t in rows))
    (tmp_path / "meta_Baby.json").write_text("".join(json.dumps({"asin": i, "title": i}) + "\n" for i in _items(rows)))
    assert run(capsys, "Baby", "--raw", tmp_path, "--out", tmp_path / "out", "--year", 2014)[0] == 0
    assert (tmp_path / "out" / "Baby" / "Baby.inter").read_text().splitlines()[1] == "U0\tI5\t995"


def test_shared_case_2014(shared, tmp_path, capsys):
    status, _ = run(capsys, "Toys", "--raw", shared / "cases" / "amazon2014", "--out", tmp_path)
    assert status == 0
    counts = json.loads((tmp_path / "Toys" / "Toys.json").read_text())["counts"]
    assert (counts["interactions"], counts["users"], counts["items"]) == (237, 30, 15)
    assert "Toys Games. Acme." in (tmp_path / "Toys" / "Toys.item").read_text()
