"""Property files as people write them: the same users, items, pairs and order as RecBole's ``SequentialDataset``."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.config import Config
from recbole.data.dataset import SequentialDataset

from recbole_unisrec.data.dataset import SequenceDataset, needs_recbole
from recbole_unisrec.errors import UserError

NAMES = {"user": "user_id", "item": "item_id", "time": "timestamp", "tab": "\t", "blank": " "}
OTHER_NAMES = {"user": "visitor", "item": "product", "time": "at", "tab": ",", "blank": ";"}
FIELDS = {
    "USER_ID_FIELD": "visitor", "ITEM_ID_FIELD": "product", "TIME_FIELD": "at", "field_separator": ",",
    "seq_separator": ";",
}  # fmt: skip


def write(folder: Path, names: dict[str, str] = NAMES, seed: int = 0) -> Path:
    """Ratings with repeated pairs, users and items files that lack some and have others, all in random order."""
    rng = np.random.default_rng(seed)
    n, tab, blank = 400, names["tab"], names["blank"]
    folder.mkdir(parents=True)
    head = [
        f"{names['user']}:token",
        f"{names['item']}:token",
        "rating:float",
        f"{names['time']}:float",
        "device:token",
    ]
    rows = [
        [f"u{rng.integers(30)}", f"i{rng.integers(25)}", str(rng.integers(1, 6)), str(rng.integers(1000)), "phone"]
        for _ in range(n)
    ]
    lines = [head, *rows]
    (folder / f"{folder.name}.inter").write_text("\n".join(tab.join(line) for line in lines) + "\n")
    items = [[f"{names['item']}:token", "title:token_seq", "brand:token", "price:float"]]
    items += [[f"i{i}", f"red{blank}chair", f"b{i % 3}", str(i)] for i in rng.permutation(range(3, 30))]
    (folder / f"{folder.name}.item").write_text("\n".join(tab.join(line) for line in items) + "\n")
    users = [[f"{names['user']}:token", "age:float"], *([f"u{u}", str(20 + u)] for u in rng.permutation(28))]
    (folder / f"{folder.name}.user").write_text("\n".join(tab.join(line) for line in users) + "\n")
    return folder


def built(kind: type, model: str, folder: Path, settings: dict[str, Any]) -> Any:
    config = Config(model=model, dataset=folder.name, config_dict={
        "data_path": str(folder.parent), "train_neg_sample_args": None, "use_gpu": False, **settings,
    })  # fmt: skip
    dataset = kind(config)
    return dataset, dataset.build()


def rows_of(dataset: Any) -> list[tuple[str, list[str], str]]:
    """Users, prefixes and next items of a built part, as tokens."""
    feat = dataset.inter_feat
    users, items = (dataset.field2id_token[f][feat[f].numpy()] for f in (dataset.uid_field, dataset.iid_field))
    lists = dataset.field2id_token[dataset.iid_field][feat[f"{dataset.iid_field}_list"].numpy()]
    lengths = feat[dataset.item_list_length_field].tolist()
    return [(u, list(p[:n]), i) for u, p, n, i in zip(users, lists, lengths, items, strict=True)]


def equal(folder: Path, settings: dict[str, Any]) -> tuple[int, int]:
    """Check them all; gives the numbers of users and items."""
    theirs, expected = built(SequentialDataset, "SASRec", folder, settings)
    ours, found = built(SequenceDataset, "SASRecPacked", folder, settings)
    for field in (ours.uid_field, ours.iid_field):
        assert list(ours.field2id_token[field]) == list(theirs.field2id_token[field])
    assert [rows_of(part) for part in found] == [rows_of(part) for part in expected]
    assert sum(len(part) for part in found) > 0
    return ours.user_num, ours.item_num


INTER = ["user_id", "item_id", "timestamp"]
RATED = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
WITH_ITEMS = {**RATED, "item": ["item_id", "brand", "price"]}
COLUMNS: dict[str, Any] = {
    "plain": {"load_col": {"inter": INTER}},
    "rated": {"load_col": RATED},
    "items": {"load_col": WITH_ITEMS},
    "everything": {"load_col": None},
    "all of two files": {"load_col": {"inter": "*", "user": "*"}},
    "but one": {"load_col": None, "unload_col": {"inter": ["device"]}},
}
FILTERS: dict[str, Any] = {
    "none": {},
    "times": {"val_interval": {"timestamp": "[200,inf)"}},
    "counts": {"user_inter_num_interval": "[8,inf)", "item_inter_num_interval": "[5,20]"},
    "first": {"rm_dup_inter": "first"},
    "last, counts": {"rm_dup_inter": "last", "user_inter_num_interval": "[6,inf)"},
}
ON_COLUMNS: list[tuple[str, dict[str, Any]]] = [
    ("rated", {"val_interval": {"rating": "[4,inf)"}}),
    (
        "rated",
        {"val_interval": {"rating": "[1,2];(3,5]", "timestamp": "(-inf,800]"}, "item_inter_num_interval": "[4,inf)"},
    ),
    ("rated", {"threshold": {"rating": 4}}),
    ("rated", {"normalize_field": ["rating"]}),
    ("items", {"val_interval": {"rating": "[3,inf)", "brand": ["b0", "b1"]}}),
    ("items", {"val_interval": {"price": "[5,20)"}}),
    ("items", {"filter_inter_by_user_or_item": False}),
    ("everything", {"val_interval": {"age": "[25,inf)"}, "rm_dup_inter": "last"}),
    ("everything", {"val_interval": {"device": ["phone"]}, "user_inter_num_interval": "[5,inf)"}),
]


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("filters", FILTERS)
def test_columns_and_filters(tmp_path: Path, columns: str, filters: str) -> None:
    equal(write(tmp_path / "x"), {**COLUMNS[columns], **FILTERS[filters], "MAX_ITEM_LIST_LENGTH": 7})


@pytest.mark.parametrize(("columns", "filters"), ON_COLUMNS)
def test_filters_on_other_columns(tmp_path: Path, columns: str, filters: dict[str, Any]) -> None:
    equal(write(tmp_path / "x"), {**COLUMNS[columns], **filters})


@pytest.mark.parametrize("columns", ["plain", "items"])
def test_other_names_and_separators(tmp_path: Path, columns: str) -> None:
    plain = equal(write(tmp_path / "x"), COLUMNS[columns])
    loaded = {"inter": ["visitor", "product", "at"], **({} if columns == "plain" else {"item": ["product", "brand"]})}
    assert equal(write(tmp_path / "y", OTHER_NAMES), {**FIELDS, "load_col": loaded}) == plain


@pytest.mark.parametrize("filters", FILTERS)
def test_our_reading_and_recboles_give_the_same(tmp_path: Path, filters: str) -> None:
    folder = write(tmp_path / "x")
    found = []
    for columns in ("plain", "rated"):
        settings = {**COLUMNS[columns], **FILTERS[filters]}
        dataset, parts = built(SequenceDataset, "SASRecPacked", folder, settings)
        assert needs_recbole(dataset.config) == (columns == "rated")
        found.append((dataset.field2id_token["item_id"].tolist(), [rows_of(part) for part in parts]))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"load_col": {"inter": INTER}, "val_interval": {"rating": "[4,inf)"}}, r"Field \[rating\] not defined"),
        ({"load_col": {"inter": ["user_id", "item_id", "rating"]}}, "timestamp is not loaded; name it in load_col"),
        ({"load_col": RATED, "val_interval": {"rating": "[9,inf)"}}, "relax|empty"),
        ({"load_col": None, "TIME_FIELD": "at"}, "at is not loaded"),
        ({"load_col": {"inter": INTER}, "benchmark_filename": ["a", "b", "c"]}, "x.a.inter, x.b.inter, x.c.inter"),
        ({"load_col": {"inter": INTER}, "benchmark_filename": ["a", "b"]}, "benchmark_filename"),
        ({"load_col": {"inter": INTER}, "field_separator": "::"}, "field_separator must be one ASCII character"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(SequenceDataset, "SASRecPacked", write(tmp_path / "x"), settings)


# --- files that are split beforehand


def write_sessions(folder: Path, backwards: bool, seed: int = 0, longest: int = 12) -> Path:
    """Sessions cut into pairs, a row a pair under a number of its own; the last of each session is in another file."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    number = 0
    for session in range(40):
        items = [f"i{i}" for i in rng.integers(0, 20, rng.integers(2, longest + 1))]
        pairs = [(items[:t], items[t]) for t in range(1, len(items))]
        for prefix, target in reversed(pairs) if backwards else pairs:
            rows[("train", "train", "valid", "test")[session % 4]].append(f"{number}\t{' '.join(prefix)}\t{target}")
            number += 1
    for part, lines in rows.items():
        text = "\n".join(["session_id:token\titem_id_list:token_seq\titem_id:token", *lines]) + "\n"
        (folder / f"{folder.name}.{part}.inter").write_text(text)
    return folder


