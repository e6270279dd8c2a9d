"""The text's own path to the scores: what `model.text_vectors` says without training, beside what the encoder learns."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_unisrec.data.sequences import PackedBatch
from recbole_unisrec.model.encoder import Rows
from recbole_unisrec.model.text_vectors import history_mean, history_mean_rows, last_mean
from recbole_unisrec.waiting import may_look

# Where the path starts, if nothing else is said (docs/results.md); `path_start` lets validation choose the next two.
DECAY = 0.7  # weight of an item of the history, of that of the next
POPULARITY = 0.1  # β, of κ
GAIN = 0.1  # g: the random outputs of a new encoder must not drown the texts
KAPPA = 10.0  # κ
HISTORY = -12.0  # logits of `history_bias`: else the encoder learns to point away from the texts of the history
REPEATS = 0.1  # `history_bias` starts at 0 where so many interactions are with an item that the user had before
STEP = 10.0  # Adam moves a weight by about the learning rate a step; exponents and β must move faster


def usual_popularity(popularity: Tensor) -> Tensor:
    """The median of the counts above 0, int64 scalar: what a new item is given, as nobody had a chance to take it yet."""
    taken = popularity[popularity > 0]
    return taken.median() if len(taken) else popularity.new_zeros(())


def with_usual(popularity: Tensor, cold: Tensor | None) -> Tensor:
    """Counts [n_items] in which items held out (bool `cold` [n_items], None for none) have `usual_popularity`."""
    if cold is None:
        return popularity
    return torch.where(cold, usual_popularity(popularity[~cold]), popularity)


class TextPath(nn.Module):
    """logits = g·s·v_i/τ + κ·q·x̂_i + β·log(1 + n_i), as wider vectors of histories and items.

    s·v_i/τ are the logits of the encoder, q is `text_vectors.history_mean` of the history, x̂_i the text vector of item
    i and n_i how often it occurs in training. g, κ, β and the weights of q by age are learned, so a history is ranked by
    its texts before anything is trained.

    In training a share of the predictions has the encoder's logits alone, for else it would learn only what the texts
    do not say, and by heart.

    Parameters
    ----------
    unit
        float32 [n_items, d_plm], see `text_vectors.unit_features`.
    popularity
        int64 [n_items], n.
    window
        Longest history L.
    temperature
        τ.
    alone
        The share of the predictions that have no path in training.
    """

    def __init__(self, unit: Tensor, popularity: Tensor, window: int, temperature: float, alone: float) -> None:
        super().__init__()
        columns = torch.cat([unit, torch.log1p(popularity.to(unit.dtype)).unsqueeze(1)], dim=1)
        self.register_buffer("columns", columns, persistent=False)
        self.columns: Tensor  # float32 (n_items, d_plm + 1)
        self.temperature, self.alone = temperature, alone
        self.most = float(columns[:, -1].amax())
        self.gain = nn.Parameter(torch.zeros(()))
        self.kappa = nn.Parameter(torch.zeros(()))
        self.beta = nn.Parameter(torch.zeros(()))
        self.age = nn.Parameter(torch.zeros(window))

    @torch.no_grad()
    def start_at(self, decay: float, popularity: float) -> None:
        """Let the weights of q be decay^age, and β = `popularity`·κ at the start of training; 0 < decay ≤ 1."""
        ages = torch.arange(len(self.age), device=self.age.device)
        self.age.copy_(ages * (math.log(decay / DECAY) / STEP))
        self.beta.fill_(KAPPA * (popularity - POPULARITY) / STEP)

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """g, τ·κ and τ·β, scalars: what parts of the outputs are multiplied with."""
        gain = GAIN * (STEP * self.gain).exp()
        kappa = KAPPA * (STEP * self.kappa).exp() * self.temperature
        beta = (KAPPA * POPULARITY + STEP * self.beta) * self.temperature
        return gain, kappa, beta

    @torch.no_grad()
    def bound(self, encoder: float) -> float:
        """A number that no logit is above, of that of the encoder's logits; infinity where looking would take time."""
        if not may_look(self.columns):
            return math.inf
        gain, kappa, beta = (float(weight) for weight in self.weights())
        weight = self.age_weights().abs()
        longest = float((weight.cumsum(0) / weight.square().cumsum(0).sqrt()).amax())  # q of equal texts
        text = (kappa * longest + abs(beta) * self.most) / self.temperature
        return max(1.0, gain) * encoder + text

    def age_weights(self) -> Tensor:
        """Weights [L] of an item of the history by age, 0 is the newest."""
        start = DECAY ** torch.arange(len(self.age), device=self.age.device)
        return start * (STEP * self.age).exp()

    def items(self, vectors: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        """Item vectors [n, d] with the columns of the path beside them; of all items, or of `rows`, int64 [n] or a slice."""
        columns = self.columns if rows is None else self.columns[rows]
        return torch.cat([vectors, columns.to(vectors.dtype)], dim=1)

    def histories(self, output: Tensor, mean: Tensor) -> Tensor:
        """Outputs [P, d] and q [P, d_plm] as vectors whose products with `items` are τ·logits."""
        gain, kappa, beta = self.weights()
        ones = torch.ones(len(output), 1, device=output.device, dtype=mean.dtype)
        if self.training and self.alone:
            path = self.draw(mean).to(ones.dtype)
            gain, kappa, beta = torch.lerp(ones, gain * ones, path), kappa * path, beta * path
        return torch.cat([gain * output.to(mean.dtype), kappa * mean, beta * ones], dim=1)

    def draw(self, mean: Tensor) -> Tensor:
        """Which predictions have the path in training: bool [P, 1] for q [P, d_plm]."""
        return torch.rand(len(mean), 1, device=mean.device) >= self.alone

    def packed(self, batch: PackedBatch, rows: Rows | None = None) -> Tensor:
        """q [P, d_plm] of the predictions of a batch; `rows` are those of attention where it has a fixed shape."""
        item = batch.item if batch.rows is None else batch.rows[batch.item]
        vectors = F.embedding(item, self.columns[:, :-1])  # (T, d_plm)
        if rows is None:
            return history_mean(vectors, batch.buckets, self.age_weights())[batch.output]
        return history_mean_rows(vectors, rows, batch.position, self.age_weights())[batch.output]

    def padded(self, item_seq: Tensor, length: Tensor) -> Tensor:
        """q [B, d_plm] of right-padded histories, int64 [B, L] with lengths [B]."""
        return last_mean(F.embedding(item_seq, self.columns[:, :-1]), length, self.age_weights())
