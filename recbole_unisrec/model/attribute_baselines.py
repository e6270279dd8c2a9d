"""RecBole's models with item attributes, given text features for attributes as the UniSRec paper did.

The authors' `baselines/` does the same: one linear layer with ReLU from the text features to the model's width stands in
the place of the attributes' embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.layers import MLPLayers
from recbole.model.sequential_recommender.fdsa import FDSA
from recbole.model.sequential_recommender.s3rec import S3Rec
from recbole.trainer import Trainer
from torch import Tensor, nn

from recbole_unisrec.model.trim import length_groups, trim_padding
from recbole_unisrec.setting_table import S3RecSettings


class TextAttribute(nn.Module):
    """One attribute an item: its mapped text features."""

    def __init__(self, features: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.features: Tensor
        self.adapter = MLPLayers([features.shape[1], width])

    def table(self) -> Tensor:
        """Mapped texts of all items [n_items, width]."""
        return self.adapter(self.features)

    def forward(self, _: None, item_seq: Tensor) -> tuple[dict[str, Tensor], dict[str, None]]:
        """What RecBole's ``FeatureSeqEmbLayer`` gives for one sparse attribute: [B, L, 1, width], and no dense one."""
        return {"item": self.adapter(self.features[item_seq]).unsqueeze(-2)}, {"item": None}


