"""Several datasets in one command, and rows that go on from their last epoch."""

import json
from pathlib import Path

import numpy as np
import pytest

from dataset_tools.common import run_cli
from recbole_unisrec.cli import train_command
from recbole_unisrec.leaderboard.rows import rows_of
from recbole_unisrec.leaderboard.runner import Leaderboard
from tests.conftest import write_ring

SMALL = ["--use_gpu=False", "--topk=[10,20]"]
UNTRAINED = ["--models", "Pop", "text-kNN-no-popularity", "--no-tuning"]


@pytest.fixture
def rings(ring: Path) -> Path:
    """Two datasets."""
    write_ring(ring, "other", seed=1)
    return ring


@pytest.mark.usefixtures("rings")
def test_each_dataset_fills_its_folder_and_the_summary_has_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(train_command, ["--leaderboard", "--dataset", "ring", "other", *UNTRAINED, *SMALL]) == 0
    root = Path("leaderboard")
    found = json.loads((root / "summary.json").read_text())
    assert [entry["dataset"] for entry in found["sets"]] == ["ring", "other"]
    for entry in found["sets"]:
        for row in ("Pop", "text-kNN-no-popularity"):
            (file,) = (root / entry["dataset"] / "runs" / row).glob("*.json")
            run = json.loads(file.read_text())
            assert entry["rows"][row]["metrics"]["ndcg@10"]["mean"] == pytest.approx(run["test"]["ndcg@10"])
    page = (root / "summary.html").read_text()
    assert 'href="other/report.html"' in page
    assert (root / "other/report.html").is_file()
    assert "summary: leaderboard/summary.html" in capsys.readouterr().out


@pytest.mark.usefixtures("rings")
def test_report_only_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--leaderboard", "--dataset", "ring", "other"]
    assert run_cli(train_command, [*sets, "--report-only", *SMALL]) == 1
    assert "no row is finished in leaderboard/ring, leaderboard/other" in capsys.readouterr().err
    assert run_cli(train_command, ["--leaderboard", "--dataset", "ring", *UNTRAINED, *SMALL]) == 0
    assert run_cli(train_command, ["--leaderboard", "--dataset", "other", "--models", "Pop", *SMALL]) == 0
    assert (
        run_cli(train_command, ["--leaderboard", "--dataset", "ring", "--train_users=0.1", "--models", "Pop", *SMALL])
        == 0
    )
    assert run_cli(train_command, [*sets, "--report-only", "--against", "Pop", *SMALL]) == 0
    text = Path("leaderboard/summary.md").read_text()
    assert "text-kNN-no-popularity on other" in text
    assert "gain over Pop" in text
    assert "| row | ring, 10% | ring, all |" in text
    assert run_cli(train_command, ["--leaderboard", "--dataset", "ring", "ring", *SMALL]) == 1
    assert "--dataset has ring twice" in capsys.readouterr().err


@pytest.mark.usefixtures("ring")
def test_a_row_that_was_cut_off_goes_on_from_its_last_epoch() -> None:
    settings = {"hidden_size": 16, "inner_size": 16, "epochs": 6, "stopping_step": 6, "use_gpu": False, "topk": [10, 20],
                "show_progress": False}  # fmt: skip
    rows = rows_of(["SASRecPacked"])
    row = rows["SASRecPacked"]
    whole = Leaderboard(Path("whole"), "ring", rows, 1, settings, [])
    expected, _ = whole.run(row, {}, 2020, tell=lambda line: None)

    def cut(line: str) -> None:
        if line.startswith("epoch   3"):
            raise KeyboardInterrupt

    def epochs_of(resume: bool) -> list[str]:
        board = Leaderboard(Path("cut"), "ring", rows, 1, settings, [], resume=resume)
        said: list[str] = []
        run, known = board.run(row, {}, 2020, tell=said.append)
        assert not known
        assert (run.test, run.curve) == (expected.test, expected.curve)
        users, ranks = (store.store.ranks(row.name, [run], board.users.user, "ring") for store in (board, whole))
        np.testing.assert_array_equal(users, ranks)
        return [line for line in said if line.startswith("epoch")]

    board = Leaderboard(Path("cut"), "ring", rows, 1, settings, [])
    with pytest.raises(KeyboardInterrupt):
        board.run(row, {}, 2020, tell=cut)
    assert 1 <= len(epochs_of(resume=True)) < 6
    assert not any(path.is_dir() for path in Path("cut/running").iterdir())
    next(Path("cut/runs/SASRecPacked").glob("*.json")).unlink()
    with pytest.raises(KeyboardInterrupt):
        board = Leaderboard(Path("cut"), "ring", rows, 1, settings, [])
        board.run(row, {}, 2020, tell=cut)
    assert len(epochs_of(resume=False)) == 6
