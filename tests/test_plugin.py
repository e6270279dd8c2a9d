"""The models inside RecBole, by RecBole's own functions; and a contract that each of them must keep."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole import quick_start as recbole_quick_start
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import run_recbole
from recbole.utils import get_model, get_trainer, init_seed
from recbole.utils.case_study import full_sort_topk

import recbole_unisrec
from recbole_unisrec.data.features import scaling
from recbole_unisrec.registry import MODELS
from recbole_unisrec.settings import OF_EVERY_MODEL, recipe
from recbole_unisrec.trainer import PackedTrainer

pytestmark = pytest.mark.hardware

# the ring has few pairs: batches and rates are those of `small`
RECIPE = {name: value for name, value in recipe("ours").items() if name not in OF_EVERY_MODEL}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("UniSRec", {"train_stage": "inductive_ft"}),
    ("UniSRec", {"train_stage": "transductive_ft"}),
    ("UniSRec", {"train_stage": "transductive_ft", **RECIPE}),
    ("SASRecPacked", {}),
    ("SASRecPacked", {"history_bias": True}),
    ("SASRecText", {}),
    ("ZESRec", {}),
    ("UniSRec", {"train_stage": "inductive_ft", "text_path": True}),
    ("ZESRec", {"text_path": True, "history_bias": True}),
    ("SASRecPath", {"mask_history": True}),
    ("VQRec", {"n_codes": 8, "code_size": 12}),
    ("TedRec", {}),
    ("TedRec", {"text_path": True, "history_bias": True}),
]


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["test"])


def prepared(model: str, own: dict[str, Any], settings: dict[str, Any]) -> tuple[Any, Any, tuple[Any, Any, Any], Any]:
    config = Config(model=model, dataset="ring", config_dict={**settings, **own})
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    parts = data_preparation(config, dataset)
    network = get_model(model)(config, parts[0]._dataset)
    if network.history_bias is not None:
        torch.nn.init.normal_(network.history_bias, std=0.02)  # a step from 0, so that it counts
    if network.text_path is not None:  # and from the start of the path, in which ages and weights are much the same
        for weight in network.text_path.parameters():
            torch.nn.init.normal_(weight, std=0.02)
    return config, dataset, parts, get_trainer(config["MODEL_TYPE"], model)(config, network)


def test_registered_names() -> None:
    for name, entry in MODELS.items():
        assert get_model(name) is entry.model
        assert get_trainer(None, name) is entry.trainer
    assert get_model("UniSRec") is recbole_unisrec.UniSRec
    assert not torch.is_anomaly_enabled()  # RecBole's sine.py switches it on


@pytest.mark.parametrize(("model", "own"), VARIANTS)
def test_learns_the_planted_pattern(ring: Path, small: dict[str, Any], model: str, own: dict[str, Any]) -> None:
    *_, (train, valid, test), trainer = prepared(model, own, {**small, "epochs": 25})
    trainer.fit(train, valid, saved=False)
    hit = trainer.evaluate(test, load_best_model=False)["hit@3"]
    assert hit > 0.8  # three of 24 items at random: 0.125


@pytest.mark.parametrize(("model", "own"), VARIANTS)
def test_batch_equals_single_and_padding_changes_nothing(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any]
) -> None:
    *_, (_, _, test), trainer = prepared(model, own, small)
    network = trainer.model.eval()
    rows = test._dataset[torch.arange(10)]
    with torch.no_grad():
        scores = network.full_sort_predict(rows)
        for i in range(10):
            length = int(rows["item_length"][i])
            single = {
                "item_id_list": rows["item_id_list"][i : i + 1, :length],
                "item_length": rows["item_length"][i : i + 1],
                "item_id": rows["item_id"][i : i + 1],
            }
            torch.testing.assert_close(network.full_sort_predict(single)[0], scores[i], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(network.predict(single)[0], scores[i, rows["item_id"][i]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("model", "own"), VARIANTS)
def test_prefix_and_packed_training_give_one_loss(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any]
) -> None:
    *_, (train, _, _), trainer = prepared(model, own, {**small, "long_sequences": "exact", "train_batch_size": 10**6})
    network = trainer.model.double().eval()
    (batch,) = list(train)
    packed = network.calculate_loss(batch)
    plain = network.calculate_loss(train._dataset[torch.arange(len(train._dataset))])
    torch.testing.assert_close(packed, plain)
    grads = [torch.autograd.grad(loss, list(network.parameters()), allow_unused=True) for loss in (packed, plain)]
    for ours, theirs in zip(*grads, strict=True):
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("model", "own"), VARIANTS)
def test_counting_ranks_equals_recboles_evaluation(
    ring: Path, small: dict[str, Any], model: str, own: dict[str, Any]
) -> None:
    *_, (train, valid, test), trainer = prepared(model, own, {**small, "metrics": ["HIT", "NDCG", "MRR"], "epochs": 2})
    trainer.fit(train, valid, saved=False)
    ours = trainer.evaluate(test, load_best_model=False)
    with trainer._averaged():  # with `ema_decay` these are the weights that ours looked at
        theirs = super(PackedTrainer, trainer).evaluate(test, load_best_model=False)
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(("model", "stage"), VARIANTS)
@pytest.mark.parametrize("mode", ["packed", "prefix"])
def test_items_held_out_are_no_candidates_in_training(
    ring: Path, small: dict[str, Any], model: str, stage: str | None, mode: str
) -> None:
    _, dataset, (train, _, test), trainer = prepared(model, stage, {**small, "cold_items": 0.25, "train_mode": mode})
    network = trainer.model.double().eval()
    table = network.item_table().detach().requires_grad_()
    network.item_table = lambda items=None: table if items is None else table[items]
    for batch in train:
        network.calculate_loss(batch).backward()
    assert torch.equal((table.grad == 0).all(dim=1), dataset.cold)
    assert dataset.cold[test._dataset.inter_feat["item_id"]].any()  # but they are to be found


@pytest.mark.parametrize("how", ["standardize", "whiten"])
def test_texts_of_items_held_out_do_not_scale_those_of_the_others(ring: Path, small: dict[str, Any], how: str) -> None:
    stage = {"train_stage": "inductive_ft", "feature_scaling": how}
    _, dataset, (train, _, _), trainer = prepared("UniSRec", stage, {**small, "cold_items": 0.25})
    raw, known = dataset.features.weight, ~dataset.cold
    known[0] = False
    assert 0 < int(known.sum()) < len(known) - 1
    mean, matrix = scaling(raw[known], how)
    torch.testing.assert_close(trainer.model.features[1:], ((raw[1:].double() - mean) @ matrix).float())
    torch.testing.assert_close(train._dataset.known_features, raw[known])
    before = trainer.model.features[known].clone()
    dataset.features.weight[dataset.cold] += 7.0  # whatever their texts say
    again = get_model("UniSRec")(trainer.config, train._dataset)
    assert torch.equal(again.features[known], before)


@pytest.mark.parametrize("mode", ["packed", "prefix"])
def test_a_share_of_the_users_is_learned_from(ring: Path, small: dict[str, Any], mode: str) -> None:
    stage = {"train_stage": "transductive_ft"}
    _, whole, (_, _, everyone), _ = prepared("UniSRec", stage, {**small, "train_mode": mode})
    drawn = []
    for share in (0.1, 0.5):
        _, dataset, (train, _, test), _ = prepared(
            "UniSRec", stage, {**small, "train_mode": mode, "train_users": share}
        )
        drawn.append(set(dataset.split.train_user.tolist()))
        assert len(drawn[-1]) == round(share * len(whole.split.train_user))
        assert set(train._dataset.inter_feat["user_id"].tolist()) == drawn[-1]
        assert sum(len(batch) for batch in train) == len(dataset.split.train) < len(whole.split.train)
        assert len(test._dataset) == len(everyone._dataset)
        assert dataset.item_popularity().sum() < whole.item_popularity().sum()
    assert drawn[0] < drawn[1]


def test_saved_and_loaded_scores_are_the_same(ring: Path, small: dict[str, Any]) -> None:
    *_, (train, valid, test), trainer = prepared("UniSRec", {"train_stage": "transductive_ft"}, {**small, "epochs": 2})
    trainer.fit(train, valid, saved=True)
    trainer.evaluate(test, load_best_model=True)
    users = np.arange(1, 11)
    expected, items = full_sort_topk(users, trainer.model, test, k=5)
    config, model, dataset, _, _, again = recbole_quick_start.load_data_and_model(trainer.saved_model_file)
    scores, found = full_sort_topk(users, model, again, k=5)
    assert config["train_stage"] == "transductive_ft"
    assert torch.equal(found, items)
    torch.testing.assert_close(scores, expected)
    assert dataset.id2token("item_id", found[0])[0].startswith("item-")


def test_run_recbole_and_prefix_mode(ring: Path, small: dict[str, Any]) -> None:
    result = run_recbole(
        model="UniSRec", dataset="ring", config_dict={**small, "epochs": 2, "train_mode": "prefix"}, saved=True
    )
    assert set(result["test_result"]) == {"hit@3", "ndcg@3"}


@pytest.mark.usefixtures("ring")
def test_runs_of_recboles_own_are_left_as_they_are() -> None:
    settings = {
        "epochs": 1, "hidden_size": 16, "inner_size": 16, "learner": "unheard-of", "train_neg_sample_args": None, "worker": 0,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "topk": [3], "valid_metric": "NDCG@3",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}, "show_progress": False,
    }  # fmt: skip
    result = run_recbole(model="SASRec", dataset="ring", config_dict=settings, saved=False)  # RecBole takes Adam then
    assert result["test_result"]["ndcg@3"] >= 0


def test_objective_function_for_hyper_parameter_tuning(
    ring: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.quick_start import quick_start

    reported: dict[str, float] = {}
    monkeypatch.setattr(quick_start.tune, "report", lambda **values: reported.update(values))
    settings = {**small, "model": "UniSRec", "dataset": "ring", "epochs": 1}
    result = quick_start.objective_function(config_dict=settings, saved=True)
    assert result["model"] == "UniSRec"
    assert reported == result["test_result"]


def test_recboles_hyper_tuning(ring: Path, small: dict[str, Any]) -> None:
    pytest.importorskip("hyperopt", reason="the extra tune is not installed")
    from recbole.trainer import HyperTuning

    Path("space.test").write_text("learning_rate choice [0.01,1e-7]\n")
    settings = {**small, "model": "UniSRec", "dataset": "ring", "epochs": 4}

    def objective(chosen: dict[str, Any], files: list[str]) -> dict[str, Any]:
        return recbole_quick_start.objective_function({**settings, **chosen}, files, saved=False)

    tuning = HyperTuning(objective, params_file="space.test", algo="exhaustive")
    tuning.run()
    assert len(tuning.params2result) == 2
    assert tuning.best_params == {"learning_rate": 0.01}


@pytest.mark.parametrize("stage", ["inductive_ft", "transductive_ft"])
def test_two_runs_of_one_seed_are_equal(ring: Path, small: dict[str, Any], stage: str) -> None:
    weights = []
    for _ in range(2):
        *_, (train, valid, _), trainer = prepared("UniSRec", {"train_stage": stage}, {**small, "epochs": 2})
        trainer.fit(train, valid, saved=False)
        weights.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name


def test_one_and_two_threads_agree(ring: Path, small: dict[str, Any]) -> None:
    losses = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        *_, (train, _, _), trainer = prepared("UniSRec", {"train_stage": "inductive_ft"}, small)
        losses.append(trainer.model.eval().calculate_loss(next(iter(train))).item())
    torch.set_num_threads(1)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_cached_table_follows_the_weights(ring: Path, small: dict[str, Any]) -> None:
    *_, (train, _, test), trainer = prepared("UniSRec", {"train_stage": "inductive_ft"}, small)
    rows = test._dataset[torch.arange(4)]
    with torch.no_grad():
        before = trainer.model.eval().full_sort_predict(rows)
    trainer._train_epoch(train, 0)
    with torch.no_grad():
        after = trainer.model.eval().full_sort_predict(rows)
        trainer.model.moe_adaptor.w_gate.add_(1.0)
        trainer.model.moe_adaptor.experts[0].bias.add_(1.0)
        changed = trainer.model.full_sort_predict(rows)
    assert not torch.equal(before, after)
    assert not torch.equal(after, changed)
