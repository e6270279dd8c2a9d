"""TedRec's fusion against a convolution written out; no prediction hears of what comes after it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_unisrec import quick_start
from recbole_unisrec.data.text_dataset import TextDataset
from recbole_unisrec.model.tedrec import TedRec
from recbole_unisrec.settings import build_config


@pytest.fixture
def model(ring: Path, small: dict[str, Any]) -> TedRec:
    """A model in double precision, its zeros a step from zero so that they count."""
    config = build_config("TedRec", "ring", [], {**small, "MAX_ITEM_LIST_LENGTH": 7})
    train, _, _ = TextDataset(config).build()
    found = TedRec(config, train).double().eval()
    for weight in (found.shift, found.gate, found.id_gate.bias, found.mixed_gate.bias, found.filter):
        torch.nn.init.normal_(weight, std=0.5)
    return found


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_hand(model: TedRec, history: list[int]) -> np.ndarray:
    """The inputs of the encoder for one history, by sums over positions."""
    n, d = model.max_seq_length, model.hidden_size
    numbers = {name: t.detach().double().numpy() for name, t in model.state_dict().items()}
    table, features = numbers["item_embedding.weight"], model.features.double().numpy()
    ids, texts = np.zeros((n, d)), np.zeros((n, d))
    for p, item in enumerate(history):
        ids[p] = table[item]
        logits = features[item] @ numbers["gate"]
        gates = np.exp(logits) / np.exp(logits).sum()
        for k in range(len(gates)):
            texts[p] += gates[k] * (features[item] - numbers["shift"][k, p]) @ numbers[f"expert.{k}.weight"].T
    spectrum = numbers["filter"][..., 0] + 1j * numbers["filter"][..., 1]  # of the frequencies 0 to n // 2
    whole = np.zeros((n, d), complex)
    whole[: n // 2 + 1] = spectrum
    whole[0] = spectrum[0].real
    for f in range(1, n - n // 2):
        whole[n - f] = spectrum[f].conj()
    kernel = np.array(
        [[(whole[:, c] * np.exp(2j * np.pi * np.arange(n) * m / n)).sum() / n for c in range(d)] for m in range(n)]
    )
    assert np.abs(kernel.imag).max() < 1e-12
    alone, mixed = np.zeros((n, d)), np.zeros((n, d))
    for p in range(n):
        for j in range(n):
            alone[p] += ids[j] * kernel.real[(p - j) % n]
            mixed[p] += ids[j] * texts[(p - j) % n] / np.sqrt(n)
    gates = [
        sigmoid(part @ numbers[f"{name}.weight"].T + numbers[f"{name}.bias"])
        for part, name in ((alone, "id_gate"), (mixed, "mixed_gate"))
    ]
    return 2 * (alone * gates[0] + mixed * gates[1])[: len(history)]


def test_the_fusion_is_two_circular_convolutions(model: TedRec) -> None:
    histories = [[3, 9, 4, 9], [7], [1, 2, 3, 4, 5, 6, 8]]
    width = max(map(len, histories))
    item_seq = torch.tensor([h + [0] * (width - len(h)) for h in histories])
    caught: list[torch.Tensor] = []
    whole = model.fused
    model.fused = lambda ids, texts: caught.append(whole(ids, texts)) or caught[-1]  # type: ignore[method-assign]
    length = torch.tensor([len(h) for h in histories])
    output = model(item_seq, length)
    (fused,) = caught  # in the order of their lengths
    for i, history in enumerate(sorted(histories, key=len)):
        np.testing.assert_allclose(fused[i, : len(history)].detach().numpy(), by_hand(model, history), atol=1e-9)
    for i, history in enumerate(histories):
        inputs, n = torch.tensor(by_hand(model, history)), len(history)
        alone = model.encode(inputs, torch.arange(n), [(1, n)], torch.tensor([n - 1]))
        torch.testing.assert_close(output[i], alone[0], rtol=1e-8, atol=1e-8)


def test_training_lowers_the_loss(ring: Path, small: dict[str, Any]) -> None:
    config = build_config("TedRec", "ring", [], {**small, "epochs": 6, "stopping_step": 6})
    losses = [epoch["loss"] for epoch in quick_start.train(config, tell=lambda line: None).epochs]
    assert losses[-1] < 0.8 * losses[0]


def test_a_sampled_loss_reads_the_same_items(ring: Path, small: dict[str, Any]) -> None:
    config = build_config("TedRec", "ring", [], {**small, "epochs": 2, "loss": "sampled", "n_negatives": 8})
    losses = [epoch["loss"] for epoch in quick_start.train(config, tell=lambda line: None).epochs]
    assert losses[-1] < losses[0]
