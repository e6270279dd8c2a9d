"""The rows that a leaderboard can have. A new one is one entry in `ROWS`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from recbole_unisrec.errors import UserError

RATES = [3e-4, 1e-3, 3e-3]


@dataclass(frozen=True)
class Row:
    """One model with its settings.

    Attributes
    ----------
    model
        Name of the model in RecBole's registry; empty for the popularity ranker, which trains nothing.
    settings
        What differs from the property files.
    grid
        Setting and values to tune, the same number of values for every row; the choice is made on validation.
    about
        What a reader must know, in a few words.
    pretrained
        Whether training starts from the checkpoint that ``--pretrained`` names; other rows start from nothing.
    """

    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=lambda: {"learning_rate": RATES})
    about: str = ""
    pretrained: bool = False

    def points(self) -> list[dict[str, Any]]:
        """The settings to try, the property files' own value first."""
        return [{name: value} for name, values in self.grid.items() for value in values] or [{}]


def _ours(stage: str, about: str, pretrained: bool = False, **settings: Any) -> Row:
    return Row("UniSRec", {"train_stage": f"{stage}_ft", **settings}, about=about, pretrained=pretrained)


ROWS: dict[str, Row] = {
    "Pop": Row("", grid={}, about="most frequent in training"),
    "SASRec": Row("SASRec", about="RecBole's"),
    "SASRecPacked": Row("SASRecPacked", about="SASRec on our data path"),
    "GRU4Rec": Row("GRU4Rec", about="RecBole's"),
    "BERT4Rec": Row("BERT4Rec", about="RecBole's"),
    "FDSA": Row("FDSA", about="RecBole's, with the words of the text"),
    "SASRec-text": Row("SASRecText", about="linear map of the text features"),
    "ZESRec": Row("ZESRec", about="linear map and item offsets"),
    "UniSRec-inductive": _ours("inductive", "the paper's model, text only"),
    "UniSRec-transductive": _ours("transductive", "the paper's model, text and IDs"),
    "UniSRec-inductive-ours": _ours("inductive", "features whitened first, weights averaged", recipe="ours"),
    "UniSRec-transductive-ours": _ours("transductive", "features whitened first, weights averaged", recipe="ours"),
    "UniSRec-inductive-pretrained": _ours("inductive", "pre-trained, encoder frozen", True, freeze="encoder"),
    "UniSRec-transductive-pretrained": _ours("transductive", "pre-trained, encoder frozen", True, freeze="encoder"),
    "UniSRec-inductive-full": _ours("inductive", "pre-trained, everything learns on", True, freeze="none"),
    "UniSRec-transductive-full": _ours("transductive", "pre-trained, everything learns on", True, freeze="none"),
    "whitened-features": _ours("transductive", "ablation: features whitened first", feature_scaling="whiten"),
    "averaged-weights": _ours("transductive", "ablation: weights averaged", ema_decay=0.98),
    "no-whitening": _ours("inductive", "ablation: linear experts", whitening=False),
    "one-expert": _ours("inductive", "ablation: no mixture", n_exps=1),
    "no-gate-noise": _ours("inductive", "ablation: gate without noise", gate_noise=False),
    "mean-pooling": _ours("inductive", "ablation: mean of the tokens for [CLS]", plm_suffix="feat1Mean"),
}
DEFAULT = ["Pop", "SASRecPacked", "SASRec-text", "ZESRec", "UniSRec-inductive", "UniSRec-transductive"]


def rows_of(names: list[str]) -> dict[str, Row]:
    """The chosen rows.

    Raises
    ------
    UserError
        If a name is unknown.
    """
    for name in names:
        if name not in ROWS:
            close = difflib.get_close_matches(name, ROWS, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]}?" if close else "see --help for the rows"
            raise UserError(f"unknown row {name!r}; {hint}")
    return {name: ROWS[name] for name in names}
