"""The table of a leaderboard in progress, drawn on a console that is a string."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from recbole_unisrec.leaderboard.live import LiveWatch, text_table
from recbole_unisrec.leaderboard.report import standings_of
from recbole_unisrec.leaderboard.rows import rows_of
from recbole_unisrec.leaderboard.runner import Leaderboard

SETTINGS = {
    "hidden_size": 16,
    "inner_size": 16,
    "epochs": 1,
    "use_gpu": False,
    "topk": [10, 20],
    "show_progress": False,
}


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize("width", [80, 140])
def test_the_table_follows_the_runs(width: int) -> None:
    rows = rows_of(["Pop", "SASRecPacked"])
    board = Leaderboard(Path("live"), "ring", rows, 2, SETTINGS, [])
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    watch = LiveWatch(board, lambda: standings_of(board, rows, dict.fromkeys(rows, False)), console)

    def drawn() -> list[str]:
        paper = Console(
            file=io.StringIO(), width=width, color_system=None
        )  # the live one draws its table around all it prints
        paper.print(watch._draw())
        return paper.file.getvalue().splitlines()

    with watch:
        assert any("SASRecPacked" in line and "0/2" in line for line in drawn())
        watch.begin("SASRecPacked, seed 2020")
        watch.tell("epoch   0  loss   3.1  valid NDCG@10 0.2")
        assert drawn()[-1].strip() == "SASRecPacked, seed 2020: epoch 0 loss 3.1 valid NDCG@10 0.2"
        complete = [standing.name for standing in board.fill(watch)]
    assert complete == ["Pop", "SASRecPacked"]
    table = drawn()
    (line,) = [line for line in table if "SASRecPacked" in line]
    assert "2/2" in line
    hit = board.finished(rows["SASRecPacked"], tuned=False).values("hit@10")
    assert f"{hit.mean():.4f} ±" in line
    assert f"{hit.mean():.4f} ±" in text_table(board, watch.standings())
    assert ("HIT@20" in "\n".join(table)) == (width == 140)
    assert max(map(len, table)) <= width
