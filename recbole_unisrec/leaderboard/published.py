"""Figures that others published for the same datasets, for orientation; protocols are leave-one-out and full ranking.

HIT@10, NDCG@10, HIT@50, NDCG@50. Those of the UniSRec paper (KDD 2022, Table 3) are quoted from memory and have not
been checked against it: they are marked so wherever they are shown.
"""

from __future__ import annotations

RECALLED = "recalled, not checked"

PUBLISHED: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "Scientific": {
        "SASRec": (0.1080, 0.0553, 0.2042, 0.0760),
        "FDSA": (0.0899, 0.0580, 0.1732, 0.0759),
        "ZESRec": (0.0851, 0.0475, 0.1746, 0.0670),
        "UniSRec-inductive": (0.1188, 0.0641, 0.2394, 0.0903),
        "UniSRec-transductive": (0.1235, 0.0634, 0.2473, 0.0904),
    },
    "OR": {
        "SASRec": (0.1460, 0.0675, 0.3872, 0.1201),
        "FDSA": (0.1490, 0.0719, 0.3802, 0.1223),
        "ZESRec": (0.1103, 0.0535, 0.2750, 0.0896),
        "UniSRec-inductive": (0.1449, 0.0677, 0.3604, 0.1149),
        "UniSRec-transductive": (0.1537, 0.0724, 0.3885, 0.1239),
    },
}
ALIAS = {"SASRecPacked": "SASRec"}


def published(dataset: str, row: str) -> tuple[float, float, float, float] | None:
    """The paper's figures for a row, if there are any."""
    return PUBLISHED.get(dataset, {}).get(ALIAS.get(row, row))
