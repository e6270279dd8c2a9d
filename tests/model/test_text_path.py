"""The text's own path: the start is nearest texts, products of wide vectors are the formula, training can only add."""

from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data import create_dataset

from recbole_unisrec import quick_start
from recbole_unisrec.compat import safe_torch_load
from recbole_unisrec.data.held_out import some_pairs
from recbole_unisrec.data.sequences import Pairs, bucket_lengths, pack
from recbole_unisrec.model.base import HISTORY_GAIN
from recbole_unisrec.model.text_path import DECAY, GAIN, HISTORY, KAPPA, POPULARITY, STEP
from recbole_unisrec.model.text_vectors import unit_features
from recbole_unisrec.path_start import MOST_PAIRS, TRIED, choose_start
from recbole_unisrec.registry import MODELS
from recbole_unisrec.settings import build_config, recipe

MODEL_SETTINGS = {
    "UniSRec": {"train_stage": "inductive_ft", "text_path": True, "history_bias": True},
    "ZESRec": {"text_path": True},
    "SASRecPath": {},
}


def made(model: str, small: dict[str, Any], **more: Any) -> tuple[Any, Any, Any]:
    own = small if model == "UniSRec" else {k: v for k, v in small.items() if "exps" not in k and "adaptor" not in k}
    config = build_config(model, "ring", [], {**own, **MODEL_SETTINGS[model], **more})
    dataset = create_dataset(config)
    train, _, _ = dataset.build()
    torch.manual_seed(0)
    return config, train, MODELS[model].model(config, train)


@pytest.mark.parametrize("model", list(MODEL_SETTINGS))
def test_logits_are_the_formula(ring: Path, small: dict[str, Any], model: str) -> None:
    _, train, network = made(model, small)
    network = network.double().eval()
    path = network.text_path
    for weight in path.parameters():
        torch.nn.init.normal_(weight, std=0.03)
    batch = pack(train.segments, torch.arange(20), bucket_lengths(8))
    table = network.item_table()
    wide = network.packed_outputs(batch, table)
    found = wide @ network.candidate_vectors(table).T / network.temperature
    alone, network.text_path = network.text_path, None
    plain = network.packed_outputs(batch, table) @ network.scaled(table).T / network.temperature
    network.text_path = alone
    unit = unit_features(train.features.weight, "whiten").double()
    ages = DECAY ** torch.arange(8.0).double() * (STEP * path.age).exp()
    seen = batch.histories()
    mean = torch.zeros(len(found), unit.shape[1]).double()
    mean.index_add_(0, seen.row, ages[seen.distance, None] * unit[seen.item])
    norm = torch.zeros(len(found)).double().index_add_(0, seen.row, ages[seen.distance] ** 2).sqrt()
    text = (mean / norm.unsqueeze(1)) @ unit.T
    gain, kappa = GAIN * (STEP * path.gain).exp(), KAPPA * (STEP * path.kappa).exp()
    beta = KAPPA * POPULARITY + STEP * path.beta
    expected = gain * plain + kappa * text + beta * torch.log1p(train.item_popularity().double())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # x̂ of the model are rounded to float32
    if network.history_bias is not None:
        assert (network.history_bias.detach() * HISTORY_GAIN).tolist() == pytest.approx([HISTORY] * 8)


def test_history_bias_starts_at_zero_where_people_take_things_again(ring: Path, small: dict[str, Any]) -> None:
    assert made("UniSRec", small)[1].repeat_share() == 0  # a walk of 13 steps in a ring of 24
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"u{user}\titem-{(user + t // 2) % 24}\t{t}" for user in range(24) for t in range(12)]
    (ring / "ring" / "ring.inter").write_text("\n".join(lines) + "\n")
    _, train, network = made("UniSRec", small)
    assert train.repeat_share() == pytest.approx(5 / 9)  # of ten training items five are new
    assert (network.history_bias == 0).all()


def test_no_logit_is_above_the_bound(ring: Path, small: dict[str, Any]) -> None:
    _, train, network = made("UniSRec", small, history_bias=False)
    batch = pack(train.segments, torch.arange(len(train.segments)), bucket_lengths(8))
    for spread in (0.0, 0.05, 0.2):
        for weight in network.text_path.parameters():
            torch.nn.init.normal_(weight, std=spread)
        for mode in (True, False):
            table = network.train(mode).item_table()
            outputs, items = network.packed_outputs(batch, table), network.candidate_vectors(table)
            most = float((outputs @ items.T / network.temperature).detach().amax())
            assert most <= network.text_path.bound(1 / network.temperature) * (1 + 1e-6)


