"""Why an item is recommended, and where an item that does not exist yet would be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.answers import Explanation, Placement, Recommendations
from recbole_unisrec.serving.checks import unknown_ids
from recbole_unisrec.serving.ranking import Ranker
from recbole_unisrec.serving.snapshot import Snapshot, rows_of


def nearest(ranker: Ranker, snapshot: Snapshot, vector: Tensor, k: int, hidden: Sequence[int]) -> Recommendations:
    """The items nearest to a vector, float32 [1, d], without the rows of `hidden`."""
    best, found = ranker.topk(snapshot, vector, k, [hidden])
    rows = found[0][found[0] >= 0].numpy()
    return Recommendations(
        snapshot.ids(rows), snapshot.titles(rows), best[0][: len(rows)].tolist(), version=snapshot.version
    )


def without_path(ranker: Ranker, vector: Tensor) -> Tensor:
    """A candidate [d] as [1, d] that asks for the likeness of vectors alone, without the columns of a text path."""
    return torch.where(torch.arange(len(vector)) < ranker.network.hidden_size, vector, 0.0).unsqueeze(0)


def explain(ranker: Ranker, snapshot: Snapshot, history: Sequence[str], row: int, has_ids: bool) -> Explanation:
    """The work of `Recommender.explain`, which says what the weights are.

    Parameters
    ----------
    row
        Of the item to explain.
    has_ids
        Whether the item vectors hold ID embeddings.

    Raises
    ------
    UserError
        If no item of the history is known.
    """
    rows, unknown = rows_of(snapshot, history)
    if not rows:
        raise UserError(
            unknown_ids(unknown, "the history") if unknown else "the history is empty; there is nothing to explain"
        )
    network, read = ranker.network, rows[-ranker.window :]
    queries = ranker.encode(snapshot, [read, *(read[:i] + read[i + 1 :] for i in range(len(read)) if len(read) > 1)])
    target = snapshot.candidates[row]
    scores = (queries @ target).tolist()
    without = scores[1:] or [0.0]
    weights = [0.0] * (len(rows) - len(read)) + [scores[0] - s for s in without]
    d = network.hidden_size
    text_weight = float(queries[0][d:] @ target[d:])
    features = snapshot.features_of([row])
    experts: list[tuple[float, float]] = []
    id_weight = 0.0
    if features is not None and network.moe_adaptor is not None:
        with torch.inference_mode():
            parts = network.experts(features)[0]  # (G, d)
            shares = parts @ queries[0][:d] / snapshot.norms[row]
            gates = network.moe_adaptor.gates(network.adaptor_input(features))[0]
        experts = list(zip(gates.tolist(), shares.tolist(), strict=True))
        id_weight = scores[0] - text_weight - float(shares.sum()) if has_ids else 0.0
    ids, titles = snapshot.ids(rows), snapshot.titles(rows)
    item, title = snapshot.ids([row])[0], snapshot.titles([row])[0]
    parts_of = list(zip(ids, titles, weights, strict=True))
    return Explanation(item, title, scores[0], parts_of, experts, id_weight, text_weight)


def place(
    ranker: Ranker, snapshot: Snapshot, vector: Tensor, history: Sequence[str], k: int, tenth: tuple[Tensor, Tensor]
) -> Placement:
    """The work of `Recommender.preview`.

    Parameters
    ----------
    vector
        float32 [d] of the new item, normalised where similarity is the cosine.
    tenth
        float32 [q, d] encodings of real histories, and [q] the score of the tenth item of each.
    """
    rows, _ = rows_of(snapshot, history)
    score = rank = None
    if rows:
        query = ranker.encode(snapshot, [rows])[0]
        score = float(query @ vector)
        seen = torch.tensor(sorted(set(rows)))
        better = int((snapshot.candidates @ query > score).sum())
        for out in (seen, snapshot.dead):
            better -= int((snapshot.candidates[out] @ query > score).sum())
        rank = better + 1
    queries, thresholds = tenth
    reach = float((queries @ vector > thresholds).float().mean()) if len(queries) else None
    similar = nearest(ranker, snapshot, without_path(ranker, vector), k, [])
    return Placement(score, rank, snapshot.n_items, similar, reach, len(queries))
