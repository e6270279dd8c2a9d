import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_unisrec import quick_start
from recbole_unisrec.data.features import scale_features
from recbole_unisrec.settings import build_config
from recbole_unisrec.trainer import PackedTrainer
from recbole_unisrec.weight_average import WeightAverage
from tests.conftest import SMALL, write_ring
from tests.test_plugin import prepared


def test_average_of_weights_by_hand() -> None:
    module = torch.nn.Linear(1, 1, bias=False).double()
    module.weight.data.fill_(1.0)
    average = WeightAverage(module, 0.5)
    expected, value = 1.0, 1.0
    for step in range(1, 30):
        value += 1.0
        module.weight.data.fill_(value)
        average.update()
        decay = min(0.5, step / (step + 9))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert module.weight.item() == pytest.approx(expected)
    assert module.weight.item() == value


def test_weights_come_back_after_an_error() -> None:
    module = torch.nn.Linear(2, 2)
    average = WeightAverage(module, 0.9)
    before = module.weight.detach().clone()
    module.weight.data.add_(1.0)
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    torch.testing.assert_close(module.weight.detach(), before + 1.0)


def test_scaled_features_have_the_promised_moments() -> None:
    torch.manual_seed(0)
    weight = torch.cat([torch.zeros(1, 6), torch.randn(500, 6) @ torch.randn(6, 6) + 3.0])
    whitened, standard = scale_features(weight, "whiten"), scale_features(weight, "standardize")
    for scaled in (whitened, standard):
        assert not scaled[0].any()
        torch.testing.assert_close(scaled[1:].mean(0), torch.zeros(6), atol=1e-4, rtol=0.0)
        torch.testing.assert_close(scaled[1:].var(0, correction=0), torch.ones(6), atol=0.1, rtol=0.0)
    spread = whitened[1:].T @ whitened[1:] / 500
    torch.testing.assert_close(spread, torch.eye(6), atol=0.1, rtol=0.0)
    assert scale_features(weight, "none") is weight


@pytest.mark.parametrize(("window", "rate"), [(200, 0.001), (100, 0.003)])
def test_histories_of_one_item_many_times(
    window: int, rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_ring(tmp_path / "dataset", "again")
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"u{user}\titem-{user % 24}\t{t}" for user in range(24) for t in range(240)]
    (folder / "again.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        **SMALL, "recipe": "ours", "MAX_ITEM_LIST_LENGTH": window, "learning_rate": rate, "train_stage": "inductive_ft",
        "epochs": 2, "train_batch_size": 500,
    }  # fmt: skip
    result = quick_start.train(build_config("UniSRec", "again", [], settings))
    assert [math.isfinite(epoch["loss"]) for epoch in result.epochs] == [True, True]
    assert result.test["hit@3"] == 1.0


@pytest.mark.usefixtures("ring")
def test_two_runs_of_one_second_keep_their_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole.trainer.trainer.get_local_time", lambda: "now")
    config = build_config("UniSRec", "ring", [], {**SMALL, "epochs": 1})
    first, second = (quick_start.train(config).checkpoint for _ in range(2))
    assert first != second
    assert Path(first).is_file()


@pytest.mark.parametrize(("decay", "epochs"), [(None, 2), (0.5, 3), (0.9, 15)])
def test_it_does_not_stop_while_the_average_still_holds_the_start(
    ring: Path, small: dict[str, Any], decay: float | None, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps an epoch, and every validation is worse than the one before: 3 / (1 - decay) steps, rounded up."""
    scores = itertools.count(0, -1)
    monkeypatch.setattr(PackedTrainer, "_valid_epoch", lambda self, *args, **kwargs: (next(scores), {}))
    own = {"ema_decay": decay, "stopping_step": 0, "epochs": 40}
    *_, (train, valid, _), trainer = prepared("SASRecPacked", own, small)
    train._n_batches = 2
    trainer.fit(train, valid, saved=False)
    assert len(trainer.train_loss_dict) == epochs
