"""The rows that a leaderboard can have. A new one is one entry in `ROWS`."""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass, field, replace
from typing import Any

from recbole_unisrec.errors import UserError

RATES = [3e-4, 1e-3, 3e-3]
DECAYS = [0.5, 0.7, 0.85]
STAGES = {"inductive": "text only", "transductive": "text and IDs"}
OTHER_ENCODER = "feat1other"  # suffix of the text features that another encoder made
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
        Settings and values to tune, every combination; the same number for every row that trains; the choice is made on
        validation.
    about
        What a reader must know, in a few words.
    pretrained
        Name of the checkpoint (``--pretrained NAME=FILE``) that training starts from; empty: it starts from nothing.
    of
        The row that this one is an ablation of.
    package
        Optional package that trains it in the place of RecBole.
    seeded
        Whether runs of several seeds differ.
    """

    name: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=lambda: {"learning_rate": RATES})
    about: str = ""
    pretrained: str = ""
    of: str = ""
    package: str = ""
    seeded: bool = True

    @property
    def kind(self) -> str:
        """What a reader tells rows apart by: ``ours``, ``the paper's UniSRec``, ``rival`` or ``no training``."""
        if not self.seeded:
            return "no training"
        if self.settings.get("recipe") == "ours":
            return "ours" if self.model == "UniSRec" else "rival"
        return "the paper's UniSRec" if self.model == "UniSRec" else "rival"

    def points(self) -> list[dict[str, Any]]:
        """The settings to try."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


def _ours(name: str, stage: str, about: str, pretrained: str = "", of: str = "", **settings: Any) -> Row:
    return Row(name, "UniSRec", {"train_stage": f"{stage}_ft", **settings}, about=about, pretrained=pretrained, of=of)


def _ablations(name: str, about: str, of: str = "UniSRec-{}", pretrained: str = "", **settings: Any) -> list[Row]:
    """One change, in both forms of UniSRec."""
    return [
        _ours(f"UniSRec-{stage}-{name}", stage, f"ablation: {about}", pretrained, of.format(stage), **settings)
        for stage in STAGES
    ]


_ROWS = [
    Row("Pop", "", grid={}, about="most frequent in training", seeded=False),
    Row(
        "text-kNN",
        "TextKNN",
        {"epochs": 0},
        grid={"decay": DECAYS, "popularity_weight": [0.0, 0.05, 0.1, 0.2]},
        about="nothing is trained: nearest texts, and how often an item occurs; history masked",
        seeded=False,
    ),
    Row(
        "text-kNN-no-popularity",
        "TextKNN",
        {"popularity_weight": 0.0, "epochs": 0},
        grid={"decay": DECAYS},
        about="the same by the texts alone",
        of="text-kNN",
        seeded=False,
    ),
    Row("SASRec", "SASRec", about="RecBole's"),
    Row("SASRecPacked", "SASRecPacked", about="SASRec on our data path"),
    Row(
        "SASRec-ours",
        "SASRecPacked",
        {"recipe": "ours"},
        about="SASRec with what it can use of this project's recipe: history bias, averaged weights",
    ),
    *(
        Row(
            f"{name}-masked",
            model,
            {"mask_history": True, **settings},
            about="the plain trick: the same, with the items of the history masked at test",
            of=name,
        )
        for name, model, settings in (
            ("SASRecPacked", "SASRecPacked", {}),
            ("ZESRec", "ZESRec", {}),
            *((f"UniSRec-{stage}", "UniSRec", {"train_stage": f"{stage}_ft"}) for stage in STAGES),
        )
    ),
    Row(
        "SASRec-sampled",
        "SASRecPacked",
        {"loss": "sampled"},
        about="SASRec on our data path; softmax over 1,024 uniform negatives a batch, with the logQ correction",
        of="SASRecPacked",
    ),
    Row(
        "SASRec-gBCE",
        "SASRecPacked",
        {"loss": "gbce"},
        about="SASRec on our data path; gBCE with 1,024 uniform negatives a batch, t = 0.75",
        of="SASRecPacked",
    ),
    Row("GRU4Rec", "GRU4Rec", about="RecBole's"),
    Row("BERT4Rec", "BERT4Rec", about="RecBole's"),
    Row("FDSA", "FDSAText", about="RecBole's, text features for attributes"),
    Row("S3Rec", "S3RecText", about="RecBole's, text features for attributes, pre-trained on this dataset first"),
    Row("SASRec-text", "SASRecText", about="linear map of the text features"),
    Row(
        "TedRec",
        "TedRec",
        about="text and IDs fused in the frequency domain; slow, as each prefix is transformed by itself",
    ),
    Row("VQ-Rec", "VQRec", about="embeddings of 32 discrete codes of the text, from scratch"),
    Row("ZESRec", "ZESRec", about="linear map and item offsets"),
    *(
        Row(
            f"{name}-ours",
            model,
            {"recipe": "ours"},
            about="the same with what it can use of this project's recipe",
            of=name,
        )
        for name, model in (("SASRec-text", "SASRecText"), ("ZESRec", "ZESRec"), ("TedRec", "TedRec"))
    ),
    Row(
        "SASRec-text-path",
        "SASRecPath",
        {"recipe": "ours"},
        about="SASRec-ours with the text's own path beside its IDs: how much of the gain is the path's",
        of="SASRec-ours",
    ),
    *(
        Row(
            f"{name}-ours-no-text-path",
            model,
            {"recipe": "ours", "text_path": False},
            about="ablation: the recipe without the text's own path",
            of=f"{name}-ours",
        )
        for name, model in (("SASRec-text", "SASRecText"), ("ZESRec", "ZESRec"))
    ),
    Row(
        "RecTools-UniSRec",
        "SASRecText",
        {"hidden_size": 256, "n_heads": 1, "train_batch_size": 128},
        grid={"learning_rate": [1e-4, 3e-4, 1e-3]},
        package="rectools",
        about="UniSRecModel of the package rectools, its defaults otherwise",
    ),
    *(
        _ours(f"UniSRec-{stage}", stage, f"the paper's model, {reads}, from scratch", of=f"UniSRec-{stage}-pretrained")
        for stage, reads in STAGES.items()
    ),
    *(
        _ours(
            f"UniSRec-{stage}-ours",
            stage,
            "this project's recipe (props/recipe-ours.yaml), from scratch",
            recipe="ours",
        )
        for stage in STAGES
    ),
    *(
        _ours(
            f"UniSRec-{stage}-ours-pretrained",
            stage,
            "this project's recipe, encoder pre-trained, adaptor new, everything learns",
            CHECKPOINT,
            f"UniSRec-{stage}-ours",
            recipe="ours",
            freeze="none",
            adaptor_share=0.0,
        )
        for stage in STAGES
    ),
    *(
        _ours(
            f"UniSRec-{stage}-ours-LSA",
            stage,
            "this project's recipe, texts by TF-IDF and singular vectors (--encoder lsa)",
            of=f"UniSRec-{stage}-ours",
            recipe="ours",
            plm_suffix="feat1LSA",
        )
        for stage in STAGES
    ),
    *(
        _ours(
            f"UniSRec-{stage}-ours-two-files",
            stage,
            "this project's recipe, vectors of a language model and of --encoder lsa side by side",
            of=f"UniSRec-{stage}-ours",
            recipe="ours",
            plm_suffix=["feat1CLS", "feat1LSA"],
        )
        for stage in STAGES
    ),
    *(
        _ours(
            f"UniSRec-{stage}-pretrained",
            stage,
            "the paper's model, pre-trained, encoder frozen",
            CHECKPOINT,
            freeze="encoder",
        )
        for stage in STAGES
    ),
    *_ablations(
        "ours-no-text-path",
        "the recipe without the text's own path",
        "UniSRec-{}-ours",
        recipe="ours",
        text_path=False,
    ),
    *_ablations(
        "ours-path-always",
        "the recipe, with the path in all predictions of training",
        "UniSRec-{}-ours",
        recipe="ours",
        text_path_alone=0.0,
    ),
    *_ablations(
        "S-I-only", "pre-trained without the sequence-sequence task", "UniSRec-{}-pretrained", "S-I", freeze="encoder"
    ),
    *_ablations("full", "pre-trained, everything learns on", "UniSRec-{}-pretrained", CHECKPOINT, freeze="none"),
    *_ablations("no-whitening", "linear experts without the learned shift", whitening=False),
    *_ablations("one-expert", "no mixture", n_exps=1),
    *_ablations("no-gate-noise", "gate without noise", gate_noise=False),
    *_ablations("mean-pooling", "mean of the tokens for [CLS]", plm_suffix="feat1Mean"),
    *_ablations("other-encoder", "texts by another encoder", plm_suffix=OTHER_ENCODER),
    *_ablations("whitened", "features whitened first", feature_scaling="whiten"),
    *_ablations("averaged", "weights averaged", ema_decay=0.98),
    *_ablations("history", "history bias", history_bias=True),
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


def rates() -> str:
    """The grids in words: most rows have one, and those that have another are named."""

    def words(row: Row) -> str:
        return " × ".join(
            ("" if name == "learning_rate" else f"{name} ") + ", ".join(f"{value:g}" for value in values)
            for name, values in row.grid.items()
        )

    other = [f"{row.name} {words(row)}" for row in ROWS.values() if row.grid and row.grid != {"learning_rate": RATES}]
    return "; ".join([words(ROWS["SASRec"]), *other])
