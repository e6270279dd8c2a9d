"""RecBole's models as the leaderboard runs them: trimmed rows change no output, S3-Rec's losses are RecBole's."""

from typing import Any

import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender.s3rec import S3Rec
from torch import nn

from recbole_unisrec import quick_start
from recbole_unisrec.data.dataset import SequenceDataset
from recbole_unisrec.model.attribute_baselines import S3RecText
from recbole_unisrec.model.trim import length_groups, trim_padding
from recbole_unisrec.settings import build_config, model_class

pytestmark = pytest.mark.hardware

NETWORK = {"hidden_size": 16, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 12, "show_progress": False, "use_gpu": False}
DROPOUT = {"hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1}
SETTINGS: dict[str, dict[str, Any]] = {
    "SASRec": {**NETWORK, **DROPOUT},
    "GRU4Rec": {**{k: v for k, v in NETWORK.items() if k != "inner_size"}, "embedding_size": 16, "dropout_prob": 0.1},
    "BERT4Rec": {**NETWORK, **DROPOUT},
    "FDSAText": {**NETWORK, **DROPOUT},
    "S3RecText": {**NETWORK, **DROPOUT, "pretrain_epochs": 2},
}


def made(model: str, **settings: Any) -> tuple[Any, Any]:
    """The training part of the ring and an untrained model in evaluation mode."""
    config = build_config(model, "ring", [], {**SETTINGS[model], **settings})
    dataset = SequenceDataset(config) if model in ("SASRec", "GRU4Rec", "BERT4Rec") else create_dataset(config)
    train, *_ = data_preparation(config, dataset)
    torch.manual_seed(0)
    return train._dataset, model_class(model)(config, train._dataset).eval()


def test_length_groups() -> None:
    item_seq = torch.tensor([[1, 0, 0, 0, 0], [1, 2, 3, 0, 0], [1, 2, 3, 4, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
    found = [(index.tolist(), longest) for index, longest in length_groups(item_seq)]
    assert found == [([0, 4], 1), ([1, 2], 4), ([3], 5)]


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec"])
def test_trimmed_rows_give_the_same_scores(model: str) -> None:
    part, network = made(model)
    rows = part[torch.arange(40)]
    with torch.no_grad():
        expected = network.full_sort_predict(rows)
        trim_padding(network)
        torch.testing.assert_close(network.full_sort_predict(rows), expected)


@pytest.mark.usefixtures("ring")
def test_fdsa_reads_the_text() -> None:
    part, network = made("FDSAText")
    rows = part[torch.arange(40)]
    with torch.no_grad():
        scores = network.full_sort_predict(rows)
        torch.testing.assert_close(type(network).forward(network, rows["item_id_list"], rows["item_length"]),
                                   network.forward(rows["item_id_list"], rows["item_length"]))  # fmt: skip
        network.feature_embed_layer.features.roll(1, 0)
        network.feature_embed_layer.features = network.feature_embed_layer.features.roll(1, 0)
        assert (network.full_sort_predict(rows) - scores).abs().max() > 1e-4


@pytest.mark.usefixtures("ring")
def test_pretraining_of_s3rec_is_recboles() -> None:
    part, network = made("S3RecText")
    assert isinstance(network, S3RecText)
    rows = part[torch.arange(60)]
    item_seq, length = rows["item_id_list"], rows["item_length"]
    masked = (item_seq != 0) & (torch.rand(item_seq.shape) < 0.3)
    negative, segments = network.negatives(item_seq), network.segments(item_seq, length)
    ours = network.pretrain_loss(item_seq, length, masked, negative, segments)

    config = build_config("S3RecText", "ring", [], SETTINGS["S3RecText"])
    theirs = S3Rec(config, part).eval()
    theirs.n_features = part.item_num
    attributes = network.feature_embedding.table()
    theirs.feature_embedding = nn.Embedding.from_pretrained(attributes.detach())
    weights = {k: v for k, v in network.state_dict().items() if not k.startswith("feature_embedding")}
    theirs.load_state_dict(weights, strict=False)

    def left(rows: torch.Tensor) -> torch.Tensor:
        """Padded to the left, as RecBole has it in pre-training."""
        return torch.stack([row.roll(len(row) - int(n)) for row, n in zip(rows, length, strict=True)])

    one_hot = nn.functional.one_hot(left(item_seq), part.item_num) * (left(item_seq) != 0).unsqueeze(-1)
    expected = theirs.pretrain(
        one_hot, left(item_seq.masked_fill(masked, network.mask_token)), left(item_seq), left(negative), *map(left, segments)
    )  # fmt: skip
    torch.testing.assert_close(ours, expected)


@pytest.mark.usefixtures("ring")
def test_segments_and_negatives() -> None:
    part, network = made("S3RecText")
    rows = part[torch.arange(200)]
    item_seq, length = rows["item_id_list"], rows["item_length"]
    context, segment, other = network.segments(item_seq, length)
    hidden = context == network.mask_token
    long = length > 1
    assert (hidden.sum(1)[long] >= 1).all()
    assert (hidden.sum(1)[long] <= length[long] // 2).all()
    assert torch.equal(segment[long], torch.where(hidden, item_seq, network.mask_token * (item_seq != 0))[long])
    assert torch.equal((other == network.mask_token)[long], (~hidden & (item_seq != 0))[long])
    for found in (context, segment, other):
        assert torch.equal(found != 0, item_seq != 0)
        assert torch.equal(found[~long], item_seq[~long])
    negative = network.negatives(item_seq)
    assert not any(set(row.tolist()) & set(n.tolist()) for row, n in zip(item_seq, negative, strict=True))


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize("model", list(SETTINGS))
def test_they_learn_the_ring_but_for_items_held_out(capsys: pytest.CaptureFixture[str], model: str) -> None:
    learning = {"epochs": 12, "learning_rate": 0.01, "train_batch_size": 128, "topk": [3, 10], "valid_metric": "NDCG@3"}
    if model == "BERT4Rec":  # learns from few masked items a row, and leaves the first item out
        learning.update(epochs=60, train_batch_size=64, stopping_step=60)
    config = build_config(model, "ring", [], {**SETTINGS[model], **learning, "cold_items": 0.2})
    groups = quick_start.train(config).groups["popularity"]
    warm = [(values["users"], values["hit@3"]) for name, values in groups.items() if name != "0"]
    hit = sum(n * hit for n, hit in warm) / sum(n for n, _ in warm)
    assert hit > (0.25 if model == "BERT4Rec" else 0.6)  # three of 24 items at random: 0.125
    assert groups["0"]["users"] > 5
    assert groups["0"]["hit@3"] <= 0.1
    assert capsys.readouterr().out.count("pre-training epoch") == (2 if model == "S3RecText" else 0)
