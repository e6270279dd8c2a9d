"""What is written, read back; and that nothing half-written is ever left."""

import json
import os

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools import swap, writer
from dataset_tools.common import UserError
from dataset_tools.pipeline import Dataset


def make_dataset(sequences, texts=None):
    n_items = max((item for s in sequences for item in s), default=-1) + 1
    lengths = [len(s) for s in sequences]
    return Dataset(
        user_ids=pl.Series([f"user{n}" for n in range(len(sequences))], dtype=pl.String),
        item_ids=pl.Series([f"item{n}" for n in range(n_items)], dtype=pl.String),
        offsets=np.cumsum([0, *lengths]),
        items=np.array([item for s in sequences for item in s], dtype=np.uint32),
        times=np.arange(sum(lengths)) + 1_400_000_000,
        texts=texts or [f"Text of {n}. " for n in range(n_items)],
    )


def slow_split(sequences):
    """Leave-one-out, written down the long way: rows of (user, history, target) of each file."""
    files = {"train": [], "valid": [], "test": []}
    for user, sequence in enumerate(sequences):
        pairs = [(sequence[:place][-50:], sequence[place]) for place in range(1, len(sequence))]
        pairs = [(user, *pair) for pair in pairs]
        files["test"] += pairs[-1:]
        files["valid"] += pairs[-2:-1]
        files["train"] += pairs[:-2][::-1]
    return files


def read_split(path):
    header, *lines = path.read_text().splitlines()
    assert header == "user_id:token\titem_id_list:token_seq\titem_id:token"
    rows = [line.split("\t") for line in lines]
    return [(int(u), [int(i) for i in history.split(" ")], int(target)) for u, history, target in rows]


SEQUENCES = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=70), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(sequences=SEQUENCES)
def test_both_outputs_hold_the_same_pairs(sequences, tmp_path_factory):
    folder = writer.write_dataset(tmp_path_factory.mktemp("out"), "toy", make_dataset(sequences), benchmark_splits=True)
    expected = slow_split(sequences)
    for part, rows in expected.items():
        assert read_split(folder / f"toy.{part}.inter") == rows
    # the standard file, regrouped by user and mapped by the index files, gives the same pairs
    index = {
        kind: dict(line.split("\t") for line in (folder / f"toy.{kind}2index").read_text().splitlines())
        for kind in ("user", "item")
    }
    header, *lines = (folder / "toy.inter").read_text().splitlines()
    assert header == "user_id:token\titem_id:token\ttimestamp:float"
    again: dict[int, list[int]] = {}
    for line in lines:
        user, item, _ = line.split("\t")
        again.setdefault(int(index["user"][user]), []).append(int(index["item"][item]))
    assert slow_split([again[user] for user in sorted(again)]) == expected


def test_files(tmp_path):
    folder = writer.write_dataset(tmp_path, "toy", make_dataset([[0, 1, 0]]), provenance={"sources": []})
    assert sorted(p.name for p in folder.iterdir()) == [
        "toy.inter",
        "toy.item",
        "toy.item2index",
        "toy.json",
        "toy.text",
        "toy.user2index",
    ]
    assert (folder / "toy.inter").read_text().splitlines()[1] == "user0\titem0\t1400000000"
    assert (folder / "toy.item").read_text() == (
        "item_id:token\ttext:token_seq\nitem0\tText of 0. \nitem1\tText of 1. \n"
    )
    assert (folder / "toy.text").read_bytes() == (folder / "toy.item").read_bytes()
    assert (folder / "toy.item2index").read_text() == "item0\t0\nitem1\t1\n"
    record = json.loads((folder / "toy.json").read_text())
    assert record["counts"] == {
        "interactions": 3,
        "users": 1,
        "items": 2,
        "mean_sequence": 3.0,
        "empty_texts": 0,
    }
    assert (folder.stat().st_mode & 0o777) == 0o777 & ~_umask()


def _umask():
    value = os.umask(0)
    os.umask(value)
    return value


def test_refuses_what_is_there(tmp_path):
    folder = writer.write_dataset(tmp_path, "toy", make_dataset([[0, 1, 0]]))
    before = _content(folder)
    with pytest.raises(UserError, match="--overwrite"):
        writer.write_dataset(tmp_path, "toy", make_dataset([[1, 0]]))
    assert _content(folder) == before
    writer.write_dataset(tmp_path, "toy", make_dataset([[1, 0]]), overwrite=True)
    assert _content(folder) != before
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_overwrite_leaves_a_folder_alone_that_is_no_dataset(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(UserError, match="no dataset named photos"):
        writer.write_dataset(tmp_path, "photos", make_dataset([[0, 1]]), overwrite=True)
    assert _content(tmp_path / "photos") == {"cat.jpg": b"cat"}


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "two words"])
def test_names_that_are_no_names(tmp_path, name):
    with pytest.raises(UserError):
        writer.write_dataset(tmp_path, name, make_dataset([[0, 1]]))
    assert list(tmp_path.iterdir()) == []


def _content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("step", ["_write_text", "_write_index", "write_benchmark_splits"])
def test_disk_full_leaves_the_old_dataset(tmp_path, monkeypatch, step):
    folder = writer.write_dataset(tmp_path, "toy", make_dataset([[0, 1, 0]]))
    before = _content(folder)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, step, full)
    with pytest.raises(UserError, match="No space left on device"):
        writer.write_dataset(tmp_path, "toy", make_dataset([[1, 0]]), overwrite=True, benchmark_splits=True)
    assert _content(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_failed_rename_puts_the_old_dataset_back(tmp_path, monkeypatch):
    monkeypatch.setattr(swap, "exchange", lambda *_: False)  # a system that cannot exchange two names
    folder = writer.write_dataset(tmp_path, "toy", make_dataset([[0, 1, 0]]))
    before = _content(folder)
    rename = os.rename

    def second_fails(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(UserError):
        writer.write_dataset(tmp_path, "toy", make_dataset([[1, 0]]), overwrite=True)
    assert _content(folder) == before


def test_full_device(tmp_path, monkeypatch):
    # a real write error of the operating system, not a mock of ours
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    copy = writer.shutil.copyfile
    monkeypatch.setattr(writer.shutil, "copyfile", lambda source, _target: copy(source, "/dev/full"))
    with pytest.raises(UserError, match="free some space"):
        writer.write_dataset(tmp_path, "toy", make_dataset([[0, 1, 0]]))
    assert list(tmp_path.iterdir()) == []


def test_ids_that_cannot_be_written(tmp_path):
    dataset = make_dataset([[0, 1, 0]])
    dataset.item_ids = pl.Series(["a\tb", "c"])
    with pytest.raises(UserError, match="tab"):
        writer.write_dataset(tmp_path, "toy", dataset)
    assert list(tmp_path.iterdir()) == []
