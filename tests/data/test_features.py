import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F

from recbole_unisrec.data.features import FLOOR, load_features, scale_features, scaling
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
    values = write(tmp_path / "x.feat1CLS", width=4)
    table = load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3)
    assert table.width == 4
    np.testing.assert_array_equal(table.weight, np.stack([np.zeros(4), values[1], values[0]]))


def test_index_tokens_are_row_numbers(tmp_path: Path) -> None:
    values = write(tmp_path / "x.feat1CLS", width=4)
    table = load_features(tmp_path / "x.feat1CLS", ["[PAD]", "2", "0"], None, 3)
    np.testing.assert_array_equal(table.weight[1:], values[[2, 0]])


def test_half_precision_is_read_as_recorded(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    values.tofile(tmp_path / "x.feat1CLS")
    meta = {"dtype": "float16", "width": 4, "encoder": "minilm", "pooling": "Mean"}
    (tmp_path / "x.feat1CLS.json").write_text(json.dumps(meta))
    table = load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3)
    np.testing.assert_array_equal(table.weight[1:], values[[1, 0]])
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
    write(tmp_path / "x.feat1CLS", width=4)
    with pytest.raises(UserError, match="item 'z' has no row"):
        load_features(tmp_path / "x.feat1CLS", ["[PAD]", "a", "z"], ROWS, 3)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m dataset_tools\.features"):
        load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3)


def test_nan_is_refused(tmp_path: Path) -> None:
    values = np.full((3, 4), np.nan, dtype=np.float32)
    values.tofile(tmp_path / "x.feat1CLS")
    with pytest.raises(UserError, match="NaN or infinity, first for item 'b'"):
        load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3, width=4)


def test_a_file_without_description_needs_its_width(tmp_path: Path) -> None:
    values = write(tmp_path / "x.feat1CLS")
    table = load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3, width=4)
    np.testing.assert_array_equal(table.weight[1:], values[[1, 0]])
    with pytest.raises(UserError, match=r"how wide .* add --plm_size=4 if 3 rows of width 4 are right, or make it"):
        load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3)


def test_a_file_cut_to_whole_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.feat1CLS", shape=(6, 4))
    whole = (tmp_path / "x.feat1CLS").read_bytes()
    tokens, rows = ["[PAD]", *map(str, range(6))], {str(i): i for i in range(6)}
    (tmp_path / "x.feat1CLS").write_bytes(whole[: 3 * 4 * 4])  # 3 of 6 rows of width 4: 6 rows of width 2?
    with pytest.raises(UserError, match=r"is not known, as x\.feat1CLS\.json is not beside it"):
        load_features(tmp_path / "x.feat1CLS", tokens, rows, 6)
    with pytest.raises(UserError, match=r"3 rows of width 4, but the dataset has 6 items"):
        load_features(tmp_path / "x.feat1CLS", tokens, rows, 6, width=4)
    (tmp_path / "x.feat1CLS").write_bytes(whole[: 4 * 4 * 4])
    with pytest.raises(UserError, match=r"its 16 values are no whole number of them for each of the 6 items"):
        load_features(tmp_path / "x.feat1CLS", tokens, rows, 6)


@pytest.mark.parametrize("width", ["wide", 0, -4, 4.0, None])
def test_a_description_with_a_wrong_width_is_refused(tmp_path: Path, width: object) -> None:
    write(tmp_path / "x.feat1CLS", **{"dtype": "float32", "width": width})
    with pytest.raises(UserError, match=r"the width|how wide"):
        load_features(tmp_path / "x.feat1CLS", TOKENS, ROWS, 3)


USELESS = {
    "zeros": (np.zeros((6, 4)), "holds nothing but zeros"),
    "torn": (np.r_[np.arange(8.0).reshape(2, 4), np.zeros((4, 4))], "4 of 6 rows are zero"),
    "same": (np.tile([1.0, 2, 3, 4], (6, 1)), "gives all 6 items the same vector"),
    "flat": (np.tile(np.arange(1.0, 7)[:, None], (1, 4)), "repeats one number along each row"),
}