SESSIONS = {
    "USER_ID_FIELD": "session_id", "load_col": {"inter": ["session_id", "item_id_list", "item_id"]},
    "alias_of_item_id": ["item_id_list"], "benchmark_filename": ["train", "valid", "test"],
}  # fmt: skip


@pytest.mark.parametrize("backwards", [False, True])
def test_pairs_with_their_prefixes(tmp_path: Path, backwards: bool) -> None:
    folder = write_sessions(tmp_path / "x", backwards)
    equal(folder, {**SESSIONS, "MAX_ITEM_LIST_LENGTH": 12})
    dataset, (train, _, _) = built(SequenceDataset, "SASRecPacked", folder, SESSIONS)
    n_rows = sum(len((folder / f"x.{part}.inter").read_text().splitlines()) - 1 for part in ("train", "valid", "test"))
    assert len(dataset.split.items) == n_rows + 40  # each session is kept once
    assert int(dataset.segments.n_pairs.sum()) == len(train)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("window", [1, 3, 5])
def test_prefixes_beyond_the_window_are_cut(tmp_path: Path, backwards: bool, window: int) -> None:
    folder = write_sessions(tmp_path / "x", backwards)
    long, short = (
        built(SequenceDataset, "SASRecPacked", folder, {**SESSIONS, "MAX_ITEM_LIST_LENGTH": n})[1] for n in (12, window)
    )
    for whole, cut in zip(long, short, strict=True):
        assert [(u, p[-window:], i) for u, p, i in rows_of(whole)] == rows_of(cut)


