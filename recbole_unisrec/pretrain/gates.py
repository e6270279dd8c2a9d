"""How the gate of the adaptor spreads each domain over the experts, so that a collapsed gate is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_tools.common import atomic_path
from recbole_unisrec.model.adaptor import MoEAdaptor
from recbole_unisrec.pretrain.domains import DomainInfo

SAMPLE = 2048  # items of a domain that are looked at
COLLAPSED = 1.2  # effective number of experts at or below which a gate with more counts as collapsed


@dataclass(frozen=True)
class GateSpread:
    """Mean gate weights of one epoch.

    Attributes
    ----------
    share
        float64 [n_domains, G]: mean gate weight of each expert, rows sum to one.
    effective
        float64 [n_domains]: exp of the entropy of `share`; 1 if one expert has all, G if all have the same.
    """

    share: np.ndarray
    effective: np.ndarray

    def line(self, domains: Sequence[str]) -> str:
        """One line for the log."""
        parts = [
            f"{name} {n:.1f} of {self.share.shape[1]} (largest {row.max():.2f})"
            for name, n, row in zip(domains, self.effective, self.share, strict=True)
        ]
        return "experts in use: " + ", ".join(parts)

    @property
    def collapsed(self) -> bool:
        """Whether one expert has nearly everything in every domain."""
        return self.share.shape[1] > 1 and bool((self.effective <= COLLAPSED).all())


@torch.no_grad()
def gate_spread(adaptor: MoEAdaptor, features: Any, domains: Sequence[DomainInfo], device: torch.device) -> GateSpread:
    """Look at the gate without noise, on items at equal distances in each domain.

    Parameters
    ----------
    adaptor
        In evaluation mode.
    features
        Gives float32 [k, d_plm] for ascending int64 item ids.
    """
    rows = []
    for domain in domains:
        step = max(1, domain.n_items // SAMPLE)
        ids = torch.arange(1 + domain.first_item, 1 + domain.first_item + domain.n_items, step)
        rows.append(adaptor.gates(features[ids].to(device)).double().mean(dim=0).cpu().numpy())
    share = np.stack(rows)
    entropy = -(share * np.log(np.maximum(share, 1e-300))).sum(axis=1)
    return GateSpread(share, np.exp(entropy))


def plot_gates(history: Sequence[GateSpread], epochs: Sequence[int], domains: Sequence[str], target: Path) -> None:
    """Draw the gate as a PNG: the experts' shares by domain in the last epoch, and experts in use over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    shares, trend = figure.subplots(1, 2, width_ratios=(3, 2))
    last = history[-1]
    image = shares.imshow(last.share, vmin=0, vmax=max(last.share.max(), 1e-9), aspect="auto", cmap="viridis")
    shares.set_yticks(range(len(domains)), domains)
    shares.set_xticks(range(last.share.shape[1]), [str(i + 1) for i in range(last.share.shape[1])])
    shares.set_xlabel("expert")
    shares.set_title(f"mean gate weight, epoch {epochs[-1]}")
    for (row, column), value in np.ndenumerate(last.share):
        bright = value > last.share.max() / 2
        shares.text(column, row, f"{value:.2f}", ha="center", va="center", color="black" if bright else "white")
    figure.colorbar(image, ax=shares)
    for number, name in enumerate(domains):
        trend.plot(epochs, [spread.effective[number] for spread in history], marker=".", label=name)
    trend.axhline(last.share.shape[1], color="grey", linewidth=0.8, linestyle="--")
    trend.axhline(1, color="grey", linewidth=0.8, linestyle="--")
    trend.set_ylim(0, last.share.shape[1] + 0.5)
    trend.set_xlabel("epoch")
    trend.set_title("experts in use: exp(entropy)")
    trend.legend(fontsize="small")
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
