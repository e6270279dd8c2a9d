"""Vectors from elsewhere: every format gives the same file, and what is wrong is said in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import save_file

from dataset_tools.common import UserError, run_cli
from dataset_tools.features import Columns, Fields, import_vectors, read_vectors
from dataset_tools.features.command import main

IDS = ["a", "b", "c"]
ROWS = np.array([[1.0, 2.0], [3.0, 4.0], [-5.0, 0.5]], dtype=np.float32)


def _ids(folder: Path, ids: list[str] = IDS) -> Path:
    (folder / "ids.txt").write_text("".join(f"{item}\n" for item in ids))
    return folder / "ids.txt"


def _npy(folder: Path, rows: Any = ROWS) -> Path:
    np.save(folder / "v.npy", rows)
    return folder / "v.npy"


def _parquet(folder: Path, rows: Any = ROWS, **more: Any) -> Path:
    table = pl.DataFrame({"item_id": IDS, **more, "emb": [list(map(float, row)) for row in rows]})
    table.write_parquet(folder / "v.parquet")
    return folder / "v.parquet"


def _tensors(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    save_file(tensors, folder / "v.safetensors")
    return folder / "v.safetensors"


def _atomic(
    folder: Path, header: str = "iid:token\temb:float_seq", rows: str = "a\t1 2\nb\t3 4.0\nc\t-5 5e-1\n"
) -> Path:
    (folder / "v.itememb").write_text(f"{header}\n{rows}")
    return folder / "v.itememb"


@pytest.mark.parametrize(
    ("write", "with_ids"),
    [
        (_npy, True),
        (lambda folder: _npy(folder, ROWS.astype(np.float64)), True),
        (_parquet, False),
        (lambda folder: _tensors(folder, {"vectors": ROWS}), True),
        (lambda folder: _tensors(folder, dict(zip(IDS, ROWS, strict=True))), False),
        (_atomic, False),
    ],
)
def test_formats(write: Callable[[Path], Path], with_ids: bool, tmp_path: Path) -> None:
    ids, rows = read_vectors(write(tmp_path), _ids(tmp_path) if with_ids else None)
    assert ids == IDS
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, ROWS)


def test_half_precision_and_ids_in_an_array(tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_torch

    save_torch({"x": torch.tensor(ROWS).bfloat16()}, tmp_path / "v.safetensors")
    np.save(tmp_path / "ids.npy", np.array(IDS))
    ids, rows = read_vectors(tmp_path / "v.safetensors", tmp_path / "ids.npy")
    assert ids == IDS
    np.testing.assert_array_equal(rows, ROWS)


def test_columns_and_separators(tmp_path: Path) -> None:
    path = _atomic(
        tmp_path, "iid:token,kind:token,emb:float_seq,more:float_seq", "a,x,1|2,7\nb,x,3|4,7\nc,y,-5|0.5,7\n"
    )
    fields = Fields(field_separator=",", seq_separator="|")
    named = Columns.of({"preload_weight": {"iid": "emb"}, "alias_of_item_id": ["iid"]})
    ids, rows = read_vectors(path, None, fields, named)
    assert ids == IDS
    np.testing.assert_array_equal(rows, ROWS)
    with pytest.raises(UserError, match=r"which column .* ids is not clear \(iid, kind\); name it by --id_col"):
        read_vectors(path, None, fields)
    with pytest.raises(UserError, match="no column nix"):
        read_vectors(path, None, fields, Columns("iid", "nix"))


def _not_finite(folder: Path) -> Path:
    rows = ROWS.copy()
    rows[1, 0] = np.nan
    return _npy(folder, rows)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_not_finite, ["NaN or infinity in 1 vectors", "'b'"]),
        (lambda f: _npy(f, ROWS[:2]), ["2 vectors", "3 ids"]),
        (lambda f: _npy(f, ROWS[0]), ["shape [2]", "[items, width] is due"]),
        (lambda f: _npy(f, np.array([["x"], ["y"], ["z"]])), ["numbers are due"]),
        (lambda f: _npy(f, np.array([[1], [None], [2]], dtype=object)), ["no plain array"]),
        (lambda f: _tensors(f, {"a": ROWS[0], "b": ROWS}), ["tensors of the shapes", "[2]"]),
        (lambda f: _parquet(f, [[1.0], [2.0, 3.0], [4.0]]), ["'b' a vector of width 2", "others one of width 1"]),
        (lambda f: _atomic(f, rows="a\t1 2\nb\t3 4\nc\t5\n"), ["'c' a vector of width 1", "width 2"]),
        (lambda f: _atomic(f, rows="a\t1 2\nb\t3 x\n"), ["line 3", "'x'"]),
        (lambda f: _atomic(f, rows="a\t1 2\na\t3 4\n"), ["'a' more than one vector"]),
        (lambda f: _atomic(f, rows="a\n"), ["line 2 has 1 columns"]),
        (lambda f: _atomic(f, header="just a line"), ["no atomic file"]),
        (lambda f: f / "none.npy", ["is no file"]),
    ],
)
def test_what_is_wrong(write: Callable[[Path], Path], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_vectors(write(tmp_path), _ids(tmp_path))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def _dataset(folder: Path, ids: list[str]) -> Path:
    folder.mkdir()
    (folder / "toy.item").write_text("item_id:token\tprice:float\n" + "".join(f"{item}\t1\n" for item in ids))
    return folder


def test_rows_follow_the_index_of_the_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _dataset(tmp_path / "toy", ["c", "a"])
    path = import_vectors(folder, "toy", _npy(tmp_path), _ids(tmp_path), suffix="featImage", encoder="clip")
    np.testing.assert_array_equal(np.fromfile(path, np.float32).reshape(2, 2), ROWS[[2, 0]])
    meta = json.loads((folder / "toy.featImage.json").read_text())
    assert {key: meta[key] for key in ("encoder", "vectors", "rows", "width", "dtype")} == {
        "encoder": "clip", "vectors": "v.npy", "rows": 2, "width": 2, "dtype": "float32"
    }  # fmt: skip
    assert "1 vectors of" in capsys.readouterr().err  # item b, which the dataset does not have
    assert (folder / "toy.item2index").read_text() == "c\t0\na\t1\n"
    before = path.stat().st_mtime_ns
    assert import_vectors(folder, "toy", _npy(tmp_path), _ids(tmp_path), suffix="featImage", encoder="clip") == path
    assert path.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"its vectors are others; replace it .*--overwrite"):
        import_vectors(folder, "toy", _npy(tmp_path, ROWS * 2), _ids(tmp_path), suffix="featImage", encoder="clip")


def test_items_without_a_vector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _dataset(tmp_path / "toy", ["a", "x", "c", "y"])
    given = (_npy(tmp_path), _ids(tmp_path))
    with pytest.raises(UserError, match=r"no vector for 2 of 4 items, first 'x'.*--missing mean"):
        import_vectors(folder, "toy", *given)
    assert sorted(p.name for p in folder.iterdir()) == ["toy.item"]
    path = import_vectors(folder, "toy", *given, missing="mean")
    found = np.fromfile(path, np.float32).reshape(4, 2)
    np.testing.assert_array_equal(found[[0, 2]], ROWS[[0, 2]])
    np.testing.assert_allclose(found[[1, 3]], np.tile(ROWS.mean(axis=0), (2, 1)))
    assert "2 of 4 items have no vector" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"4 of 4 items, first '5' \(its own ids are like 'a'\)"):
        import_vectors(_dataset(tmp_path / "other", ["5", "6", "7", "8"]), "toy", *given, missing="mean")


def test_command_reads_recboles_property_file(tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = shared / "cases" / "recbole"
    folder = Path(shutil.copytree(cases / "vectors", tmp_path / "vectors"))
    flags = [str(folder), "--vectors", str(folder / "vectors.itememb"), "--config", str(cases / "vectors.yaml")]
    assert run_cli(main, flags) == 0
    assert "vectors.featVectors: 90 items, width 24" in capsys.readouterr().out
    rows = np.fromfile(folder / "vectors.featVectors", np.float32).reshape(90, 24)
    lines = (folder / "vectors.itememb").read_text().splitlines()[1:]
    np.testing.assert_allclose(rows[1], [float(v) for v in lines[1].split("\t")[1].split()])
    assert (folder / "vectors.item2index").read_text().splitlines()[1] == f"{lines[1].split(chr(9))[0]}\t1"
    assert run_cli(main, [str(folder), "--ids", "x"]) == 1
    assert "--vectors FILE" in capsys.readouterr().err
