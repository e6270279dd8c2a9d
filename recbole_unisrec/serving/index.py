"""Top-k: exact by blocked matrix products, approximate by an inverted file of faiss."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.errors import UserError

QUERIES = 1024  # rows of a block of scores
SCORES = 8_000_000  # elements of a block of scores (32 MB)
GROUP = 32  # scores of which first only the maximum is looked at
APPROXIMATE_FROM = 50_000  # items; below, the exact answer takes less than 10 ms on two cores (docs/speed.md)
RECALL = 0.99  # of the approximate index at k = 10
RECALL_K = 10
TIE = 1e-6  # scores closer than this are equal
FEW = 32  # queries; of fewer than these the exact answer reads the whole table for little work
COST = 5  # time of a vector in a cell over that of a vector in a large matrix product (measured)
PER_CENTROID = 64  # training points of a cell
ADDED = 1 << 17  # items put into the index at a time


def _block_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Exact top-k of each row: scores [B, n] -> values and columns [B, min(k, n)].

    The k best lie in the k groups with the greatest maxima, and a maximum is cheaper than a selection.
    """
    batch, n = scores.shape
    groups = n // GROUP
    if groups <= 2 * k:
        values, columns = scores.topk(min(k, n), dim=1)
        return values, columns
    whole = groups * GROUP
    best = scores[:, :whole].unflatten(1, (groups, GROUP)).amax(dim=2).topk(k, dim=1, sorted=False).indices
    columns = (best.unsqueeze(2) * GROUP + torch.arange(GROUP)).view(batch, -1)  # (B, k·GROUP)
    if whole < n:
        columns = torch.cat([columns, torch.arange(whole, n).expand(batch, -1)], dim=1)
    values, place = scores.gather(1, columns).topk(k, dim=1)
    return values, columns.gather(1, place)


