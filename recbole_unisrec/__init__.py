"""UniSRec for RecBole. Importing this package lets RecBole find ``UniSRec`` by name, like any of its own models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools import __version__
from recbole_unisrec.errors import UserError
from recbole_unisrec.on_import import arrange

if TYPE_CHECKING:
    from recbole_unisrec.model.unisrec import UniSRec
    from recbole_unisrec.serving import Recommender

arrange()


def __getattr__(name: str) -> Any:
    if name == "UniSRec":  # it imports torch
        from recbole_unisrec.model.unisrec import UniSRec

        return UniSRec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: str | Path, data_path: str | Path | None = None, index: str = "auto") -> Recommender:
    """A recommender from a saved model's folder or a checkpoint; see `recbole_unisrec.serving.load`.

    Examples
    --------
    >>> model = load("model")
    >>> model.recommend(["item-3", "item-4", "item-5"], k=1).ids
    ['item-6']
    >>> answers = model.recommend([["item-3"], ["item-4", "item-5"]], k=5)
    >>> [len(answer) for answer in answers]
    [5, 5]
    """
    from recbole_unisrec.serving import load as load_recommender

    return load_recommender(path, data_path, index)


__all__ = ["UniSRec", "UserError", "__version__", "load"]
