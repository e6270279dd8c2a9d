"""Figures that others published for the same datasets, for orientation; protocols are leave-one-out and full ranking.

HIT@10, NDCG@10, HIT@50, NDCG@50 of the UniSRec paper (KDD 2022; checked against its LaTeX tables, arXiv 2206.05941), and
what else was published on the same splits, with where it stands. A dataset is the paper's if it has the paper's users.
"""

from __future__ import annotations

from dataclasses import dataclass

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
ALIAS = {"SASRecPacked": "SASRec"}
for stage in ("inductive", "transductive"):
    ALIAS.update({f"UniSRec-{stage}": stage, f"UniSRec-{stage}-pretrained": stage})


def published(dataset: str, n_users: int, row: str) -> Figures | None:
    """The paper's figures for a row, if there are any."""
    return PUBLISHED.get((SAME_SET.get(dataset, dataset), n_users), {}).get(ALIAS.get(row, row))


@dataclass(frozen=True)
class Rival:
    """A figure that others published.

    Attributes
    ----------
    model
        As its authors call it.
    values
        HIT@10, NDCG@10, HIT@50, NDCG@50; None where nothing was published.
    source
        Where it stands.
    protocol
        What is known to agree with ours or to differ.
    """

    model: str
    values: tuple[float | None, float | None, float | None, float | None]
    source: str
    protocol: str


SAME = "same split, leave-one-out, all items ranked"
SETS = "same counts of users, items and interactions, leave-one-out, all items ranked; the order of ties is not known"
PAPER = "UniSRec paper (arXiv 2206.05941)"
VQREC = "VQ-Rec paper (arXiv 2210.12316)"
TEDREC = "TedRec repository (CIKM 2024), result files"
ESASREC = "eSASRec benchmark (RecSys 2025), README"


def _ten(model: str, hit: float, ndcg: float, source: str, protocol: str) -> Rival:
    return Rival(model, (hit, ndcg, None, None), source, protocol)


RIVALS: dict[tuple[str, int], list[Rival]] = {
    ("Scientific", 8_442): [
        Rival("RecGURU", (0.1023, 0.0572, 0.2022, 0.0786), PAPER, SAME),
        Rival("BERT4Rec", (0.0488, 0.0243, 0.1185, 0.0393), PAPER, SAME),
        Rival("CCDR", (0.0695, 0.0340, 0.1647, 0.0546), PAPER, SAME),
        Rival("SASRec_T", (0.0994, 0.0561, 0.2162, 0.0815), VQREC, SAME),
        Rival("VQ-Rec", (0.1238, 0.0645, 0.2409, 0.0901), "VQ-Rec repository, release 0315", f"{SAME}; pre-trained"),
        Rival(
            "MISSRec, IDs, pre-trained",
            (0.1360, 0.0753, 0.2431, 0.0983),
            "MISSRec repository",
            f"{SAME}; texts and images",
        ),
        Rival(
            "MISSRec, no IDs, pre-trained",
            (0.1278, 0.0658, 0.2375, 0.0893),
            "MISSRec repository",
            f"{SAME}; texts and images",
        ),
    ],
    ("OR", 16_520): [
        Rival("SASRec_T", (0.1380, 0.0672, 0.3516, 0.1137), VQREC, SAME),
        Rival("VQ-Rec", (0.1557, 0.0730, 0.3994, 0.1263), VQREC, f"{SAME}; pre-trained"),
        _ten("DLFS-Rec", 0.1634, 0.0952, TEDREC, f"{SAME}; the order within an invoice is chance"),
        _ten("TedRec", 0.2234, 0.1316, TEDREC, f"{SAME}; the order within an invoice is chance"),
    ],
    ("Beauty_2014", 22_363): [
        _ten("TIGER", 0.0648, 0.0384, ESASREC, f"{SETS}; as its paper reports it"),
        _ten("ActionPiece", 0.0775, 0.0424, ESASREC, f"{SETS}; as its paper reports it"),
        _ten("DuoRec", 0.0845, 0.0443, ESASREC, f"{SETS}; as its paper reports it"),
        _ten("SASRec, sampled softmax", 0.0921, 0.0531, ESASREC, f"{SETS}; IDs only"),
        _ten("eSASRec", 0.0928, 0.0523, ESASREC, f"{SETS}; IDs only"),
        _ten("HSTU", 0.0788, 0.0439, ESASREC, f"{SETS}; IDs only"),
        _ten("FuXi-alpha", 0.0809, 0.0451, ESASREC, f"{SETS}; IDs only"),
    ],
    ("Sports_2014", 35_598): [
        _ten("TIGER", 0.0400, 0.0225, ESASREC, f"{SETS}; as its paper reports it"),
        _ten("ActionPiece", 0.0500, 0.0264, ESASREC, f"{SETS}; as its paper reports it"),
        _ten("DuoRec", 0.0498, 0.0262, ESASREC, f"{SETS}; as its paper reports it"),
        _ten("SASRec, sampled softmax", 0.0569, 0.0314, ESASREC, f"{SETS}; IDs only"),
        _ten("eSASRec", 0.0560, 0.0323, ESASREC, f"{SETS}; IDs only"),
        _ten("HSTU", 0.0437, 0.0243, ESASREC, f"{SETS}; IDs only"),
        _ten("FuXi-alpha", 0.0437, 0.0244, ESASREC, f"{SETS}; IDs only"),
    ],
}
# the same set under the name that the tools of this project give it
SAME_SET = {"OnlineRetail": "OR"}


def rivals(dataset: str, n_users: int) -> list[Rival]:
    """What else was published on a dataset."""
    return RIVALS.get((SAME_SET.get(dataset, dataset), n_users), [])
