"""The rows that a leaderboard can have. A new one is one entry in `ROWS`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import Any

from recbole_unisrec.errors import UserError

RATES = [3e-4, 1e-3, 3e-3]
STAGES = ("inductive", "transductive")
CHECKPOINT = "S-I+S-S"  # name of the pre-trained model when only one is given: both tasks, as in the paper


@dataclass(frozen=True)
class Row:
    """One model with its settings.

    Attributes
    ----------
    name
        As it is asked for and shown.
    model
        Name of the model in RecBole's registry; empty for the popularity ranker, which trains nothing.
    settings
        What differs from the property files.
    grid
        Setting and values to tune, the same number of values for every row; the choice is made on validation.
    about
        What a reader must know, in a few words.
    pretrained
        Name of the checkpoint (``--pretrained NAME=FILE``) that training starts from; empty: it starts from nothing.
    """

    name: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=lambda: {"learning_rate": RATES})
    about: str = ""
    pretrained: str = ""

    def points(self) -> list[dict[str, Any]]:
        """The settings to try, the property files' own value first."""
        return [{name: value} for name, values in self.grid.items() for value in values] or [{}]


def _ours(name: str, stage: str, about: str, pretrained: str = "", **settings: Any) -> Row:
    return Row(name, "UniSRec", {"train_stage": f"{stage}_ft", **settings}, about=about, pretrained=pretrained)


_ROWS = [
    Row("Pop", "", grid={}, about="most frequent in training"),
    Row("SASRec", "SASRec", about="RecBole's"),
    Row("SASRecPacked", "SASRecPacked", about="SASRec on our data path"),
    Row("GRU4Rec", "GRU4Rec", about="RecBole's"),
    Row("BERT4Rec", "BERT4Rec", about="RecBole's"),
    Row("FDSA", "FDSA", about="RecBole's, with the words of the text"),
    Row("SASRec-text", "SASRecText", about="linear map of the text features"),
    Row("ZESRec", "ZESRec", about="linear map and item offsets"),
    _ours("UniSRec-inductive", "inductive", "the paper's model, text only"),
    _ours("UniSRec-transductive", "transductive", "the paper's model, text and IDs"),
    *(_ours(f"UniSRec-{stage}-ours", stage, "features whitened first, weights averaged", recipe="ours") for stage in STAGES),
    *(
        _ours(f"UniSRec-{stage}-pretrained", stage, "pre-trained, encoder frozen", CHECKPOINT, freeze="encoder")
        for stage in STAGES
    ),
    *(
        _ours(f"UniSRec-{stage}-full", stage, "pre-trained, everything learns on", CHECKPOINT, freeze="none")
        for stage in STAGES
    ),
    _ours("whitened-features", "transductive", "ablation: features whitened first", feature_scaling="whiten"),
    _ours("averaged-weights", "transductive", "ablation: weights averaged", ema_decay=0.98),
    _ours("no-whitening", "inductive", "ablation: linear experts", whitening=False),
    _ours("one-expert", "inductive", "ablation: no mixture", n_exps=1),
    _ours("no-gate-noise", "inductive", "ablation: gate without noise", gate_noise=False),
    _ours("mean-pooling", "inductive", "ablation: mean of the tokens for [CLS]", plm_suffix="feat1Mean"),
]
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}
DEFAULT = ["Pop", "SASRecPacked", "SASRec-text", "ZESRec", "UniSRec-inductive", "UniSRec-transductive"]


def rows_of(names: list[str]) -> dict[str, Row]:
    """The chosen rows; ``ROW@NAME`` is a pre-trained row that starts from the checkpoint NAME.

    Raises
    ------
    UserError
        If a name is unknown, or a row that starts from nothing is given a checkpoint.
    """
    found = {}
    for name in names:
        plain, at, checkpoint = name.partition("@")
        if plain not in ROWS:
            close = difflib.get_close_matches(plain, ROWS, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]}?" if close else "see --help for the rows"
            raise UserError(f"unknown row {plain!r}; {hint}")
        row = ROWS[plain]
        if at:
            if not row.pretrained or not checkpoint:
                takes = ", ".join(row.name for row in ROWS.values() if row.pretrained)
                raise UserError(f"row {name!r} names a checkpoint, but only these rows take one (ROW@NAME): {takes}")
            row = replace(row, name=name, pretrained=checkpoint, about=f"{row.about} ({checkpoint})")
        found[name] = row
    return found
