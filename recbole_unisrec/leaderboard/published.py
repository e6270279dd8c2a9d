"""Figures that others published for the same datasets, for orientation; protocols are leave-one-out and full ranking.

HIT@10, NDCG@10, HIT@50, NDCG@50 of the UniSRec paper (KDD 2022, Table 3). They are quoted from memory and have not been
checked against it: they are marked so wherever they are shown. A dataset is the paper's if it has the paper's users.
"""

from __future__ import annotations

RECALLED = "recalled, not checked"
TOPK = [10, 50]

Figures = tuple[float, float, float, float]
PUBLISHED: dict[tuple[str, int], dict[str, Figures]] = {
    ("Scientific", 8_442): {
        "SASRec": (0.1080, 0.0553, 0.2042, 0.0760),
        "FDSA": (0.0899, 0.0580, 0.1732, 0.0759),
        "S3Rec": (0.0525, 0.0275, 0.1418, 0.0468),
        "ZESRec": (0.0851, 0.0475, 0.1746, 0.0670),
        "inductive": (0.1188, 0.0641, 0.2394, 0.0903),
        "transductive": (0.1235, 0.0634, 0.2473, 0.0904),
    },
    ("Pantry", 13_101): {
        "SASRec": (0.0501, 0.0218, 0.1322, 0.0394),
        "FDSA": (0.0395, 0.0209, 0.1151, 0.0370),
        "S3Rec": (0.0444, 0.0214, 0.1315, 0.0400),
        "ZESRec": (0.0454, 0.0230, 0.1141, 0.0378),
        "inductive": (0.0636, 0.0306, 0.1658, 0.0527),
        "transductive": (0.0693, 0.0311, 0.1827, 0.0556),
    },
    ("Instruments", 24_962): {
        "SASRec": (0.1118, 0.0612, 0.2106, 0.0826),
        "FDSA": (0.1070, 0.0796, 0.1890, 0.0972),
        "S3Rec": (0.1056, 0.0713, 0.1927, 0.0901),
        "ZESRec": (0.0783, 0.0497, 0.1387, 0.0627),
        "inductive": (0.1189, 0.0680, 0.2255, 0.0912),
        "transductive": (0.1267, 0.0748, 0.2387, 0.0991),
    },
    ("Arts", 45_486): {
        "SASRec": (0.1108, 0.0587, 0.2030, 0.0788),
        "FDSA": (0.1002, 0.0714, 0.1779, 0.0883),
        "S3Rec": (0.1003, 0.0601, 0.1888, 0.0793),
        "ZESRec": (0.0664, 0.0375, 0.1323, 0.0518),
        "inductive": (0.1066, 0.0586, 0.2049, 0.0799),
        "transductive": (0.1239, 0.0712, 0.2347, 0.0955),
    },
    ("Office", 87_436): {
        "SASRec": (0.1056, 0.0710, 0.1627, 0.0835),
        "FDSA": (0.1118, 0.0868, 0.1665, 0.0987),
        "S3Rec": (0.1030, 0.0653, 0.1613, 0.0780),
        "ZESRec": (0.0641, 0.0391, 0.1113, 0.0493),
        "inductive": (0.1013, 0.0619, 0.1702, 0.0769),
        "transductive": (0.1280, 0.0831, 0.2016, 0.0991),
    },
    ("OR", 16_520): {
        "SASRec": (0.1460, 0.0675, 0.3872, 0.1201),
        "FDSA": (0.1490, 0.0719, 0.3802, 0.1223),
        "S3Rec": (0.1418, 0.0654, 0.3702, 0.1154),
        "ZESRec": (0.1103, 0.0535, 0.2750, 0.0896),
        "inductive": (0.1449, 0.0677, 0.3604, 0.1149),
        "transductive": (0.1537, 0.0724, 0.3885, 0.1239),
    },
}
# the paper's UniSRec is the pre-trained one with its encoder frozen; from scratch is an ablation of its own
ALIAS = {
    "SASRecPacked": "SASRec",
    "UniSRec-inductive-pretrained": "inductive",
    "UniSRec-transductive-pretrained": "transductive",
}


def published(dataset: str, n_users: int, row: str) -> Figures | None:
    """The paper's figures for a row, if there are any."""
    return PUBLISHED.get((dataset, n_users), {}).get(ALIAS.get(row, row))
