from pathlib import Path

import numpy as np
import pytest

from recbole_unisrec.data.atomic import find_layout, read_splits, read_standard
from recbole_unisrec.errors import UserError

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"


def write_splits(folder: Path, name: str, sequences: dict[str, list[str]], cut: int) -> None:
    """The authors' layout, longest prefix first."""
    rows: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for user, s in sequences.items():
        for t in reversed(range(1, len(s) - 2)):
            rows["train"].append(f"{user}\t{' '.join(s[:t][-cut:])}\t{s[t]}")
        rows["valid"].append(f"{user}\t{' '.join(s[:-2][-cut:])}\t{s[-2]}")
        rows["test"].append(f"{user}\t{' '.join(s[:-1][-cut:])}\t{s[-1]}")
    for split, lines in rows.items():
        text = "\n".join(["user_id:token\titem_id_list:token_seq\titem_id:token", *lines]) + "\n"
        (folder / f"{name}.{split}.inter").write_text(text)


def test_splits_fold_back_into_sequences_also_beyond_the_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sequences = {f"u{u}": [str(i) for i in rng.integers(0, 9, n)] for u, n in enumerate([4, 5, 7, 12, 20])}
    write_splits(tmp_path, "x", sequences, cut=5)
    found = read_splits(tmp_path, "x")
    for user, expected in sequences.items():
        mine = found.user == found.user_tokens.index(user)
        order = np.argsort(found.time[mine], kind="stable")
        assert [found.item_tokens[i] for i in found.item[mine][order]] == expected


def test_splits_that_are_no_sequence_are_refused(tmp_path: Path) -> None:
    write_splits(tmp_path, "x", {"a": list("12345"), "b": list("23456")}, cut=50)
    file = tmp_path / "x.train.inter"
    file.write_text(file.read_text().replace("a\t1 2\t3", "a\t1 2\t9"))
    with pytest.raises(UserError, match="user 'a' are not the leave-one-out pairs"):
        read_splits(tmp_path, "x")


def test_scientific_is_read_whole(shared: Path) -> None:
    found = read_splits(shared / "data" / "Scientific", "Scientific")
    assert (len(found.user_tokens), len(found.item_tokens)) == (8442, 4385)
    assert len(found.user) == 34_101 + 3 * 8442


def test_codes_follow_first_appearance(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text(HEADER + "b\ti2\t3\na\ti1\t1\nb\ti1\t2.5\n")
    found = read_standard(tmp_path / "x.inter")
    assert found.user_tokens == ["b", "a"]
    assert found.item_tokens == ["i2", "i1"]
    assert found.user.tolist() == [0, 1, 0]
    assert found.item.tolist() == [0, 1, 1]
    assert found.time.tolist() == [3, 1, 2.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER, "no interaction"),
        (HEADER + "a\ti\t1\na\ti\n", "line 3: expected 3 non-empty fields"),
        (HEADER + "a\ti\t1\n\ti\t2\n", "line 3: expected 3 non-empty fields"),
        (HEADER + "a\ti\t1\na\tj\tsoon\n", "line 3: timestamp 'soon' is not a number"),
        (HEADER + "a\ti\t1\na\tj\tnan\n", "line 3: timestamp 'nan' is not a number"),
        (HEADER + "a\ti\t1\textra\n", "line 2: expected 3 non-empty fields"),
        ("user_id:token\titem:token\na\ti\n", "no column item_id, timestamp"),
        ("", "no column user_id"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.inter").write_text(content)
    with pytest.raises(UserError, match=message):
        read_standard(tmp_path / "x.inter")


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_bytes(HEADER.encode() + b"a\ti\t1\na\t\xff\t1\n")
    with pytest.raises(UserError, match="line 3: not UTF-8"):
        read_standard(tmp_path / "x.inter")


def test_missing_files_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m dataset_tools\.amazon Scientific"):
        find_layout(tmp_path / "Scientific", "Scientific")
    (tmp_path / "x.train.inter").touch()
    with pytest.raises(UserError, match=r"no x\.valid\.inter"):
        find_layout(tmp_path, "x")