def test_a_share_of_the_predictions_is_without_the_path(ring: Path, small: dict[str, Any]) -> None:
    _, train, network = made("UniSRec", small, text_path_alone=0.25, hidden_dropout_prob=0.0, attn_dropout_prob=0.0)
    batch = pack(train.segments, torch.arange(len(train.segments)), bucket_lengths(8))
    table = network.item_table().detach()
    d = network.hidden_size
    wide = network.train().packed_outputs(batch, table)
    alone = (wide[:, d:] == 0).all(dim=1)
    assert 0.1 < alone.float().mean() < 0.4
    torch.testing.assert_close(wide[alone, :d].norm(dim=1), torch.ones(int(alone.sum())))  # g is 1 there
    torch.testing.assert_close(wide[~alone, :d].norm(dim=1), torch.full((int((~alone).sum()),), GAIN))
    assert (network.eval().packed_outputs(batch, table)[:, -1] != 0).all()
    assert (made("UniSRec", small, text_path_alone=0.0)[2].train().packed_outputs(batch, table)[:, -1] != 0).all()


def test_the_start_is_kept_where_training_only_harms(ring: Path, small: dict[str, Any]) -> None:
    settings = {**small, **MODEL_SETTINGS["UniSRec"], "epochs": 3}
    start = quick_start.train(build_config("UniSRec", "ring", [], {**settings, "epochs": 0}))
    harmed = quick_start.train(build_config("UniSRec", "ring", [], {**settings, "learning_rate": 0.3}))
    assert max(epoch["valid_score"] for epoch in harmed.epochs) < start.valid["ndcg@3"]
    assert harmed.best_epoch == -1
    assert harmed.test == start.test
    kept, first = (safe_torch_load(r.checkpoint, map_location="cpu")["state_dict"] for r in (harmed, start))
    assert all(torch.equal(kept[name], first[name]) for name in first)


def test_the_recipe_has_it_and_the_paper_has_not(ring: Path, small: dict[str, Any]) -> None:
    assert recipe("ours")["text_path"] is True
    assert build_config("UniSRec", "ring", [], small)["text_path"] is False
    plain = quick_start.train(build_config("UniSRec", "ring", [], {**small, "epochs": 1}))
    names = safe_torch_load(plain.checkpoint, map_location="cpu")["state_dict"]
    assert not [name for name in names if "text_path" in name]


def test_it_learns_with_sampled_losses_and_cold_items(ring: Path, small: dict[str, Any]) -> None:
    own = {**small, **MODEL_SETTINGS["UniSRec"], "epochs": 12}
    sampled = {"loss": "sampled", "n_negatives": 12}
    for more in ({}, sampled, {"cold_items": 0.1}, {"train_mode": "prefix"}):
        result = quick_start.train(build_config("UniSRec", "ring", [], {**own, **more}))
        assert result.epochs[-1]["loss"] < result.epochs[0]["loss"]
        assert result.test["hit@3"] > (0.4 if "cold_items" in more else 0.6)  # at random .125


def test_validation_chooses_where_it_starts(ring: Path, small: dict[str, Any]) -> None:
    settings = {**small, **MODEL_SETTINGS["UniSRec"], "epochs": 0, "ema_decay": 0.9}

    def score(**start: float) -> tuple[float, dict[str, float]]:
        result = quick_start.train(build_config("UniSRec", "ring", [], {**settings, **start}))
        return result.valid["ndcg@3"], result.path_start

    best, chosen = score()
    for popularity in TRIED["text_path_popularity"]:
        found, none = score(text_path_popularity=popularity, text_path_decay=DECAY)
        assert none is None  # nothing was left to choose
        assert found <= best
    assert score(**chosen)[0] == best
    assert score(text_path_popularity=0.3)[1]["text_path_popularity"] == 0.3
    assert score(text_path_decay=1.0)[1]["text_path_decay"] == 1.0


def test_a_start_is_nearest_texts_with_the_same_settings(ring: Path, small: dict[str, Any]) -> None:
    network = made("UniSRec", small, text_path_decay=0.4, text_path_popularity=0.03)[2]
    torch.testing.assert_close(network.text_path.age_weights(), 0.4 ** torch.arange(8.0))
    _, kappa, beta = network.text_path.weights()
    assert float((beta / kappa).detach()) == pytest.approx(0.03)


def test_one_setting_after_the_other_and_a_tie_stays_with_the_usual_value() -> None:
    nothing = dict.fromkeys(TRIED)
    asked: list[dict[str, float]] = []

    def score(start: dict[str, float]) -> float:
        asked.append(start)
        return -abs(start["text_path_popularity"] - 0.05) - abs(start["text_path_decay"] - 0.85)

    assert choose_start(nothing, score) == {"text_path_popularity": 0.05, "text_path_decay": 0.85}
    assert len(asked) == 7
    assert choose_start(nothing, lambda _: 0.0) == {"text_path_popularity": POPULARITY, "text_path_decay": DECAY}
    given = {"text_path_popularity": 0.0, "text_path_decay": 0.5}
    assert choose_start(given, lambda _: pytest.fail("nothing is to be chosen")) == given


@pytest.mark.parametrize("users", [10, 10_000, 10_001, 25_000])
def test_it_looks_at_some_users(users: int) -> None:
    place = torch.arange(users)
    some = some_pairs(Pairs(place, place, place, place), MOST_PAIRS)
    assert len(some) == min(users, MOST_PAIRS)
    assert len(some.user.unique()) == len(some)
