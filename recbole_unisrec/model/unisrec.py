"""UniSRec (Hou et al., "Towards Universal Sequence Representation Learning for Recommender Systems", KDD 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_unisrec.data.features import scale_features
from recbole_unisrec.model.adaptor import MoEAdaptor
from recbole_unisrec.model.base import TableRecommender
from recbole_unisrec.model.tables import ItemEmbedding, item_embedding
from recbole_unisrec.setting_table import AdaptorSettings, TextSettings

FEATURE_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FEATURE_KEY = "plm_embedding.weight"  # in the authors' checkpoints; the features are the dataset's, not the model's


class UniSRec(TableRecommender):
    """Items are their texts: v = adaptor(text features), plus an ID embedding in the transductive form.

    Parameters
    ----------
    config
        Read as `AdaptorSettings` (``train_stage`` is inductive_ft or transductive_ft here), `TextSettings`, and what
        `TableRecommender` reads.
    dataset
        A dataset with ``features`` (see `data.features.FeatureTable`), and ``known_features`` for a
        ``feature_scaling``.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        adaptor, text = AdaptorSettings.from_config(config), TextSettings.from_config(config)
        super().__init__(config, dataset, cosine=True, temperature=adaptor.temperature)
        self.train_stage = adaptor.train_stage
        features = dataset.features.weight
        if text.feature_scaling != "none":  # what is held out must not move the others
            features = scale_features(features, text.feature_scaling, dataset.known_features, dataset.features.widths)
        self.keep_features(features, FEATURE_PRECISIONS[text.feature_precision])
        self.text_encoder: str = dataset.features.encoder
        # as in the authors' code, the expert weights keep their own initialisation
        if self.train_stage == "transductive_ft":
            self.item_embedding: ItemEmbedding | None = item_embedding(self.n_items, self.hidden_size, self.item_rows)
        else:
            self.item_embedding = None
        self.apply(self.init_weights)
        known = None
        if self.item_embedding is not None and adaptor.mask_unseen_ids:
            # an item that nobody took is no target, so all that its embedding would learn is to be far from everybody
            known = (dataset.item_popularity() > 0).unsqueeze(1)
            self.item_embedding.weight.data.mul_(known)
        self.register_buffer("id_known", known, persistent=False)
        self.id_known: Tensor | None
        self.moe_adaptor = MoEAdaptor(
            adaptor.n_exps,
            features.shape[1],
            self.hidden_size,
            adaptor.adaptor_dropout_prob,
            noise=adaptor.gate_noise,
            whitening=adaptor.whitening,
        )
        self.add_text_path(config, dataset)
        self.register_load_state_dict_pre_hook(_drop_features)

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """v_i, or v_i + e_i in the transductive form (paper Eq. 11, 12): [n_items, d] or [..., d]."""
        vectors = self.moe_adaptor(self.features if items is None else self.features[items])
        if self.item_embedding is not None:
            embedding = self.item_embedding.whole() if items is None else self.item_embedding(items)
            if self.id_known is not None:
                embedding = embedding * (self.id_known if items is None else self.id_known[items])
            vectors = vectors + embedding
        return vectors


def _drop_features(module: nn.Module, state_dict: dict[str, Tensor], *_: Any) -> None:
    """Let the authors' checkpoints load, whatever dataset they were made on."""
    if FEATURE_KEY in state_dict:
        state_dict.pop(FEATURE_KEY)
