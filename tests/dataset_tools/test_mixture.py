import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools import mixture
from dataset_tools.common import UserError, run_cli
from dataset_tools.domains import read_domain
from dataset_tools.mixture import build_mixture

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SPLIT_HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"

Sequences = list[list[int]]


def _index(folder: Path, n_items: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{folder.name}.item2index").write_text("".join(f"raw{i}\t{i}\n" for i in range(n_items)))


def _standard(folder: Path, sequences: Sequences, n_items: int) -> Path:
    """Rows of all users mixed and out of order, as a shop would give them."""
    _index(folder, n_items)
    rows = [(f"u{u}", item, time) for u, items in enumerate(sequences) for time, item in enumerate(items)]
    first = [row for row in rows if row[2] == 0]
    rest = [row for row in rows if row[2] > 0]
    shuffled = first + [rest[i] for i in np.random.default_rng(0).permutation(len(rest))]
    lines = [f"{user}\traw{item}\t5\t{time}\n" for user, item, time in shuffled]
    (folder / f"{folder.name}.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(lines)
    )
    return folder


def _splits(folder: Path, sequences: Sequences, n_items: int, raw: bool = False) -> Path:
    _index(folder, n_items)
    files: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for user, items in enumerate(sequences):
        for target in range(1, len(items)):
            split = {1: "test", 2: "valid"}.get(len(items) - target, "train")
            tokens = [f"raw{item}" if raw else str(item) for item in items]
            row = f"{user}\t{' '.join(tokens[max(0, target - 50) : target])}\t{tokens[target]}\n"
            files[split].append(row)
    # the authors write the longest history of a user first
    by_user: dict[str, list[str]] = {}
    for row in files["train"]:
        by_user.setdefault(row.split("\t")[0], []).insert(0, row)
    files["train"] = [row for rows in by_user.values() for row in rows]
    for split, lines in files.items():
        (folder / f"{folder.name}.{split}.inter").write_text(SPLIT_HEADER + "".join(lines))
    return folder


def _features(folder: Path, n_items: int, suffix: str = "feat1CLS", **meta: object) -> None:
    width = int(str(meta.get("width", 4)))
    np.zeros((n_items, width), np.float32).tofile(folder / f"{folder.name}.{suffix}")
    described = {"encoder": "minilm", "pooling": "CLS", "width": width, "dtype": "float32", **meta}
    (folder / f"{folder.name}.{suffix}.json").write_text(json.dumps(described))


def _sequences(folder: Path) -> tuple[Sequences, list[int]]:
    name = folder.name
    items, offsets, domain = (
        np.load(folder / f"{name}.{part}.npy", mmap_mode="r", allow_pickle=False)
        for part in ("items", "offsets", "user_domain")
    )
    assert (items.dtype, offsets.dtype, domain.dtype) == (np.int32, np.int64, np.int16)
    found = [items[a:b].tolist() for a, b in pairwise(offsets)]
    assert sum(map(len, found)) == len(items)
    return found, domain.tolist()


A, B = [[0, 2, 1], [3, 0, 0, 2]], [[1, 0, 1], [2, 2, 1], [0, 1, 2, 0, 1]]


def test_two_layouts_in_one_mixture(tmp_path: Path) -> None:
    _features(_standard(tmp_path / "Home", A, 4), 4)
    _features(_splits(tmp_path / "Food", B, 3), 3)
    folder = build_mixture(["Home", "Food"], tmp_path)
    assert folder == tmp_path / "HF"
    sequences, domain = _sequences(folder)
    assert sequences == A + [[4 + item for item in items] for items in B]
    assert domain == [0, 0, 1, 1, 1]
    assert (folder / "HF.pt_datasets").read_text() == "Home,Food\n"
    described = json.loads((folder / "HF.mixture.json").read_text())
    assert described["n_items"] == 7
    assert [(d["name"], d["n_items"], d["n_users"], d["n_interactions"]) for d in described["domains"]] == [
        ("Home", 4, 2, 7),
        ("Food", 3, 3, 11),
    ]
    for domain_of in described["domains"]:
        assert (folder / domain_of["folder"]).resolve() == (tmp_path / domain_of["name"]).resolve()
        assert domain_of["features"]["feat1CLS"]["encoder"] == "minilm"
    assert sorted(path.name for path in folder.iterdir()) == [
        "HF.items.npy",
        "HF.mixture.json",
        "HF.offsets.npy",
        "HF.pt_datasets",
        "HF.user_domain.npy",
    ]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_layouts_agree(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    n_items = data.draw(st.integers(1, 6))
    item = st.integers(0, n_items - 1)
    short = st.lists(item, min_size=3, max_size=8)
    long = st.lists(item, min_size=60, max_size=70)  # histories are cut to the last 50
    sequences = data.draw(st.lists(st.one_of(short, short, long), min_size=1, max_size=6))
    root = tmp_path_factory.mktemp("mix")
    for folder in (
        _standard(root / "a", sequences, n_items),
        _splits(root / "b", sequences, n_items),
        _splits(root / "c", sequences, n_items, raw=True),
    ):
        domain = read_domain(folder)
        found = sorted(domain.items[start:stop].tolist() for start, stop in pairwise(domain.offsets))
        assert found == sorted(sequences)
        assert domain.n_items == n_items


def test_same_second_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    _index(tmp_path / "a", 5)
    rows = "z\traw4\t7\ny\traw1\t7\nz\traw0\t7\nz\traw3\t6\nz\traw2\t7\n"
    (tmp_path / "a" / "a.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    domain = read_domain(tmp_path / "a")
    assert domain.items.tolist() == [3, 4, 0, 2, 1]
    assert domain.offsets.tolist() == [0, 4, 5]


def test_without_item2index_the_item_file_numbers_the_items(tmp_path: Path) -> None:
    folder = _standard(tmp_path / "a", A, 4)
    (folder / "a.item2index").unlink()
    (folder / "a.item").write_text("item_id:token\ttext:token_seq\nraw3\tx\nraw2\tx\nraw1\tx\nraw0\tx\n")
    assert read_domain(folder).items.tolist() == [3 - item for items in A for item in items]


def _missing(root: Path) -> None:
    (root / "b" / "b.inter").unlink()
    (root / "b" / "b.item2index").unlink()
    (root / "b").rmdir()


def _damage(file: str, old: str, new: str) -> object:
    def change(root: Path) -> None:
        path = root / file.split(".")[0] / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


def _two_features(**other: object) -> object:
    def change(root: Path) -> None:
        _features(root / "a", 4)
        _features(root / "b", 3, **other)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_missing, "there is no domain b in"),
        (_damage("b.inter", "raw2", "raw9"), "an item without index, 'raw9'"),
        (_damage("b.inter", "timestamp:float", "when:float"), "no column timestamp"),
        (_damage("b.inter", "\t1\n", "\tnoon\n"), "cannot read .*b.inter"),
        (_damage("c.train.inter", "0\t0 1 2\t0\n", "0\t0 1 1\t0\n"), "do not continue one another"),
        (_damage("c.train.inter", "0\t0\t1\n", ""), "no row with a history of one item"),
        (_damage("c.test.inter", "\t1\n", "\t7\n"), "an item without index, '7'"),
        (lambda root: (root / "c" / "c.valid.inter").unlink(), "c.valid.inter does not exist"),
        (_two_features(width=5), "width is 4 in a and 5 in b"),
        (_two_features(encoder="bert"), "encoder is 'minilm' in a and 'bert' in b"),
        (_two_features(pooling="Mean"), "pooling is 'CLS' in a and 'Mean' in b"),
        (lambda root: (root / "a" / "a.feat1CLS").write_bytes(b"123"), "a.feat1CLS holds 3 bytes"),
    ],
)
def test_bad_input(change, words: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _standard(tmp_path / "a", A, 4)
    _standard(tmp_path / "b", B, 3)
    _splits(tmp_path / "c", [[0, 1, 2, 0, 1, 1], [3, 0, 0, 2, 1]], 4)
    change(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        build_mixture(["a", "b", "c"], tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "abc").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("names", "name", "words"),
    [
        ([], None, "no domains"),
        (["a", "a"], None, "named twice"),
        (["a"], None, "cannot have the name of its domain a"),
        (["../a"], "x", "no plain folder name"),
        (["a"], "b", "holds no mixture"),
    ],
)
def test_bad_names(names: list[str], name: str | None, words: str, tmp_path: Path) -> None:
    _standard(tmp_path / "a", A, 4)
    _standard(tmp_path / "b", B, 3)
    with pytest.raises(UserError, match=words):
        build_mixture(names, tmp_path, name, overwrite=True)
    assert (tmp_path / "b" / "b.inter").is_file()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _standard(tmp_path / "a", A, 4)
    _splits(tmp_path / "b", B, 3)
    command = ["a", "b", "--name", "X", "--data", str(tmp_path)]
    assert run_cli(mixture.main, command) == 0
    said = capsys.readouterr().out
    assert "5 users, 7 items, 18 interactions" in said
    assert said.count("not used: rating (") == 1  # of the first domain; the split files have no other column
    first = {path.name: path.read_bytes() for path in (tmp_path / "X").iterdir()}
    assert run_cli(mixture.main, command) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert run_cli(mixture.main, [*command, "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "X").iterdir()} == first


def test_real_domains(tmp_path: Path) -> None:
    names = ["Scientific", "Beauty_2014", "Sports_2014", "Office_2016_2018"]
    if not all((SHARED / name).is_dir() for name in names):
        pytest.skip("the processed Amazon sets are not here")
    for name in names:
        (tmp_path / name).symlink_to(SHARED / name)
    folder = build_mixture(names, tmp_path, "SBSO")
    described = json.loads((folder / "SBSO.mixture.json").read_text())
    assert [(d["n_users"], d["n_items"], d["n_interactions"]) for d in described["domains"]] == [
        (8442, 4385, 34101 + 3 * 8442),  # training rows, the first item, the valid and the test target
        (22363, 12101, 198502),
        (35598, 18357, 296337),
        (3231, 3317, 22447),
    ]
    sequences, _ = _sequences(folder)
    # the whole history of each user whom no cut touched stands in the test file
    with open(SHARED / "Scientific" / "Scientific.test.inter") as file:
        next(file)
        for line, found in zip(file, sequences, strict=False):
            _, history, target = line.split("\t")
            assert found[-len(history.split()) - 1 :] == [*map(int, history.split()), int(target)]
    # linear: four bytes an interaction, ten a user and the descriptions
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 4 * described["n_interactions"] + 10 * described["n_users"] + 4096
