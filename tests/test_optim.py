"""Adam by rows, against the same in plain loops."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from recbole_unisrec.errors import UserError
from recbole_unisrec.optim import RowAdam, clip_gradients, learns_by_rows
from recbole_unisrec.setting_checks import check_all
from recbole_unisrec.setting_page import defaults
from recbole_unisrec.setting_table import MANY_ITEMS, LossSettings, TrainingSettings

N, D = 7, 3


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(N, D, sparse=True)
        self.map = nn.Linear(D, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.map(self.table(rows)).square().sum()


def test_rows_move_as_written_and_the_rest_as_by_adam() -> None:
    torch.manual_seed(0)
    model = Model()
    twin = copy.deepcopy(model)
    twin.table.sparse = False
    ours, theirs = RowAdam(model.parameters(), lr=0.1), torch.optim.Adam(twin.map.parameters(), lr=0.1)
    steps, moment = [0] * N, [0.0] * N
    for rows in ([1, 2, 2], [2, 4], [1, 6], [2, 2]):
        for m, optimizer in ((model, ours), (twin, theirs)):
            m.zero_grad()
            m(torch.tensor(rows)).backward()
            optimizer.step()
        assert twin.table.weight.grad is not None
        for row in set(rows):
            gradient = twin.table.weight.grad[row]
            steps[row] += 1
            moment[row] = 0.999 * moment[row] + 0.001 * float(gradient.square().mean())
            size = 0.1 / ((moment[row] / (1 - 0.999 ** steps[row])) ** 0.5 + 1e-8)
            twin.table.weight.data[row] -= size * gradient
        torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_state_goes_on_after_saving_and_loading() -> None:
    torch.manual_seed(0)
    model = Model()
    optimizer = RowAdam(model.parameters(), lr=0.1)

    def step(m: Model, o: RowAdam) -> None:
        o.zero_grad()
        m(torch.tensor([1, 2])).backward()
        o.step()

    step(model, optimizer)
    other = Model()
    other.load_state_dict(model.state_dict())
    again = RowAdam(other.parameters(), lr=0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer)
    step(other, again)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("most", [0.1, 1e9])
def test_gradients_are_clipped_as_dense_ones(most: float) -> None:
    torch.manual_seed(0)
    model = Model()
    twin = copy.deepcopy(model)
    twin.table.sparse = False
    for m in (model, twin):
        m(torch.tensor([1, 2, 2])).backward()
    norms = clip_gradients(model.parameters(), most), torch.nn.utils.clip_grad_norm_(twin.parameters(), most)
    torch.testing.assert_close(*norms)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.to_dense() if ours.grad.is_sparse else ours.grad, theirs.grad)


def test_when_rows_are_chosen() -> None:
    config: dict[str, Any] = {**defaults("SASRecPacked"), "loss": "sampled"}

    def by_rows(n_items: int, **changes: Any) -> bool:
        settings = {**config, **changes}
        return learns_by_rows(LossSettings.from_config(settings), TrainingSettings.from_config(settings), n_items)

    assert by_rows(MANY_ITEMS)
    assert not by_rows(MANY_ITEMS - 1)
    assert not by_rows(MANY_ITEMS, loss="full")
    assert not by_rows(MANY_ITEMS, ema_decay=0.9)
    assert by_rows(5, item_optimizer="rows")
    for changed, sentence in (
        ({"loss": "full"}, "goes with loss=sampled"),
        ({"ema_decay": 0.9}, "ema_decay averages all rows"),
        ({"learner": "sgd"}, "goes with learner adam"),
        ({"item_optimizer": "foo"}, "item_optimizer must be one of auto, adam, rows"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_all("SASRecPacked", {**config, "item_optimizer": "rows", **changed})
