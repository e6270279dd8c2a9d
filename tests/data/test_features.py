import json
from pathlib import Path

import numpy as np
import pytest

from recbole_unisrec.data.features import load_features
from recbole_unisrec.errors import UserError

TOKENS = ["[PAD]", "b", "a"]
ROWS = {"a": 0, "b": 1, "c": 2}


def write(path: Path, shape: tuple[int, int] = (3, 4), dtype: type = np.float32, **meta: object) -> np.ndarray:
    values = np.arange(shape[0] * shape[1], dtype=dtype).reshape(shape)
    values.tofile(path)
    if meta:
        path.with_name(path.name + ".json").write_text(json.dumps(meta))
    return values


def test_rows_follow_the_item_ids_and_padding_is_zero(tmp_path: Path) -> None:
    values = write(tmp_path / "x.feat1CLS")
    table = load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3)
    assert table.width == 4
    np.testing.assert_array_equal(table.weight, np.stack([np.zeros(4), values[1], values[0]]))


def test_index_tokens_are_row_numbers(tmp_path: Path) -> None:
    values = write(tmp_path / "x.feat1CLS")
    table = load_features(tmp_path / "x.feat1CLS", ["[PAD]", "2", "0"], None, 3)
    np.testing.assert_array_equal(table.weight[1:], values[[2, 0]])


def test_half_precision_is_read_as_recorded(tmp_path: Path) -> None:
    values = np.ones((3, 4), dtype=np.float16)
    values.tofile(tmp_path / "x.feat1CLS")
    meta = {"dtype": "float16", "width": 4, "encoder": "minilm", "pooling": "Mean"}
    (tmp_path / "x.feat1CLS.json").write_text(json.dumps(meta))
    table = load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3)
    assert table.weight[1:].eq(1).all()
    assert table.encoder == "minilm Mean, max_length 512"


def test_a_wrong_width_is_refused_not_reshaped(tmp_path: Path) -> None:
    write(tmp_path / "x.feat1CLS", width=4)
    with pytest.raises(UserError, match="width 4, but plm_size is 2"):
        load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3, width=2)


def test_a_wrong_width_without_description_is_refused_too(tmp_path: Path) -> None:
    write(tmp_path / "x.feat1CLS")
    with pytest.raises(UserError, match=r"6 rows of width 2, but the dataset has 3 items"):
        load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3, width=2)


def test_a_wrong_number_of_rows_names_both(tmp_path: Path) -> None:
    write(tmp_path / "x.feat1CLS", width=4)
    with pytest.raises(UserError, match="3 rows of width 4, but the dataset has 5 items"):
        load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 5)


def test_an_item_without_a_row_is_named(tmp_path: Path) -> None:
    write(tmp_path / "x.feat1CLS")
    with pytest.raises(UserError, match="item 'z' has no row"):
        load_features(tmp_path / "x.feat1CLS", ["[PAD]", "a", "z"], ROWS, 3)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m dataset_tools\.features"):
        load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3)


def test_nan_is_refused(tmp_path: Path) -> None:
    values = np.full((3, 4), np.nan, dtype=np.float32)
    values.tofile(tmp_path / "x.feat1CLS")
    with pytest.raises(UserError, match="NaN or infinity, first for item 'b'"):
        load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3)