class FDSAText(FDSA):
    """RecBole's FDSA (Zhang et al., IJCAI 2019) whose one attribute is the text."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.feature_embed_layer = TextAttribute(dataset.features.weight, self.hidden_size)
        self.feature_embed_layer.apply(self._init_weights)
        trim_padding(self)


class S3RecText(S3Rec):
    """RecBole's S3-Rec (Zhou et al., CIKM 2020) in which each item is an attribute of its own, embedded by its text.

    Pre-training is that of RecBole, computed at the positions that hold an item and without its dense matrix of
    attributes [B, L, n_attributes]; `S3RecTextTrainer` goes on to fine-tuning by itself.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)  # with item_attribute: item_id
        self.feature_embedding = TextAttribute(dataset.features.weight, self.hidden_size)
        self.feature_embedding.apply(self._init_weights)

    def finetune(self) -> None:
        """Go on from pre-training to next-item prediction, with the weights as they are."""
        self.train_stage = "finetune"
        self.loss_fct = nn.CrossEntropyLoss()

    def forward(self, item_seq: Tensor, bidirectional: bool = True, first_position: Tensor | None = None) -> Tensor:
        """Encode right-padded int64 item_seq [B, L] -> [B, L, d]; int64 [B] first positions are 0 if not given."""
        output = self.position_embedding.weight.new_zeros(*item_seq.shape, self.hidden_size)
        for index, longest in length_groups(item_seq):
            rows = item_seq[index, :longest]
            position = torch.arange(longest, device=rows.device).expand_as(rows)
            if first_position is not None:
                position = (position + first_position[index, None]).clamp_(max=self.max_seq_length - 1)
            x = self.dropout(self.LayerNorm(self.item_embedding(rows) + self.position_embedding(position)))
            mask = self.get_attention_mask(rows, bidirectional=bidirectional)
            output[index, :longest] = self.trm_encoder(x, mask, output_all_encoded_layers=True)[-1]
        return output

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Sum of the four tasks over a batch in pre-training, cross-entropy of the next item after it."""
        if self.train_stage == "finetune":
            return super().calculate_loss(interaction)
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        masked = (item_seq != 0) & (torch.rand(item_seq.shape, device=item_seq.device) < self.mask_ratio)
        return self.pretrain_loss(item_seq, length, masked, self.negatives(item_seq), self.segments(item_seq, length))

    def pretrain_loss(
        self,
        item_seq: Tensor,
        length: Tensor,
        masked: Tensor,
        negative: Tensor,
        segments: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Associated and masked attributes, masked items, and segments (S3-Rec paper, section 4.2), scalar.

        RecBole pads to the left in pre-training and to the right afterwards. So that positions are RecBole's, rows are
        encoded here as if they ended at the last position.

        Parameters
        ----------
        item_seq, length
            Right-padded int64 histories [B, L], and their lengths [B].
        masked
            bool [B, L], which items to guess.
        negative
            int64 [B, L], see `negatives`.
        segments
            See `segments`.
        """

        def encode(rows: Tensor) -> Tensor:
            return self.forward(rows, first_position=self.max_seq_length - length)

        output = encode(item_seq.masked_fill(masked, self.mask_token))
        attributes = self.feature_embedding.table()

        def attribute_loss(where: Tensor, norm: nn.Module) -> Tensor:
            """Binary cross-entropy of every attribute at these positions, summed; each has one attribute, its item."""
            logits = norm(output[where]) @ attributes.T  # (n, n_items)
            positive = logits.gather(1, item_seq[where].unsqueeze(1))
            return F.softplus(logits).sum() - positive.sum()

        item, other_item = (
            self._masked_item_prediction(output[masked], self.item_embedding(items[masked]))
            for items in (item_seq, negative)
        )
        last = torch.arange(len(length), device=length.device), length - 1
        context, segment, other_segment = (encode(rows)[last] for rows in segments)
        segment, other_segment = (self._segment_prediction(context, s) for s in (segment, other_segment))
        return (
            self.aap_weight * attribute_loss((item_seq != 0) & ~masked, self.aap_norm)
            + self.map_weight * attribute_loss(masked, self.map_norm)
            + self.mip_weight * F.softplus(other_item - item).sum()
            + self.sp_weight * F.softplus(other_segment - segment).sum()
        )

    def negatives(self, item_seq: Tensor) -> Tensor:
        """Random items [B, L] that are not in their row, each row of int64 item_seq [B, L] by itself."""
        negative = torch.randint(1, self.mask_token, item_seq.shape, device=item_seq.device)
        for _ in range(self.mask_token):  # ends at once, but for rows that hold nearly every item
            bad = (negative.unsqueeze(2) == item_seq.unsqueeze(1)).any(dim=2)
            if not bad.any():
                break
            negative[bad] = torch.randint(1, self.mask_token, (int(bad.sum()),), device=item_seq.device)
        return negative

    def segments(self, item_seq: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The row without a random segment, the segment alone, and one of the batch in its place: int64 [B, L] each.

        What is left out is the mask token; a row of one item stays as it is.
        """
        device = item_seq.device
        share = torch.rand(3, len(length), device=device)
        size = 1 + (share[0] * (length // 2).clamp(min=1)).long()
        start = (share[1] * (length - size + 1)).long()
        place = torch.arange(item_seq.shape[1], device=device)
        present = place < length[:, None]
        inside = (place >= start[:, None]) & (place < (start + size)[:, None])
        everything = item_seq[present]
        other = (share[2] * (len(everything) - size + 1)).long()
        taken = everything[(other[:, None] + place - start[:, None]).clamp(0, len(everything) - 1)]
        mask, alone = torch.full_like(item_seq, self.mask_token), (length < 2)[:, None]

        def rows(within: Tensor, outside: Tensor) -> Tensor:
            return torch.where(alone, item_seq, torch.where(inside, within, outside)) * present

        return rows(mask, item_seq), rows(item_seq, mask), rows(taken, mask)


class S3RecTextTrainer(Trainer):
    """Pre-trains for ``pretrain_epochs``, then fine-tunes with a fresh optimizer like RecBole's ``Trainer``.

    Attributes
    ----------
    on_pretraining
        Called with the number and the mean loss of each epoch of pre-training, if set.
    """

    on_pretraining: Callable[[int, float], None] | None = None

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> Any:
        """Both stages; `callback_fn` hears of the epochs of the second."""
        for epoch in range(S3RecSettings.from_config(self.config).pretrain_epochs):
            loss = self._train_epoch(train_data, epoch, show_progress=show_progress)
            if self.on_pretraining is not None:
                self.on_pretraining(epoch, loss / len(train_data))
        self.model.finetune()
        self.optimizer = self._build_optimizer()
        return super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