@pytest.mark.parametrize("case", USELESS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_that_say_nothing_are_refused(tmp_path: Path, case: str, dtype: type) -> None:
    values, sentence = USELESS[case]
    values.astype(dtype).tofile(tmp_path / "x.feat1CLS")
    meta = {"width": 4, "dtype": np.dtype(dtype).name}
    (tmp_path / "x.feat1CLS.json").write_text(json.dumps(meta), encoding="utf-8")
    tokens = ["[PAD]", *map(str, range(6))]
    with pytest.raises(UserError, match=sentence):
        load_features(tmp_path / "x.feat1CLS", tokens, {str(i): i for i in range(6)}, 6)


def test_some_zero_rows_and_constant_columns_are_fine(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    values[:3] = 0  # texts of which the encoder knows no word
    values[:, 1] = 5  # a coordinate that tells nothing
    values[:3, 1] = 0
    values.tofile(tmp_path / "x.feat1CLS")
    tokens, rows = ["[PAD]", *map(str, range(6))], {str(i): i for i in range(6)}
    table = load_features(tmp_path / "x.feat1CLS", tokens, rows, 6, width=4)
    for how in ("standardize", "whiten"):
        assert torch.isfinite(scale_features(table.weight, how)).all()


# --- scaling


@pytest.mark.parametrize("how", ["standardize", "whiten"])
def test_items_held_out_do_not_move_the_others(how: str) -> None:
    torch.manual_seed(0)
    weight = torch.cat([torch.zeros(1, 5), torch.randn(40, 5) @ torch.randn(5, 5) + 3])
    known = torch.arange(41) % 4 != 0
    warm = weight[known].double()
    mean, centred = warm.mean(dim=0), warm - warm.mean(dim=0)
    if how == "standardize":
        variance = centred.square().mean(dim=0)
        by_hand = (weight[1:].double() - mean) / (variance + FLOOR * variance.mean()).sqrt()
    else:
        covariance = centred.T @ centred / len(warm)
        floor = FLOOR * covariance.trace() / 5 * torch.eye(5)
        root = torch.from_numpy(scipy.linalg.sqrtm(covariance.numpy() + floor.numpy())).double()
        by_hand = torch.linalg.solve(root, (weight[1:].double() - mean).T).T
    found = scale_features(weight, how, weight[known])
    torch.testing.assert_close(found[1:].double(), by_hand, rtol=1e-5, atol=1e-6)
    assert not found[0].any()
    assert torch.equal(found[known], scale_features(torch.cat([weight[:1], weight[known]]), how)[1:])
    assert not torch.allclose(found, scale_features(weight, how), atol=1e-3)


def test_few_items_of_one_kind_stay_near_one_another() -> None:
    torch.manual_seed(0)
    kind = torch.arange(30) % 3
    weight = torch.cat([torch.zeros(1, 64), torch.randn(3, 64)[kind] + 0.5 * torch.randn(30, 64)])
    unit = F.normalize(scale_features(weight, "whiten")[1:], dim=1)
    cosine = unit @ unit.T
    same, other = kind.unsqueeze(0) == kind.unsqueeze(1), ~torch.eye(30, dtype=torch.bool)
    # whitened by their own covariance all 30 would be equally far apart, with cosines of -1/29
    assert cosine[same & other].mean() > 0.2
    assert cosine[~same].mean() < 0


@pytest.mark.parametrize(("n", "share"), [(10, 0.75), (20, 0.5), (40, 0.0), (200, 0.0)])
def test_the_fewer_items_the_more_their_covariance_is_shrunk(n: int, share: float) -> None:
    torch.manual_seed(0)
    rows = torch.randn(n, 8) @ torch.randn(8, 8)
    centred = (rows - rows.mean(dim=0)).double()
    covariance = centred.T @ centred / n
    shrunk = (1 - share) * covariance + (share + FLOOR) * covariance.trace() / 8 * torch.eye(8)
    _, matrix = scaling(rows, "whiten")
    torch.testing.assert_close(matrix @ shrunk @ matrix, torch.eye(8).double(), rtol=0.0, atol=1e-5)


def test_features_that_do_not_vary_cannot_be_whitened() -> None:
    with pytest.raises(UserError, match="the 3 items that count are all the same; use feature_scaling=none"):
        scale_features(torch.randn(6, 4), "whiten", torch.ones(3, 4))
