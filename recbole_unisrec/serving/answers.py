"""What a recommender gives back: plain records that hold no part of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Recommendations:
    """An answer, best first.

    Attributes
    ----------
    ids, titles, scores
        Of the items; fewer than k if the catalogue, less what was excluded, is smaller. The score is the cosine of
        history and item (for models without cosine their inner product); with ``basis == "popularity"`` the share of
        the training interactions.
    basis
        ``history``, or ``popularity`` where no item of the history is known.
    unknown
        Items of the history that the catalogue lacks; they were skipped.
    version
        Of the catalogue; rises with each change.
    """

    ids: list[str]
    titles: list[str]
    scores: list[float]
    basis: Literal["history", "popularity"] = "history"
    unknown: list[str] = field(default_factory=list)
    version: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Explanation:
    """Why an item is recommended; see `Recommender.explain` for the measures.

    Attributes
    ----------
    score
        Of the item for the whole history.
    history
        (item, title, weight), in the order of the history.
    experts
        (gate, weight) of each expert; empty for a model that keeps no text features.
    id_weight
        What the ID embedding of the item adds to the score; 0 in the inductive form.
    text_weight
        What the text's own path and the popularity of the item add to it; 0 for a model without ``text_path``.
    """

    item: str
    title: str
    score: float
    history: list[tuple[str, str, float]]
    experts: list[tuple[float, float]]
    id_weight: float
    text_weight: float = 0.0


@dataclass(frozen=True)
class Placement:
    """Where an item that does not exist yet would be recommended; see `Recommender.preview`.

    Attributes
    ----------
    score, rank
        For the given history, rank 1 is best; None without a known history.
    n_items
        Items of the catalogue, without the new one.
    similar
        The nearest items.
    reach
        Share of `n_histories` real histories in whose top 10 it would be; None if the folder keeps none.
    """

    score: float | None
    rank: int | None
    n_items: int
    similar: Recommendations
    reach: float | None
    n_histories: int
