"""What nearest texts find in small catalogues: whitened as `scale_features` does it, by their own covariance, and not at all.

    python benchmarks/bench_few_items.py Scientific Office_2016_2018 --plm_suffix feat1CLS

A small catalogue is some of a dataset's items, drawn three times from the most bought. Histories are those of validation, cut to
these items; the last one is to be found among the others. Nothing is trained and nothing is counted: NDCG@10, means over draws.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from recbole_unisrec.data import features  # noqa: E402
from recbole_unisrec.metrics import rank_metrics  # noqa: E402
from recbole_unisrec.model.losses import ranks_of_scores  # noqa: E402
from recbole_unisrec.model.text_path import DECAY  # noqa: E402
from recbole_unisrec.model.text_vectors import last_mean, unit_features  # noqa: E402
from recbole_unisrec.quick_start import make_data  # noqa: E402
from recbole_unisrec.settings import build_config  # noqa: E402

WINDOW = 50
DRAWS = 3
WAYS = ("by their own covariance", "shrunk", "not whitened")


def whitened(weight: Tensor, way: str, widths: tuple[int, ...]) -> Tensor:
    """Text vectors of length one [n_items, d_plm]; row 0 is padding."""
    if way == "not whitened":
        return F.normalize(F.pad(weight[1:] - weight[1:].mean(dim=0), (0, 0, 1, 0)), dim=1)
    before = features.FEW_ITEMS
    features.FEW_ITEMS = before if way == "shrunk" else 1e-9  # type: ignore[assignment]
    try:
        return unit_features(weight, "whiten", None, widths)
    finally:
        features.FEW_ITEMS = before


def small(data: Any, n: int, seed: int) -> tuple[Tensor, list[list[int]]]:
    """Items of a small catalogue [n + 1], the first is padding, and the histories that are left, in its numbers."""
    count = data.train._dataset.item_popularity()
    most = count[1:].argsort(descending=True)[: 4 * n] + 1
    kept = most[torch.randperm(len(most), generator=torch.Generator().manual_seed(seed))[:n]]
    number = torch.zeros(len(count), dtype=torch.int64)
    number[kept] = torch.arange(1, len(kept) + 1)
    pairs = data.valid._dataset.pairs
    histories = []
    for start, target in zip(pairs.start.tolist(), pairs.target.tolist(), strict=True):
        history = number[pairs.items[start : target + 1]]
        history = history[history > 0][-WINDOW:].tolist()
        if len(history) > 1 and history[-1] not in history[:-1]:
            histories.append(history)
    return torch.cat([torch.zeros(1, dtype=torch.int64), kept]), histories


def ndcg(unit: Tensor, histories: list[list[int]]) -> float:
    """NDCG@10 of nearest texts; items of the history are masked."""
    ranks = []
    weight = DECAY ** torch.arange(WINDOW)
    for start in range(0, len(histories), 1000):
        block = histories[start : start + 1000]
        length = torch.tensor([len(history) - 1 for history in block])
        rows = [F.pad(torch.tensor(history[:-1]), (0, WINDOW - len(history) + 1)) for history in block]
        taken = torch.stack(rows)  # (B, WINDOW), right-padded
        scores = last_mean(unit[taken], length, weight) @ unit.T
        scores.scatter_(1, taken, -torch.inf)
        ranks.append(ranks_of_scores(scores, torch.tensor([history[-1] for history in block])))
    return dict(rank_metrics(torch.cat(ranks), ["ndcg"], [10]))["ndcg@10"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--data_path", default="dataset/")
    parser.add_argument("--plm_suffix", nargs="+", default=["feat1CLS"], help="feature files, side by side")
    parser.add_argument("--sizes", nargs="+", type=int, default=[50, 200, 800, 1500])
    options = parser.parse_args()
    print(
        f"| dataset | products | histories | {' | '.join(WAYS)} | shrunk / own |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    for name in options.datasets:
        given = {"data_path": options.data_path, "plm_suffix": options.plm_suffix, "show_progress": False}
        data = make_data(build_config("TextKNN", name, [], given))
        table = data.train._dataset.features
        for n in options.sizes:
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            many = []
            for draw in range(DRAWS):
                items, histories = small(data, n, draw)
                if not histories:
                    raise SystemExit(f"no history of {name} has two of {n} products; give larger --sizes")
                many.append(len(histories))
                weight = torch.cat([torch.zeros(1, table.width), table.weight[items[1:]]])
                for way in WAYS:
                    found[way].append(ndcg(whitened(weight, way, table.widths), histories))
            means = {way: statistics.mean(values) for way, values in found.items()}
            ratio = means["shrunk"] / means["by their own covariance"]
            figures = " | ".join(f"{means[way]:.4f}" for way in WAYS)
            print(f"| {name} | {n:,} | {statistics.median(many):,} | {figures} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
