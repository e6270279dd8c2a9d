"""Tables and the summary made from stored runs, without their datasets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dataset_tools.common import UserError, run_cli
from recbole_unisrec.evaluation import write_ranks
from recbole_unisrec.leaderboard import stored, summary_plots, tables
from recbole_unisrec.leaderboard.archive import write_archive
from recbole_unisrec.leaderboard.blocks import p_value
from recbole_unisrec.leaderboard.plots import _group_finding, compared
from recbole_unisrec.leaderboard.stats import holm
from recbole_unisrec.leaderboard.summary_plots import _finding

METRICS = ("hit@10", "ndcg@10", "hit@50", "ndcg@50")
USERS = np.array([f"u{i:02}" for i in range(40)])


def store(
    folder: Path, row: str, key: str, seed: int, ranks: np.ndarray | int, valid: float = 0.5, **config: object
) -> np.ndarray:
    """A run as a leaderboard leaves it; a single rank is that of every second user, the others' is 1000."""
    place = folder / "runs" / row
    place.mkdir(parents=True, exist_ok=True)
    if isinstance(ranks, int):
        ranks = np.where(np.arange(40) % 2, ranks, 1000)
    test = {}
    for k in (10, 50):
        test[f"hit@{k}"] = float((ranks <= k).mean())
        test[f"ndcg@{k}"] = float(np.where(ranks <= k, 1 / np.log2(ranks + 1), 0).mean())
    run = {"row": row, "key": key, "seed": seed, "point": {}, "valid": {}, "test": test, "valid_score": valid,
           "groups": {"popularity": {"0": {"users": 40, **test}}, "length": {name: {"users": 40, **test} for name in ("1-2", "5-9", "10-19")}},
           "curve": [valid], "seconds": 1.0, "n_parameters": 1, "config": config}  # fmt: skip
    (place / f"{key}.json").write_text(json.dumps(run))
    write_ranks(str(place / f"{key}.npz"), USERS, ranks)
    return ranks


def ndcg(ranks: np.ndarray) -> np.ndarray:
    return np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)