def test_rows_that_do_not_go_on_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = write_sessions(tmp_path / "x", backwards=False)
    rng = np.random.default_rng(1)
    for part in ("train", "valid", "test"):
        file = folder / f"x.{part}.inter"
        head, *rows = file.read_text().splitlines()
        rows = [rows[i] for i in rng.integers(0, len(rows), len(rows))]  # shuffled, some twice
        file.write_text("\n".join([head, *rows]) + "\n")
    equal(folder, {**SESSIONS, "MAX_ITEM_LIST_LENGTH": 12})


def test_plain_rows_in_three_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "x")
    head, *rows = (folder / "x.inter").read_text().splitlines()
    for part, mine in zip(("a", "b", "c"), (rows[:300], rows[300:350], rows[350:]), strict=True):
        (folder / f"x.{part}.inter").write_text("\n".join([head, *mine]) + "\n")
    settings = {"load_col": {"inter": INTER}, "benchmark_filename": ["a", "b", "c"]}
    _, parts = built(SequenceDataset, "SASRecPacked", folder, settings)
    table = [(*row.split("\t"), k) for k, mine in enumerate((rows[:300], rows[300:350], rows[350:])) for row in mine]
    expected: list[list[Any]] = [[], [], []]
    for user in dict.fromkeys(row[0] for row in table):
        mine_sorted = sorted((row for row in table if row[0] == user), key=lambda row: float(row[3]))
        for t in range(1, len(mine_sorted)):
            prefix = [row[1] for row in mine_sorted[:t]][-50:]
            expected[mine_sorted[t][5]].append((user, prefix, mine_sorted[t][1]))
    assert [rows_of(part) for part in parts] == expected


def test_a_file_of_another_kind_is_said(tmp_path: Path) -> None:
    folder = write_sessions(tmp_path / "x", backwards=False)
    (folder / "x.valid.inter").write_text("session_id:token\titem_id:token\ttimestamp:float\na\tb\t1\n")
    with pytest.raises(UserError, match=r"x\.valid\.inter has no column item_id_list"):
        built(SequenceDataset, "SASRecPacked", folder, SESSIONS)


CASES = {  # of the shared cases: users, rows of RecBole's, pairs
    "amazon_like": ("rating.yaml", 59, (252, 51, 59)),
    "named": ("named.yaml", 60, (478, 60, 60)),
    "sessions": ("sessions.yaml", 598, (466, 66, 66)),
    "vectors": ("vectors.yaml", 60, (478, 60, 60)),
}


@pytest.mark.parametrize("name", CASES)
def test_published_shapes_give_recboles_counts(shared: Path, name: str) -> None:
    file, n_users, pairs = CASES[name]
    folder = shared / "cases" / "recbole"
    found = []
    for kind, model in ((SequentialDataset, "SASRec"), (SequenceDataset, "SASRecPacked")):
        config = Config(
            model=model, dataset=name, config_file_list=[str(folder / file)],
            config_dict={"data_path": str(folder), "train_neg_sample_args": None},
        )  # fmt: skip
        dataset = kind(config)
        parts = dataset.build()
        assert dataset.user_num - 1 == n_users
        assert tuple(len(part) for part in parts) == pairs
        found.append([rows_of(part) for part in parts])
    assert found[0] == found[1]
