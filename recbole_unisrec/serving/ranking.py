"""From a history to the best rows of the catalogue: encoder, exact or approximate search, what to leave out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.serving import index as search
from recbole_unisrec.serving.network import Network
from recbole_unisrec.serving.snapshot import Snapshot

LONG = 256  # seen items from which a history is searched exactly: too many to fetch beside the answer


class Ranker:
    """Ranks the rows of a snapshot; holds no state of its own, so that any thread may use it.

    Attributes
    ----------
    window
        Items of a history that the model reads, the newest.
    """

    def __init__(self, network: Network, window: int) -> None:
        self.network, self.window = network, window

    def rank(
        self,
        snapshot: Snapshot,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude_seen: bool = True,
        allowed: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The best rows after each history of rows.

        Returns
        -------
        tuple
            int64 [B, k'] rows, best first, -1 where there are no more, and float32 [B, k'] scores; k' is k or the size
            of the catalogue.
        """
        k = min(k, max(1, snapshot.n))
        rows = torch.full((len(histories), k), -1, dtype=torch.int64)
        scores = torch.full((len(histories), k), -torch.inf)
        warm = [i for i, history in enumerate(histories) if history]
        if len(warm) < len(histories):
            cold = torch.tensor([i for i, history in enumerate(histories) if not history])
            order = snapshot.by_popularity
            if allowed is not None:
                order = order[np.isin(order, np.asarray(allowed, dtype=np.int64))]
            top = torch.from_numpy(order[:k].copy())
            share = snapshot.items["popularity"].gather(top.numpy()).to_numpy() / snapshot.total_popularity
            rows[cold, : len(top)] = top
            scores[cold, : len(top)] = torch.from_numpy(share.astype(np.float32))
        if warm and snapshot.n:
            own = [histories[i] for i in warm]
            query = self.encode(snapshot, own)
            apart = exclude_seen or self.network.history_bias is not None  # seen items have scores of their own
            hidden: list[Sequence[int]] = [list(set(h)) for h in own] if apart else [[]] * len(own)
            best, found = self.topk(snapshot, query, k, hidden, allowed)
            if apart and not exclude_seen:
                best, found = self._with_seen(snapshot, query, own, best, found, k, allowed)
            place = torch.tensor(warm)
            rows[place, : found.shape[1]], scores[place, : found.shape[1]] = found, best
        return rows, scores

    def _with_seen(
        self,
        snapshot: Snapshot,
        query: Tensor,
        histories: Sequence[Sequence[int]],
        best: Tensor,
        found: Tensor,
        k: int,
        allowed: Sequence[int] | None,
    ) -> tuple[Tensor, Tensor]:
        """The best of what was found without the histories, and of their items with the addition to their scores."""
        assert self.network.history_bias is not None
        among = None if allowed is None else set(allowed)
        dead = set(snapshot.dead.tolist())
        longest = max(len(set(history)) for history in histories)
        rows = torch.full((len(histories), longest), -1)
        scores = torch.full((len(histories), longest), -torch.inf)
        for i, history in enumerate(histories):
            read = list(reversed(history[-self.window :]))
            seen = sorted(row for row in set(history) - dead if among is None or row in among)
            bias = torch.zeros(len(seen))
            place = {row: at for at, row in enumerate(seen)}
            for ago, row in enumerate(read):
                if row in place:
                    bias[place[row]] += self.network.history_bias[ago]
            rows[i, : len(seen)] = torch.tensor(seen, dtype=torch.int64)
            scores[i, : len(seen)] = snapshot.candidates[seen] @ query[i] + bias
        best, place_ = torch.cat([best, scores], 1).topk(min(k, best.shape[1] + longest), dim=1)
        return best, torch.cat([found, rows], 1).gather(1, place_)

    def encode(self, snapshot: Snapshot, histories: Sequence[Sequence[int]]) -> Tensor:
        """Encode non-empty histories of rows -> float32 [B, d], normalised where similarity is the cosine."""
        cut = [history[-self.window :] for history in histories]
        flat = torch.tensor([row for history in cut for row in history])
        return self.network.encode(flat, [len(history) for history in cut], snapshot.vectors)

    def topk(
        self,
        snapshot: Snapshot,
        query: Tensor,
        k: int,
        hidden: Sequence[Sequence[int]],
        allowed: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Best rows of each encoded history, float32 [B, d], without the rows of `hidden` and only among `allowed`."""
        if allowed is not None:
            subset = torch.tensor(sorted(allowed), dtype=torch.int64)
            place = {row: i for i, row in enumerate(subset.tolist())}
            inner = [[place[row] for row in own if row in place] for own in hidden]
            best, found = search.exact_topk(query, snapshot.candidates[subset], k, _pairs(inner))
            return best, torch.where(found >= 0, subset[found.clamp(min=0)] if len(subset) else found, -1)
        index = snapshot.index
        if index is None or k > index.n // 4 or not index.pays(len(query)):
            return search.exact_topk(query, snapshot.candidates, k, _pairs(hidden), snapshot.dead)
        return self._approximate(snapshot, index, query, k, hidden)

    def _approximate(
        self,
        snapshot: Snapshot,
        index: search.ApproximateIndex,
        query: Tensor,
        k: int,
        hidden: Sequence[Sequence[int]],
    ) -> tuple[Tensor, Tensor]:
        """Index for its items, exact search for those added since; exact altogether where the index finds too few."""
        table, dead = snapshot.candidates, snapshot.dead
        extra = max((len(own) for own in hidden if len(own) <= LONG), default=0)
        rows = index.search(query, k + extra, snapshot.alive_bits)
        best, found = search.rescore(query, table, rows, k, _pairs(hidden), dead)
        if snapshot.n > index.n:
            inner = [[row - index.n for row in own if row >= index.n] for own in hidden]
            newer = dead[dead >= index.n] - index.n
            best2, found2 = search.exact_topk(query, table[index.n :], k, _pairs(inner), newer)
            found2 = torch.where(found2 >= 0, found2 + index.n, -1)
            best, found = torch.cat([best, best2], 1), torch.cat([found, found2], 1)
            best, place = best.topk(min(k, best.shape[1]), dim=1)
            found = found.gather(1, place)
        if best.shape[1] < k:
            missing = k - best.shape[1]
            best = torch.nn.functional.pad(best, (0, missing), value=-torch.inf)
            found = torch.nn.functional.pad(found, (0, missing), value=-1)
        redo = torch.tensor([len(own) > LONG for own in hidden]) | (found[:, -1] < 0)
        if redo.any():
            some = redo.nonzero().squeeze(1)
            again = search.exact_topk(query[some], table, k, _pairs([hidden[i] for i in some.tolist()]), dead)
            best[some], found[some] = again
        return best, found


def _pairs(hidden: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor] | None:
    """(query, item) pairs sorted by item, as `exact_topk` wants them."""
    counts = [len(own) for own in hidden]
    if not sum(counts):
        return None
    items = torch.tensor([row for own in hidden for row in own])
    queries = torch.repeat_interleave(torch.arange(len(hidden)), torch.tensor(counts))
    items, order = items.sort()
    return queries[order], items