def in_order(scores: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sort [B, k] by falling score, equal scores by row."""
    rows, order = rows.sort(dim=1)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores, rows.gather(1, order)


@torch.inference_mode()
def exact_topk(
    query: Tensor, table: Tensor, k: int, hidden: tuple[Tensor, Tensor] | None = None, dead: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k items with the greatest inner products, exactly, in memory independent of the number of items.

    Parameters
    ----------
    query, table
        float32 [B, d] and [n, d].
    k
        At least 1.
    hidden
        int64 pairs (query, item) that must not be found, sorted by item.
    dead
        int64, sorted: items that no query may find.

    Returns
    -------
    tuple
        Scores float32 [B, min(k, n)] and rows int64; where fewer items are left the score is -inf and the row -1.
    """
    n_query, n = len(query), len(table)
    k = min(k, n)
    if n_query > QUERIES:
        parts = []
        for start in range(0, n_query, QUERIES):
            own = None
            if hidden is not None:
                inside = (hidden[0] >= start) & (hidden[0] < start + QUERIES)
                own = (hidden[0][inside] - start, hidden[1][inside])
            parts.append(exact_topk(query[start : start + QUERIES], table, k, own, dead))
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    width = max(GROUP, SCORES // max(1, n_query) // GROUP * GROUP)
    best, rows = torch.empty(n_query, 0), torch.empty(n_query, 0, dtype=torch.int64)
    for start in range(0, n, width):
        stop = min(n, start + width)
        scores = query @ table[start:stop].T  # (B, width)
        if hidden is not None:
            first, last = torch.searchsorted(hidden[1].contiguous(), torch.tensor([start, stop])).tolist()
            scores[hidden[0][first:last], hidden[1][first:last] - start] = -torch.inf
        if dead is not None and len(dead):
            first, last = torch.searchsorted(dead, torch.tensor([start, stop])).tolist()
            scores[:, dead[first:last] - start] = -torch.inf
        values, columns = _block_topk(scores, k)
        best, rows = torch.cat([best, values], dim=1), torch.cat([rows, columns + start], dim=1)
        if best.shape[1] > k:
            best, place = best.topk(k, dim=1)
            rows = rows.gather(1, place)
    best, rows = in_order(best, rows)
    return best, torch.where(best == -torch.inf, -1, rows)


@dataclass(frozen=True)
class ApproximateIndex:
    """Inverted file over the first `n` items: cells around centroids, of which the nearest `n_probe` are searched.

    The cells hold a byte a coordinate (``faiss.IndexIVFScalarQuantizer``), together a quarter of the table. More items
    than wanted are fetched, and exact scores decide among them; only membership of the top k is approximate.

    Attributes
    ----------
    n
        Number of items in the index.
    n_probe
        Cells searched, chosen at build time: the least power of two that reaches the wanted recall.
    recall
        Recall@10 against the exact answer over `n_queries` queries, at build time.
    """

    faiss_index: Any
    n: int
    n_probe: int
    recall: float
    n_queries: int

    def pays(self, n_queries: int) -> bool:
        """Whether the index is faster than the exact answer for so many queries at once."""
        return n_queries < FEW or self.n_probe * COST < self.faiss_index.nlist

    def search(self, query: Tensor, k: int, alive_bits: np.ndarray | None = None) -> Tensor:
        """Candidates of each query, among which the exact scores decide.

        Parameters
        ----------
        query
            float32 [B, d].
        k
            Items wanted of each query, those included that it must not find.
        alive_bits
            uint8, a bit a row, the lowest first: rows that may be found; None for all.

        Returns
        -------
        Tensor
            int64 [B, m] rows, m above k where there are as many; -1 where fewer were found.
        """
        faiss = import_faiss()
        options: dict[str, Any] = {"nprobe": self.n_probe}
        if alive_bits is not None:
            options["sel"] = faiss.IDSelectorBitmap(alive_bits)
        params = faiss.SearchParametersIVF(**options)
        _, rows = self.faiss_index.search(_filled(query), min(self.n, 2 * k + 4), params=params)
        return torch.from_numpy(rows)


def import_faiss() -> Any:
    """faiss, whose absence is a `UserError` that says how to get it."""
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise UserError(
            'the approximate index needs faiss; run pip install "recbole_unisrec[index]" or use index="exact"'
        ) from error


def filled_width(width: int) -> int:
    """Width of vectors in the index: faiss reads bytes ten times as fast where it is a multiple of 16."""
    return width + -width % 16


def _filled(vectors: Tensor) -> np.ndarray:
    """Vectors [B, d] with zeros up to `filled_width`."""
    return torch.nn.functional.pad(vectors, (0, -vectors.shape[1] % 16)).contiguous().numpy()


def rescore(
    query: Tensor, table: Tensor, rows: Tensor, k: int, hidden: tuple[Tensor, Tensor] | None, dead: Tensor
) -> tuple[Tensor, Tensor]:
    """The k best of the given rows of each query by exact score, without hidden and dead ones.

    Parameters
    ----------
    query, table, k, hidden, dead
        As in `exact_topk`.
    rows
        int64 [B, m], -1 for none.

    Returns
    -------
    tuple
        As `exact_topk`.
    """
    scores = torch.empty(rows.shape)
    step = max(1, SCORES // max(1, rows.shape[1] * table.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        vectors = table[rows[block].clamp(min=0)]  # (b, m, d)
        scores[block] = torch.bmm(vectors, query[block].unsqueeze(2)).squeeze(2)
    bad = rows < 0
    if hidden is not None:
        number = torch.arange(len(rows)).unsqueeze(1) * len(table)
        bad |= torch.isin(rows + number, hidden[0] * len(table) + hidden[1])
    if len(dead):
        bad |= torch.isin(rows, dead)
    scores[bad] = -torch.inf
    best, place = scores.topk(min(k, scores.shape[1]), dim=1)
    best, found = in_order(best, rows.gather(1, place))
    return best, torch.where(best == -torch.inf, -1, found)


def recall_at_k(found: Tensor, exact: Tensor) -> float:
    """Recall of the top k by scores [B, k], best first: the share that is as good as the k-th exact one.

    Items of equal text have equal scores, and any of them is a right answer.
    """
    there = exact > -torch.inf
    least = exact.masked_fill(~there, torch.inf).amin(dim=1, keepdim=True)
    return float((found >= least - TIE).sum() / max(1, int(there.sum())))


def build_index(
    table: Tensor, queries: Tensor, target: float = RECALL, n_cells: int | None = None, seed: int = 0
) -> ApproximateIndex:
    """Build an approximate index and choose how many cells it searches.

    Parameters
    ----------
    table
        float32 [n, d] candidates.
    queries
        float32 [Q, d] outputs of the encoder for real histories; recall is measured on them.
    target
        Recall@10 to reach; cells are doubled until it is reached, or all are searched.
    n_cells
        None: 2·√n; the centroids, which are whole vectors, then take about as long as the cells.

    Raises
    ------
    UserError
        If faiss is not installed.
    """
    faiss = import_faiss()
    n, width = len(table), filled_width(table.shape[1])
    cells = n_cells or max(1, min(int(2 * n**0.5), n // 40))
    built = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    built.cp.niter, built.cp.max_points_per_centroid, built.cp.seed = 10, PER_CENTROID, seed
    built.cp.min_points_per_centroid = 1
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(n, min(n, PER_CENTROID * cells), replace=False))
    built.train(_filled(table[torch.from_numpy(sample)]))
    for block in table.split(ADDED):
        built.add(_filled(block))
    none = torch.zeros(0, dtype=torch.int64)
    exact, _ = exact_topk(queries, table, RECALL_K)
    probe = 1
    while True:
        index = ApproximateIndex(built, n, probe, 0.0, len(queries))
        found, _ = rescore(queries, table, index.search(queries, RECALL_K), RECALL_K, None, none)
        index = replace(index, recall=recall_at_k(found, exact))
        if index.recall >= target or probe >= cells:
            return index
        probe = min(cells, probe * 2)