def test_means_over_seeds_and_the_change_against_a_row(tmp_path: Path) -> None:
    store(tmp_path, "text-kNN", "a", 2020, 5)
    store(tmp_path, "ours", "b", 2020, 1)
    store(tmp_path, "ours", "c", 2021, 1)
    store(tmp_path, "ours", "d", 2020, 100, valid=0.1, learning_rate=1)  # a worse point of the grid
    lines = tables.table(stored.read_boards([tmp_path]), ["text-kNN", "ours", "absent"]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith(f"| text-kNN | 0.5000 | {0.5 / np.log2(6):.4f} | 0.5000 |")
    assert lines[3].startswith("| ours | 0.5000 ± 0.0000 | 0.5000 ± 0.0000 |")
    gain = np.log2(6) - 1  # of rank 1 over rank 5 in NDCG
    assert f"+0.0%, p = 1.000 / {gain:+.1%}, p < .001" in lines[3]


def test_seeds_are_those_of_the_point_that_is_best_on_validation_with_the_first_seed(tmp_path: Path) -> None:
    store(tmp_path, "SASRecPacked", "a", 2020, 3, valid=0.5, learning_rate=1)
    store(tmp_path, "SASRecPacked", "b", 2020, 5, valid=0.4, learning_rate=2)
    store(tmp_path, "SASRecPacked", "c", 2021, 3, valid=0.2, learning_rate=1)
    store(tmp_path, "SASRecPacked", "d", 2021, 5, valid=0.9, learning_rate=2)  # another seed has no say
    (board,) = stored.read_boards([tmp_path])
    (standing,) = board.standings
    assert [run.key for run in standing.runs] == ["a", "c"]
    assert {run.key for run in standing.tuning} == {"a", "b"}


def test_runs_on_other_data_are_boards_of_their_own(tmp_path: Path) -> None:
    store(tmp_path, "SASRecPacked", "a", 2020, 5, dataset="x")
    store(tmp_path, "SASRecPacked", "b", 2020, 1, valid=0.9, dataset="x", train_users=0.1)
    store(tmp_path, "SASRecPacked", "c", 2020, 2, valid=0.9, dataset="x", cold_items=0.1, cold_by="time")
    store(tmp_path, "UniSRec-inductive-pretrained", "d", 2020, 2, dataset="x", epochs=0)
    store(tmp_path, "text-kNN", "e", 2020, 2, dataset="x", epochs=0)  # trains nothing in any case
    found = {str(board.condition): [s.name for s in board.standings] for board in stored.read_boards([tmp_path])}
    assert found == {
        "x": ["text-kNN", "SASRecPacked"],
        "x, 0.1 of the users": ["SASRecPacked"],
        "x, cold_items 0.1 time": ["SASRecPacked"],
        "x, without training": ["UniSRec-inductive-pretrained"],
    }
    assert "| SASRecPacked | 0.5000 | 0.5000 |" in tables.table(stored.read_boards([tmp_path]), [], share=0.1)
    with pytest.raises(UserError, match=r"no run is of a share of 0\.5 .*; there are runs of x; x, 0\.1 of the users"):
        tables.table(stored.read_boards([tmp_path]), [], share=0.5)


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no finished run"):
        tables.table(stored.read_boards([tmp_path]), ["ours"])
    store(tmp_path, "Pop", "a", 2020, 5)
    with pytest.raises(UserError, match="has no finished run of ours; its rows are Pop"):
        tables.table(stored.read_boards([tmp_path]), ["ours"])


def test_other_users_cannot_be_compared(tmp_path: Path) -> None:
    store(tmp_path, "Pop", "a", 2020, 5)
    store(tmp_path, "SASRecPacked", "b", 2020, 5)
    write_ranks(str(tmp_path / "runs/SASRecPacked/b.npz"), USERS[1:], np.ones(39))
    with pytest.raises(UserError, match="ranked other users"):
        tables.table(stored.read_boards([tmp_path]), [])


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three datasets: `ours` is better on A, worse on B, the same on C, where Pop has no run; a tenth of A's users."""
    rng = np.random.default_rng(0)
    for name, mine in (("A", 1), ("B", 30), ("C", 5)):
        folder = tmp_path / name
        store(folder, "text-kNN", "a", 2020, 5, dataset=name)
        for seed in (2020, 2021):
            store(folder, "UniSRec-inductive-ours", f"b{seed}", seed, mine, dataset=name)
        if name != "C":
            store(folder, "Pop", "c", 2020, rng.integers(1, 40, 40), dataset=name)
    store(tmp_path / "A", "text-kNN", "d", 2020, 9, dataset="A", train_users=0.1)
    store(tmp_path / "A", "UniSRec-inductive-ours", "e", 2020, 4, dataset="A", train_users=0.1)
    return tmp_path


def test_several_datasets_have_a_summary(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(three / name) for name in "ABC"]
    assert run_cli(tables.main, [*paths, "--out", str(three / "out")]) == 0
    found = json.loads((three / "out/summary.json").read_text())
    assert found["against"] == ["text-kNN"]
    ours = found["rows"]["UniSRec-inductive-ours"]["ndcg@10"]["against text-kNN"]
    assert (ours["wins"], ours["ties"], ours["losses"]) == (1, 1, 1)
    text = (three / "out/summary.md").read_text()
    assert "Pop on C" in text
    pop = next(line for line in text.split("## NDCG@10")[1].splitlines() if line.startswith("| Pop"))
    assert pop.split(" | ")[3:5] == ["–", "–"]  # no run on C, so no mean rank
    page = (three / "out/summary.html").read_text()
    assert page.count("<svg") == 2
    assert "A, 10%" in page
    assert (three / "out/summary-shares.svg").is_file()


def test_figures_by_share_have_each_seed_and_a_legend_beside_the_title(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(three / "A", "UniSRec-inductive-ours", "f", 2021, 6, dataset="A", train_users=0.1)
    drawn: list[Any] = []
    monkeypatch.setattr(summary_plots.drawing, "svg_of", lambda figure: drawn.append(figure) or "<svg>")
    tables.summary(stored.read_boards([three / "A"]), [], ["text-kNN"], "")
    figure = drawn[-1]
    figure.canvas.draw()
    assert not figure.legends[0].get_window_extent().overlaps(figure._suptitle.get_window_extent())
    ours = next(c for c in figure.axes[0].containers if c.get_label() == "UniSRec-inductive-ours")
    values = [0.5 / np.log2(rank + 1) for rank in (4, 6)]
    assert ours[0].get_ydata()[0] == pytest.approx(np.mean(values))
    (first, *_) = ours[2][0].get_segments()
    assert first[1, 1] - first[0, 1] == pytest.approx(2 * np.std(values, ddof=1))
    assert figure._suptitle.get_text() == "With 10% of the users UniSRec-inductive-ours is best on A"
    store(three / "B", "text-kNN", "g", 2020, 3, dataset="B", train_users=0.1)
    store(three / "B", "UniSRec-inductive-ours", "h", 2020, 4, dataset="B", train_users=0.1)
    tables.summary(stored.read_boards([three / "A", three / "B"]), [], ["text-kNN"], "")
    said = " ".join(drawn[-1]._suptitle.get_text().split())
    assert said == "With 10% of the users the best are UniSRec-inductive-ours on A; text-kNN on B"


def test_p_is_corrected_for_all_datasets_at_once(three: Path) -> None:
    found = tables.summary(stored.read_boards([three / name for name in "ABC"]), [], ["text-kNN"], "")
    raw, names = [], []
    sets = [*found.sets, *found.shares]
    for i, result in enumerate(sets):
        for row in result.rows:
            if row == "text-kNN":
                continue
            for metric in METRICS:
                mine, base = result.values[row][metric], result.values["text-kNN"][metric]
                raw.append(1.0 if np.array_equal(mine, base) else float(stats.ttest_rel(mine, base).pvalue))
                names.append((i, row, metric))
    assert len(raw) == 4 * 6 == len(found.tests)
    for (i, row, metric), p in zip(names, holm(raw), strict=True):
        assert found._test(i, row, "text-kNN", metric).p == pytest.approx(p)


def test_mean_ranks_and_gains_by_hand(three: Path) -> None:
    found = tables.summary(
        stored.read_boards([three / name for name in "AB"]), ["text-kNN", "UniSRec-inductive-ours"], ["text-kNN"], ""
    )
    table = found.figures("ndcg@10")
    rows = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert table.header[:4] == ("row", "A", "B", "mean rank")
    assert rows["text-kNN"][3] == rows["UniSRec-inductive-ours"][3] == "1.5"
    assert rows["UniSRec-inductive-ours"][4] == "–"  # none found at 10 on B: no geometric mean
    for row in ("text-kNN", "UniSRec-inductive-ours"):
        (three / f"C/runs/{row}").rename(three / f"C/{row}")
    store(three / "C", "Pop", "p", 2020, 3, dataset="C")
    alone = tables.summary(stored.read_boards([three / name for name in "ABC"]), [], ["text-kNN"], "").figures(
        "ndcg@10"
    )
    assert all(row[alone.header.index("mean rank")].text == "–" for row in alone.rows)  # Pop alone has no rank
    hit = {row[0].text: [cell.text for cell in row] for row in found.figures("ndcg@50").rows}
    knn, ours = (np.array([0.5 / np.log2(rank + 1) for rank in ranks]) for ranks in ((5, 5), (1, 30)))
    assert hit["UniSRec-inductive-ours"][4] == f"{np.sqrt((ours / knn).prod()) - 1:+.1%}"


def test_one_file_holds_all_that_the_folder_says(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(tables.main, [str(three / "A"), "--pack", str(three / "packed")]) == 0
    file = three / "packed/A.runs.zip"
    for share in (1.0, 0.1):
        assert tables.table(stored.read_boards([file]), [], share=share) == tables.table(
            stored.read_boards([three / "A"]), [], share=share
        )
    (board, *_), (packed, *_) = stored.read_boards([three / "A"]), stored.read_boards([file])
    for mine, theirs in zip(board.standings, packed.standings, strict=True):
        groups = [run.groups for run in (mine.runs[0], theirs.runs[0])]
        assert groups[0] == groups[1]
        assert list(groups[1]["length"]) == ["1-2", "5-9", "10-19"]  # in their order, not that of the alphabet
    first = file.read_bytes()
    write_archive(stored.read_runs(three / "A"), file)
    assert file.read_bytes() == first
    assert b"u01" not in first  # no token of a user
    file.write_bytes(first[:300])
    with pytest.raises(UserError, match="cannot read"):
        tables.table(stored.read_boards([file]), [])


def test_packed_runs_and_a_folder_of_one_name_go_together(three: Path) -> None:
    packed = three / "packed"
    assert run_cli(tables.main, [str(three / "A"), "--pack", str(packed)]) == 0
    store(three / "new/A", "SASRecPacked", "s", 2020, 2, dataset="A")
    store(three / "new/A", "text-kNN", "a", 2020, 3, dataset="A")  # made again
    words = [str(packed / "A.runs.zip"), str(three / "new/A"), str(three / "B"), "--pack", str(packed)]
    assert run_cli(tables.main, words) == 0
    board = stored.read_boards([packed / "A.runs.zip"])[0]
    found = {s.name: [run.key for run in s.runs] for s in board.standings}
    assert found == {
        "Pop": ["c"],
        "text-kNN": ["a"],
        "SASRecPacked": ["s"],
        "UniSRec-inductive-ours": ["b2020", "b2021"],
    }
    knn = next(s for s in board.standings if s.name == "text-kNN")
    assert set(board.ranks(knn)[1][0]) == {3, 51}
    assert {s.name for s in stored.read_boards([packed / "B.runs.zip"])[0].standings} == {
        "Pop", "text-kNN", "UniSRec-inductive-ours"
    }  # fmt: skip


def test_words_of_the_command_are_folders_first_then_rows(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(tables.main, [str(three / "A"), str(three / "B"), "Pop", "text-kNN"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("| row | A | B | mean rank |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| Pop", "| text-kNN"]
    # against several rows it would be too wide for a page
    assert run_cli(tables.main, [str(three / "A"), str(three / "B"), "--against", "Pop", "text-kNN"]) == 0
    first, second = capsys.readouterr().out.strip().split("\n\n")
    assert first.splitlines()[0] == "| row | A | B | mean rank |"
    assert second.splitlines()[0] == (
        "| row | gain over Pop | wins/ties/losses | gain over text-kNN | wins/ties/losses |"
    )
    named = [[line.split(" | ")[0] for line in part.splitlines()[2:]] for part in (first, second)]
    assert named[0] == named[1] != []
    (three / "D/runs").mkdir(parents=True)  # of a leaderboard that has just begun
    assert run_cli(tables.main, [str(three / "D"), str(three / "A"), str(three / "B"), "Pop"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("| row | A | B |")
    assert f"{three / 'D'} has no finished run and is left out" in said.err
    assert run_cli(tables.main, [str(three / "D")]) == 1
    assert "has no finished run; give the folder" in capsys.readouterr().err
    assert run_cli(tables.main, [str(three / "A"), str(three / "B"), "--metric", "MRR@10"]) == 1
    assert "take one of NDCG@10, HIT@10" in capsys.readouterr().err
    assert run_cli(tables.main, [str(three / "A"), str(three / "B"), "--against", "nobody"]) == 1
    assert "no dataset has a finished run of nobody" in capsys.readouterr().err


def test_the_finding_is_of_the_row_that_wins_most_and_gains_most(three: Path) -> None:
    found = tables.summary(
        stored.read_boards([three / name for name in "ABC"]), ["text-kNN", "UniSRec-inductive-ours"], ["text-kNN"], ""
    )
    text = _finding(found.sets, found.rows, ["text-kNN"], "hit@50")  # all equal: the first
    assert text == "text-kNN has the best HIT@50 on 3 of 3 targets"
    store(three / "A", "ZESRec", "z", 2020, 1, dataset="A")
    store(three / "B", "ZESRec", "z", 2020, 1, dataset="B")
    found = tables.summary(stored.read_boards([three / name for name in "ABC"]), [], ["text-kNN"], "")
    gain = np.log2(6) - 1
    expected = f"ZESRec has the best NDCG@10 on 2 of 2 targets, {gain:.0%} above text-kNN in the mean"
    assert _finding(found.sets, found.rows, ["text-kNN"], "ndcg@10") == expected


def test_a_command_reads_each_run_once(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = stored.read_runs
    monkeypatch.setattr(stored, "read_runs", lambda path: read.append(path) or real(path))
    for names in ("A", "AB"):
        read.clear()
        assert run_cli(tables.main, [str(three / name) for name in names]) == 0
        assert read == [three / name for name in names]


def test_a_p_value_is_written_alike_everywhere(three: Path) -> None:
    written = [p_value(p) for p in (0.0004, 0.001, 0.0499, 1.0)]
    assert written == ["p < .001", "p = .001", "p = .050", "p = 1.000"]
    report = tables.summary(stored.read_boards([three / "A", three / "B"]), [], ["text-kNN"], "").blocks()
    cells = [cell.text for block in report for row in block.rows for cell in row]
    assert any("p < ." in text or "p = ." in text for text in cells)
    assert not any("p < 0" in text or "p = 0" in text for text in cells)


@pytest.mark.parametrize(
    ("mine", "its", "said"),
    [
        (0.12, 0.1, "HIT@10 20% above SASRec"),
        (0.08, 0.1, "HIT@10 20% below SASRec"),
        (0.2, 0.1, "HIT@10 100% above SASRec"),
        (0.21, 0.1, "HIT@10 .2100, SASRec .1000"),  # more than double
        (0.011, 0.0099, "HIT@10 .0110, SASRec .0099"),  # less than one hit in a hundred users
        (0.055, 0.004, "HIT@10 .0550, SASRec .0040"),  # not +1275%
        (0.02, 0.0, "HIT@10 .0200, SASRec .0000"),
    ],
)
def test_a_ratio_is_not_said_where_its_base_is_tiny(mine: float, its: float, said: str) -> None:
    assert compared("HIT@10", mine, its, "SASRec") == said


def grouped(name: str, hits: dict[str, float]) -> stored.Standing:
    test = {metric: sum(hits.values()) for metric in METRICS}
    groups = {"popularity": {group: {"users": 9, "hit@10": hit} for group, hit in hits.items()}, "length": {}}
    run = stored.Run(name, "k", 2020, {}, {}, test, 0.5, groups, [], 1.0, 1, {})
    return stored.Standing(name, stored.row_named(name, run), [run], [run])


def test_the_groups_finding_is_where_most_is_gained_not_where_the_base_is_tiny(three: Path) -> None:
    board = stored.read_boards([three / "A"])[0]
    rival = grouped("SASRec", {"0": 0.001, "1-4": 0.1, "5-19": 0.2})
    ours = grouped("UniSRec-inductive", {"0": 0.02, "1-4": 0.15, "5-19": 0.21})
    text = _group_finding(board, [rival, ours])
    assert text == "UniSRec-inductive gains most on items with 1-4 training interactions: HIT@10 50% above SASRec"
    ours = grouped("UniSRec-inductive", {"0": 0.09, "1-4": 0.15, "5-19": 0.21})
    text = _group_finding(board, [rival, ours])
    assert text == "UniSRec-inductive gains most on items with 0 training interactions: HIT@10 .0900, SASRec .0010"
