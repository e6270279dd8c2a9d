"""From a trained model to recommendations. Nothing here needs RecBole, except to read a training checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_unisrec.serving.answers import Explanation, Recommendations

if TYPE_CHECKING:
    from recbole_unisrec.serving.recommender import Recommender, load

__all__ = ["Explanation", "Recommendations", "Recommender", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Recommender", "load"):  # they import torch
        from recbole_unisrec.serving import recommender

        return getattr(recommender, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
