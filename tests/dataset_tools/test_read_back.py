"""What the tools write, read by those who use it: RecBole itself, and this project's datasets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from recbole.config import Config
from recbole.data import create_dataset

from dataset_tools import custom, writer
from dataset_tools.common import run_cli
from dataset_tools.ids import MISSING_WORDS
from dataset_tools.pipeline import Dataset
from recbole_unisrec.data.text_dataset import TextDataset
from recbole_unisrec.settings import build_config

TEXTS = ['"Quoted" start.', 'An "inner" quote.', '"Open only.', 'Ends so"', "", '""', ".", "NA", "a, b; c' d"]


def small_set(seed: int = 0, n_users: int = 30) -> Dataset:
    """Sequences of 3 to 70 of nine items, so that some histories are longer than the 50 that files keep."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 20, n_users)
    lengths[:2] = 70, 52
    items = rng.integers(0, len(TEXTS), lengths.sum()).astype(np.uint32)
    items[: len(TEXTS)] = np.arange(len(TEXTS))
    return Dataset(
        user_ids=pl.Series([f"u {n}" for n in range(n_users)]),
        item_ids=pl.Series([f"item,{n}" for n in range(len(TEXTS))]),
        offsets=np.cumsum([0, *lengths]),
        items=items,
        times=np.concatenate([np.arange(n) // 2 for n in lengths]),
        texts=TEXTS,
    )


def test_recbole_reads_every_row(tmp_path: Path) -> None:
    data = small_set()
    writer.write_dataset(tmp_path, "toy", data)
    settings = {
        "data_path": str(tmp_path),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "text"]},
        "state": "ERROR",
    }
    read = create_dataset(Config(model="BPR", dataset="toy", config_dict=settings))
    frame = read.inter_feat
    pairs = [(u, i) for u, i in zip(frame["user_id"].tolist(), frame["item_id"].tolist(), strict=True)]
    names = [(read.field2id_token["user_id"][u], read.field2id_token["item_id"][i]) for u, i in pairs]
    users = np.repeat(data.user_ids.to_list(), np.diff(data.offsets)).tolist()
    assert names == list(zip(users, [data.item_ids[int(i)] for i in data.items], strict=True))
    words = {
        read.field2id_token["item_id"][number]: " ".join(read.field2id_token["text"][w] for w in text if w)
        for number, text in enumerate(read.item_feat["text"].tolist())
    }
    # a text that says nothing at all has no words; quotes at the start would open a quoted field
    expected = ['Quoted" start.', 'An "inner" quote.', "Open only.", 'Ends so"', "", "", ".", "", "a, b; c' d"]
    assert [words[item] for item in data.item_ids] == expected


def pairs_of(dataset: TextDataset) -> dict[str, list[Any]]:
    """(user, prefix, next item) of each part, as tokens."""
    users, items = (dataset.field2id_token[field] for field in (dataset.uid_field, dataset.iid_field))
    found = {}
    for name, part in zip(("train", "valid", "test"), dataset.build(), strict=True):
        rows = []
        for place in range(len(part.pairs)):
            target, start = int(part.pairs.target[place]), int(part.pairs.start[place])
            prefix = tuple(items[part.pairs.items[start:target].numpy()].tolist())[-50:]
            rows.append((str(users[int(part.pairs.user[place])]), prefix, str(items[int(part.pairs.items[target])])))
        found[name] = sorted(rows)
    return found


def test_both_layouts_give_the_same_pairs_and_features(tmp_path: Path) -> None:
    data = small_set(1)
    folder = writer.write_dataset(tmp_path / "standard", "toy", data, benchmark_splits=True)
    features = np.random.default_rng(0).standard_normal((len(TEXTS), 4)).astype(np.float32)
    features.tofile(folder / "toy.feat1CLS")
    splits = Path(shutil.copytree(folder, tmp_path / "splits" / "toy"))
    (splits / "toy.inter").unlink()
    read = []
    for parent in (folder.parent, splits.parent):
        config = build_config("UniSRec", "toy", [], {"data_path": str(parent), "state": "ERROR", "plm_size": 4})
        read.append(TextDataset(config))
    assert [dataset.layout for dataset in read] == ["standard", "split"]
    by_id, by_number = map(pairs_of, read)
    user, item = ({name: str(n) for n, name in enumerate(ids)} for ids in (data.user_ids, data.item_ids))
    for part, rows in by_id.items():
        mapped = sorted((user[u], tuple(item[i] for i in prefix), item[target]) for u, prefix, target in rows)
        assert mapped == by_number[part]
        assert mapped
    # and each item has its own row of the feature file in both
    for dataset, row in zip(read, (item.__getitem__, str), strict=True):
        tokens = dataset.field2id_token["item_id"].tolist()
        for number, token in enumerate(tokens[1:], start=1):
            np.testing.assert_array_equal(dataset.features.weight[number].numpy(), features[int(row(token))])


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_ids_that_recbole_reads_as_nothing_are_left_out_and_counted(kind: str, tmp_path: Path, capsys: Any) -> None:
    rows = [(f"u{u}", f"i{i}", i) for u in range(5) for i in range(5)]
    rows += [(word, "i1", 9) for word in MISSING_WORDS] + [("u1", "null", 9)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": ["null", *(f"i{i}" for i in range(5))], "title": "Thing"})
    for table, name in ((frame, "orders"), (items, "products")):
        path = tmp_path / f"{name}.{kind}"
        table.write_csv(path) if kind == "csv" else table.write_ndjson(path)
    files = ["--interactions", f"{tmp_path}/orders.{kind}", "--items", f"{tmp_path}/products.{kind}"]
    arguments = [*files, "--name", "toy", "--out", str(tmp_path), "--user_k", "1", "--item_k", "1"]
    assert run_cli(custom.main, arguments) == 0
    first = 27 if kind == "csv" else 26
    assert f"line {first}: user_id is 'NA', which RecBole reads as nothing" in capsys.readouterr().err
    record = json.loads((tmp_path / "toy" / "toy.json").read_text())
    assert record["bad_lines"] == {f"orders.{kind}": len(MISSING_WORDS) + 1}
    assert record["counts"]["interactions"] == 25


def test_the_words_are_those_of_pandas() -> None:
    from pandas._libs.parsers import STR_NA_VALUES

    assert set(MISSING_WORDS) == STR_NA_VALUES - {""}
