"""VQ-Rec's codes and item vectors against independent arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_unisrec import quick_start
from recbole_unisrec.data.text_dataset import TextDataset
from recbole_unisrec.errors import UserError
from recbole_unisrec.model.vqrec import VQRec, dealt_eigenvectors, fit
from recbole_unisrec.settings import build_config

OWN = {"n_codes": 8, "code_size": 12}


def settings(small: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**{k: v for k, v in small.items() if k not in ("n_exps", "adaptor_dropout_prob")}, **OWN, **more}


def correlated(n: int = 3000, width: int = 16) -> torch.Tensor:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((width, width)) * 0.8 ** np.arange(width)[:, None]  # a few directions hold most of it
    return torch.tensor(rng.standard_normal((n, width)) @ mixing + 3, dtype=torch.float32)


def test_each_code_is_the_nearest_centroid_after_a_rotation() -> None:
    x = correlated()
    found = fit(x, 4, 16)
    codes = found.encode(x).numpy()
    rotation = found.rotation.double().numpy()
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-5)
    turned = (x.double().numpy() - found.mean.double().numpy()) @ rotation
    for group in range(4):
        part, centroids = turned[:, 4 * group : 4 * group + 4], found.centroids[group].double().numpy()
        distance = ((part[:, None] - centroids) ** 2).sum(axis=2)
        best = distance.min(axis=1)
        np.testing.assert_allclose(distance[np.arange(len(x)), codes[:, group]], best, atol=1e-4)  # ties are either
    assert all(len(np.unique(codes[:, group])) == 16 for group in range(4))


def test_the_rotation_pays() -> None:
    x = correlated()
    found = fit(x, 4, 16)
    error = float((found.decode(found.encode(x)) - x).square().sum(dim=1).mean())
    plain = 0.0  # k-means of the columns as they stand
    for part in (x - x.mean(dim=0)).chunk(4, dim=1):
        one = fit(part, 1, 16)
        plain += float((one.decode(one.encode(part)) - part).square().sum(dim=1).mean())
    assert error < 0.9 * plain


def test_eigenvectors_are_dealt_out_evenly() -> None:
    x = correlated()
    x = x - x.mean(dim=0)
    turned = (x @ dealt_eigenvectors(x, 4)).double().numpy()
    variance = turned.var(axis=0).reshape(4, 4)
    values = np.sort(np.linalg.eigvalsh(np.cov(x.double().numpy().T)))[::-1]
    np.testing.assert_allclose(np.sort(variance.ravel())[::-1], values, rtol=1e-3)
    spread = np.ptp(np.log(variance).sum(axis=1))
    assert spread < np.ptp(np.log(values.reshape(4, 4)).sum(axis=1)) / 5  # of the eigenvectors in their order


def test_item_vectors_are_means_of_code_embeddings(ring: Path, small: dict[str, Any]) -> None:
    config = build_config("VQRec", "ring", [], settings(small))
    train, _, _ = TextDataset(config).build()
    model = VQRec(config, train).eval()
    table = model.item_table().detach().double().numpy()
    codes, weight = model.codes.numpy(), model.code_embedding.weight.detach().double().numpy()
    assert codes[1:].min() >= 0
    assert (codes[1:] // 12 == np.arange(8)).all()  # each code has rows of its own
    expected = np.stack([np.mean([weight[row] for row in codes[i]], axis=0) for i in range(1, len(codes))])
    np.testing.assert_allclose(table[1:], expected, atol=1e-7)
    assert not table[0].any()
    items = torch.tensor([[3, 0], [7, 24]])
    torch.testing.assert_close(model.item_table(items), model.item_table()[items])
    # scores: cosine of output and item
    rows = train[torch.arange(5)]
    scores = model.full_sort_predict(rows).detach().double().numpy()
    output = model.forward(rows["item_id_list"], rows["item_length"]).detach().double().numpy()
    norm = np.linalg.norm(table, axis=1).clip(1e-12)
    np.testing.assert_allclose(
        scores, output @ (table / norm[:, None]).T / np.linalg.norm(output, axis=1)[:, None], atol=1e-5
    )


def test_codes_are_learned_from_known_items_alone_and_kept_in_the_checkpoint(ring: Path, small: dict[str, Any]) -> None:
    config = build_config("VQRec", "ring", [], settings(small, cold_items=0.2, epochs=1))
    train, _, _ = TextDataset(config).build()
    model = VQRec(config, train)
    expected = fit(train.features.weight[1:][~train.cold[1:]].float(), 8, 12)
    codes = expected.encode(train.features.weight[1:].float()) + 12 * torch.arange(8)
    assert torch.equal(model.codes[1:].long(), codes)
    result = quick_start.train(config)
    kept = torch.load(result.checkpoint, weights_only=False)["state_dict"]["codes"]
    assert torch.equal(kept, model.codes)
    assert result.epochs[0]["loss"] > 0


def test_codes_that_do_not_divide_the_width(ring: Path, small: dict[str, Any]) -> None:
    config = build_config("VQRec", "ring", [], settings(small, n_codes=5))
    train, _, _ = TextDataset(config).build()
    with pytest.raises(UserError, match="16 wide, which 5 codes cannot share"):
        VQRec(config, train)
