"""Tables made from stored runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from dataset_tools.common import UserError
from recbole_unisrec.evaluation import write_ranks
from recbole_unisrec.leaderboard.tables import METRICS, table

USERS = np.array([f"u{i}" for i in range(40)])


def store(folder: Path, row: str, key: str, seed: int, rank: int, valid: float = 0.5) -> None:
    place = folder / "runs" / row
    place.mkdir(parents=True, exist_ok=True)
    ranks = np.where(np.arange(40) % 2, rank, 1000)
    hits = float((ranks <= 10).mean())
    run = {"row": row, "seed": seed, "valid_score": valid, "test": dict.fromkeys(METRICS, hits)}
    (place / f"{key}.json").write_text(json.dumps(run))
    write_ranks(str(place / f"{key}.npz"), USERS, ranks)


def test_means_over_seeds_and_the_change_against_a_row(tmp_path: Path) -> None:
    store(tmp_path, "text-kNN", "a", 2020, 5)
    store(tmp_path, "ours", "b", 2020, 1)
    store(tmp_path, "ours", "c", 2021, 1)
    store(tmp_path, "ours", "d", 2021, 100, valid=0.1)  # a worse point of the grid
    lines = table(tmp_path, ["text-kNN", "ours", "absent"], "text-kNN").splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| text-kNN | 0.5000 | 0.5000 | 0.5000 | 0.5000 | 1 |")
    assert lines[3].startswith("| ours | 0.5000 ± 0.0000 |")
    gain = np.log2(6) - 1  # of rank 1 over rank 5 in NDCG
    assert f"+0.0%, p = 1.000 / {gain:+.1%}, p < .001" in lines[3].replace("nan", "1.000")


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run of ours"):
        table(tmp_path, ["ours"], "text-kNN")
