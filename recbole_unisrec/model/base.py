"""What UniSRec and its text-based and ID-based relatives share: one table of item vectors, one causal encoder."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn

from recbole_unisrec.data.mapped import MappedFeatures
from recbole_unisrec.data.negatives import Drawn
from recbole_unisrec.data.sequences import PackedBatch, Seen, seen_of_padded
from recbole_unisrec.model.block_ranks import ItemBlocks
from recbole_unisrec.model.dropout import Dropout
from recbole_unisrec.model.encoder import Buckets, CausalTransformer, Rows, row_width
from recbole_unisrec.model.losses import softmax_cross_entropy
from recbole_unisrec.model.sampled_losses import gbce_beta, sampled_loss
from recbole_unisrec.model.tables import take
from recbole_unisrec.model.text_path import DECAY, HISTORY, POPULARITY, REPEATS, TextPath, with_usual
from recbole_unisrec.model.text_vectors import unit_features
from recbole_unisrec.optim import learns_by_rows
from recbole_unisrec.setting_table import (
    MANY_ITEMS,
    EncoderSettings,
    HistorySettings,
    LossSettings,
    TextPathSettings,
    TrainingSettings,
)

TABLE_ROWS = 16_384  # items of which features are read at a time
# of `TableRecommender.history_bias`, in logits: how far it may go, and how far a weight of one is (Adam moves a weight by
# about the learning rate a step, and several logits are wanted within some hundred steps)
HISTORY_LIMIT = 20.0
HISTORY_GAIN = 100.0
# what `mask_history` adds to a score: below every other, and still finite however often an item stands in the history
HISTORY_MASK = -1e6


class TableRecommender(SequentialRecommender):
    """Next-item model in which the same item vectors are inputs of the encoder and candidates of the softmax.

    A subclass defines `item_table`. Everything else is here, in two ways that agree without dropout: *packed*, where
    the table is computed once a step and one pass over a sequence predicts all of its items, and *prefix*, where each
    row of the batch is one prefix (RecBole's way) and each of its items goes through the adaptor by itself.

    Parameters
    ----------
    config, dataset
        RecBole's ``Config`` and the training part of the dataset.
    cosine
        Whether outputs and candidates are normalised to length one.
    temperature
        τ of the softmax.
    """

    def __init__(self, config: Any, dataset: Any, cosine: bool, temperature: float) -> None:
        super().__init__(config, dataset)
        s, history = EncoderSettings.from_config(config), HistorySettings.from_config(config)
        loss, training = LossSettings.from_config(config), TrainingSettings.from_config(config)
        self.hidden_size, self.initializer_range = s.hidden_size, s.initializer_range
        self.cosine, self.temperature = cosine, temperature
        cold = getattr(dataset, "cold", None)
        self.register_buffer("candidates", None if cold is None else (~cold).nonzero().squeeze(1), persistent=False)
        self.candidates: Tensor | None  # int64 [n], items that training knows of, ascending; None is all of them
        n_known = self.n_items - 1 if cold is None else int((~cold).sum()) - 1
        self.beta = gbce_beta(loss.n_negatives, n_known, loss.gbce_t) if loss.loss == "gbce" else None
        self.item_rows = learns_by_rows(loss, training, self.n_items)  # whether ID embeddings have sparse gradients
        self.position_embedding = nn.Embedding(self.max_seq_length, s.hidden_size)
        self.trm_encoder = CausalTransformer(
            s.n_layers, s.n_heads, s.hidden_size, s.inner_size, s.hidden_dropout_prob, s.attn_dropout_prob,
            s.hidden_act, s.layer_norm_eps,
        )  # fmt: skip
        self.LayerNorm = nn.LayerNorm(s.hidden_size, eps=s.layer_norm_eps)
        self.dropout = Dropout(s.hidden_dropout_prob)
        # what is added to the score of an item of the history, by how many items ago it was; learned, starts at 0
        self.history_bias = nn.Parameter(torch.zeros(self.max_seq_length)) if history.history_bias else None
        self.mask_history = history.mask_history  # outside training
        self.text_path: TextPath | None = None
        self._cached: tuple[tuple[int, ...], Tensor] | None = None

    def add_text_path(self, config: Any, dataset: Any) -> None:
        """Give the texts their own way to the scores, if ``text_path`` says so; at the end of a subclass's constructor."""
        path = TextPathSettings.from_config(config)
        if not path.text_path:
            return
        unit = unit_features(dataset.features.weight, "whiten", dataset.known_features, dataset.features.widths)
        popularity = with_usual(dataset.item_popularity(), getattr(dataset, "cold", None))
        self.text_path = TextPath(unit, popularity, self.max_seq_length, self.temperature, path.text_path_alone)
        decay, weight = path.text_path_decay, path.text_path_popularity
        self.text_path.start_at(DECAY if decay is None else decay, POPULARITY if weight is None else weight)
        if self.history_bias is not None and dataset.repeat_share() < REPEATS:
            nn.init.constant_(self.history_bias, HISTORY / HISTORY_GAIN)

    def init_weights(self, module: nn.Module) -> None:
        """Initialise as RecBole's SASRec does; apply it at the end of a subclass's constructor."""
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(mean=0.0, std=self.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            module.bias.data.zero_()
            module.weight.data.fill_(1.0)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.data.zero_()

    # --- what a subclass defines

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """Vectors of all items [n_items, d], or of int64 `items` [...] -> [..., d]."""
        raise NotImplementedError

    # --- shared

    def keep_features(self, features: Tensor | MappedFeatures, dtype: torch.dtype) -> None:
        """Keep text features [n_items, d_plm] as ``features``: in memory, or mapped from their file."""
        if isinstance(features, MappedFeatures):
            self.features: Tensor | MappedFeatures = features
        else:
            self.register_buffer("features", features.to(dtype), persistent=False)

    def whole_table(self) -> Tensor:
        """`item_table` of all items; of millions of texts, or where their features lie in a file, block by block."""
        features = getattr(self, "features", None)
        if features is None or (self.n_items < MANY_ITEMS and not isinstance(features, MappedFeatures)):
            return self.item_table()
        table = self.LayerNorm.weight.new_empty(self.n_items, self.hidden_size)
        for items in torch.arange(self.n_items, device=table.device).split(TABLE_ROWS):
            table[items] = self.item_table(items).to(table.dtype)
        return table

    def encode(self, inputs: Tensor, position: Tensor, buckets: Buckets | Rows, last: Tensor | None = None) -> Tensor:
        """Encode item vectors [T, d] at int64 positions [T] -> outputs [T, d], or [B, d] of the rows `last` alone."""
        x = self.dropout(self.LayerNorm(inputs + take(self.position_embedding.weight, position)))
        return self.trm_encoder(x, buckets, last)

    def scaled(self, vectors: Tensor) -> Tensor:
        """Normalise to length one where similarity is the cosine."""
        return F.normalize(vectors, dim=-1) if self.cosine else vectors

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Encode right-padded histories, item by item, as the paper has it.

        Parameters
        ----------
        item_seq, item_seq_len
            int64 [B, L] item ids, 0 is padding, and int64 [B] lengths.

        Returns
        -------
        Tensor
            [B, d], the output at the last item, not normalised.
        """
        return self._last_outputs(item_seq, item_seq_len, self.item_table)

    def _last_outputs(self, item_seq: Tensor, item_seq_len: Tensor, vectors: Callable[[Tensor], Tensor]) -> Tensor:
        """Outputs [B, d] at the last items; `vectors` gives those of int64 items [T] -> [T, d]."""
        return self.by_length(item_seq_len, item_seq.shape[1], lambda order, _, valid: vectors(item_seq[order][valid]))

    def by_length(self, length: Tensor, width: int, inputs: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Encode right-padded histories, those of one length end to end.

        Parameters
        ----------
        length, width
            int64 [B], and L, the width that they are padded to.
        inputs
            Gives the input vectors [T, d] from the order of the histories by length, int64 [B], and in this order the
            places in a history [B, L] and which of them hold an item, bool [B, L].

        Returns
        -------
        Tensor
            [B, d], the outputs at the last items, not normalised.
        """
        length, order = length.sort()
        place = torch.arange(width, device=length.device).expand(len(length), -1)  # (B, L)
        valid = place < length.unsqueeze(1)
        lengths, count = length.unique_consecutive(return_counts=True)
        buckets = list(zip(count.tolist(), lengths.tolist(), strict=True))
        output = self.encode(inputs(order, place, valid), place[valid], buckets, length.cumsum(0) - 1)
        return output[order.argsort()]

    def packed_outputs(self, batch: PackedBatch, table: Tensor) -> Tensor:
        """Outputs [P, d] that predict `batch.target`, from a table [n_items, d]; normalised if `cosine`.

        With a `text_path` they are wider, as `candidate_vectors` are.
        """
        inputs, rows = take(table, batch.item), None
        if batch.starts is not None:  # a batch of fixed shape
            rows = Rows.of_starts(batch.starts, row_width(batch.window), inputs.device)
            output = self.scaled(take(self.encode(inputs, batch.position, rows), batch.output))
        elif batch.one_each:
            output = self.scaled(self.encode(inputs, batch.position, batch.buckets, batch.output))
        else:
            output = self.scaled(take(self.encode(inputs, batch.position, batch.buckets), batch.output))
        return self.beside_path(output, lambda path: path.packed(batch, rows))

    def beside_path(self, output: Tensor, mean: Callable[[TextPath], Tensor]) -> Tensor:
        """Outputs [P, d], wider with a `text_path`, from which `mean` takes q [P, d_plm]."""
        if self.text_path is None:
            return output
        with torch.autocast(output.device.type, enabled=False):  # a product so small gains nothing by it
            return self.text_path.histories(output, mean(self.text_path))

    def candidate_vectors(self, table: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        """What outputs are compared with: vectors of all items, or of `rows`, from their `item_table` [n, d]."""
        vectors = self.scaled(table)
        return vectors if self.text_path is None else self.text_path.items(vectors, rows)

    def all_candidates(self, table: Tensor) -> Tensor | ItemBlocks:
        """`candidate_vectors` of all items in float32, from their `item_table`; of millions of them block by block."""
        if len(table) < MANY_ITEMS:
            return self.candidate_vectors(table.float())
        return ItemBlocks(table, self.candidate_vectors)

    def _compared(self, output: Tensor, interaction: Interaction) -> Tensor:
        """Outputs [B, d] at the last items of RecBole's rows as `packed_outputs` gives them."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self.beside_path(self.scaled(output), lambda path: path.padded(item_seq, length))

    def histories(self, batch: PackedBatch | Interaction) -> Seen | None:
        """What the histories of a batch hold, if the model wants to know (``history_bias``, ``mask_history``)."""
        if self.history_bias is None and (self.training or not self.mask_history):
            return None
        if isinstance(batch, PackedBatch):
            return batch.histories()
        return seen_of_padded(batch[self.ITEM_SEQ], batch[self.ITEM_SEQ_LEN])

    def distance_bias(self) -> Tensor:
        """What is added to the score of an item that was taken 0, 1, ... items ago, [L], in the unit of the scores.

        The paper has no such term. Items are inputs and candidates at once, so what was just taken scores highest,
        whether or not anybody takes things twice; one weight for each distance lets the data say. With ``mask_history``
        items of the history come last, outside training.
        """
        if self.mask_history and not self.training:
            return torch.full((self.max_seq_length,), HISTORY_MASK, device=self._device())
        assert self.history_bias is not None
        return (self.history_bias * HISTORY_GAIN).clamp(-HISTORY_LIMIT, HISTORY_LIMIT) * self.temperature

    def seen_bias(self, seen: Seen) -> Tensor:
        """`distance_bias` of each entry, [E]."""
        bias = self.distance_bias()
        if seen.there is None:
            return bias[seen.distance]
        return (bias[: seen.width] * seen.there.unflatten(0, (-1, seen.width))).flatten()

    def calculate_loss(self, interaction: PackedBatch | Interaction) -> Tensor:
        """Cross-entropy over all items (paper Eq. 11 and 12) but those held out by ``cold_items``, scalar.

        A `PackedBatch` is trained in one pass over its segments; RecBole's ``Interaction`` row by row. With ``loss:
        sampled`` or ``gbce`` batches bring negatives, and these stand for the others.
        """
        if isinstance(interaction, PackedBatch) and interaction.drawn is not None:
            return self.sampled_loss(interaction, interaction.drawn)
        table = self.item_table()  # (N, d); the padding item takes part, as in the authors' code
        if isinstance(interaction, PackedBatch):
            output, target = self.packed_outputs(interaction, table), interaction.target
        else:
            output = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
            output = self._compared(output, interaction)
            target = interaction[self.POS_ITEM_ID]
        seen = self.histories(interaction)
        autocast = torch.is_autocast_enabled(output.device.type)
        dtype = torch.get_autocast_dtype(output.device.type) if autocast else output.dtype
        scale = 1 / self.temperature
        bias = self.seen_bias(seen) if seen else None
        table, fixed = self.scaled(table), None if self.text_path is None else self.text_path.columns
        if self.candidates is not None:  # histories of training hold no others either
            table, target = table[self.candidates], torch.searchsorted(self.candidates, target)
            fixed = None if fixed is None else fixed[self.candidates]
            seen = replace(seen, item=torch.searchsorted(self.candidates, seen.item)) if seen else None
        share = interaction.counts if isinstance(interaction, PackedBatch) else None
        bound = scale if self.cosine else math.inf
        if self.text_path is not None:
            bound = self.text_path.bound(bound)
        return softmax_cross_entropy(output, table, target, scale, dtype, bound, seen, bias, share, fixed)

    def sampled_loss(self, batch: PackedBatch, drawn: Drawn) -> Tensor:
        """Loss of a batch against the negatives drawn for it, from the vectors of its own items alone, scalar."""
        assert batch.rows is not None
        table = self.item_table(batch.rows)  # (U, d)
        output = self.packed_outputs(batch, table)
        seen = self.histories(batch)
        autocast = torch.is_autocast_enabled(output.device.type)
        dtype = torch.get_autocast_dtype(output.device.type) if autocast else output.dtype
        bias = self.seen_bias(seen) if seen else None
        return sampled_loss(
            output, self.candidate_vectors(table, batch.rows), batch.target, drawn.item, drawn.log_weight, 1 / self.temperature, self.beta,
            dtype, seen, bias, batch.counts,
        )  # fmt: skip

    def train(self, mode: bool = True) -> TableRecommender:
        """Switch to training or evaluation; either way the cached table is forgotten."""
        self._cached = None
        return super().train(mode)

    @torch.no_grad()
    def eval_table(self) -> Tensor:
        """`item_table` outside training, computed once between two calls of ``train``, ``eval`` or a change of weights.

        In-place changes are seen by the version counters of the weights; fused optimizers do not raise those, but they
        run in training, which ends with ``eval``.
        """
        state = tuple(t._version for t in (*self.parameters(), *self.buffers()))
        if self._cached is None or self._cached[0] != state or self._cached[1].device != self._device():
            self._cached = (state, self.whole_table())
        return self._cached[1]

    def _device(self) -> torch.device:
        return next(itertools.chain(self.parameters(), self.buffers())).device

    def __deepcopy__(self, memo: dict[int, Any]) -> TableRecommender:
        self._cached = None
        cls = self.__class__
        clone = cls.__new__(cls)
        memo[id(self)] = clone
        for name, value in self.__dict__.items():
            clone.__dict__[name] = copy.deepcopy(value, memo)
        return clone

    def _outputs(self, interaction: Interaction, table: Tensor) -> Tensor:
        last = self._last_outputs(
            interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], lambda items: take(table, items)
        )
        return self._compared(last, interaction)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores [B, n_items] of all items (cosine where the model uses it, without the temperature)."""
        table = self.item_table() if self.training or torch.is_grad_enabled() else self.eval_table()
        scores = self._outputs(interaction, table) @ self.candidate_vectors(table).T
        if seen := self.histories(interaction):
            scores = scores.index_put((seen.row, seen.item), self.seen_bias(seen).to(scores.dtype), accumulate=True)
        return scores

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores [B] of the items ``interaction[item_id]``."""
        table = self.item_table() if self.training or torch.is_grad_enabled() else self.eval_table()
        candidates = self.candidate_vectors(table)[interaction[self.ITEM_ID]]
        scores = (self._outputs(interaction, table) * candidates).sum(dim=-1)
        if seen := self.histories(interaction):
            mine = seen.item == interaction[self.ITEM_ID][seen.row]
            scores = scores.index_add(0, seen.row, (self.seen_bias(seen) * mine).to(scores.dtype))
        return scores
