"""New items of a model that reads several feature files, or vectors that were made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataset_tools.lsa import NAME as LSA
from dataset_tools.lsa import LatentSemantics
from recbole_unisrec.errors import UserError

if TYPE_CHECKING:
    from dataset_tools.features import TextEncoder

PARTS = "side_by_side"  # in a recorded encoder: those of the files, in their order
VECTORS = "vectors"  # in a recorded encoder: the file that the vectors came from
KEYS = ("encoder", "pooling", "max_length", "prompt", VECTORS)


def record(metas: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    """What a saved model keeps about the makers of its feature files, from their descriptions."""
    parts = [{key: meta[key] for key in KEYS if key in meta} for meta in metas]
    if len(parts) == 1:
        return parts[0]
    return {PARTS: [{**part, "width": meta.get("width")} for part, meta in zip(parts, metas, strict=True)]}


def made_elsewhere(recorded: Mapping[str, Any]) -> list[str]:
    """The files of vectors that no encoder here makes."""
    return [str(part[VECTORS]) for part in recorded.get(PARTS, [recorded]) if VECTORS in part]


class SideBySide:
    """Encoders whose vectors stand side by side in a row.

    Attributes
    ----------
    name
        Of all of them.
    width
        d_plm, of all of them together.
    """

    def __init__(self, encoders: Sequence[TextEncoder | LatentSemantics]) -> None:
        self.encoders = list(encoders)
        self.name = " + ".join(encoder.name for encoder in encoders)
        self.width = sum(encoder.width for encoder in encoders)

    @classmethod
    def load(cls, parts: Sequence[Mapping[str, Any]], fitted: LatentSemantics | None) -> SideBySide:
        """Load the recorded encoders; `fitted` is the one that belongs to the model.

        Raises
        ------
        UserError
            If one is unknown or cannot be loaded.
        """
        return cls([load_one(part, fitted) for part in parts])

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts -> float32 [n, width]."""
        return np.concatenate([encoder.encode(texts) for encoder in self.encoders], axis=1)


def load_one(part: Mapping[str, Any], fitted: LatentSemantics | None) -> TextEncoder | LatentSemantics:
    """The encoder of one feature file.

    Raises
    ------
    UserError
        If it is unknown or cannot be loaded.
    """
    from dataset_tools.features import TextEncoder

    name = str(part.get("encoder", ""))
    if not name:
        raise UserError("the model does not say which encoder made one of its feature files; give vectors (--vectors)")
    if name.startswith(f"{LSA}-"):
        if fitted is None or fitted.name != name:
            raise UserError(f"the fitted encoder {name} is not in the saved model; save it again from its checkpoint")
        return fitted
    return TextEncoder.load(
        name, str(part.get("pooling", "CLS")), int(part.get("max_length", 512)), str(part.get("prompt", ""))
    )


def with_vectors(
    recorded: Mapping[str, Any],
    fitted: LatentSemantics | None,
    width: int,
    items: Sequence[Mapping[str, Any]] | None,
    path: Path,
    ids: Path | None,
) -> tuple[list[Mapping[str, Any]], np.ndarray]:
    """New items and their features, of which a file of vectors gives all or some.

    Parameters
    ----------
    recorded, fitted, width
        Of the model.
    items
        Mappings with ``item_id`` and ``text``; None takes the items of the file, each with its id for a text.
    path, ids
        See `dataset_tools.features.read_vectors`.

    Raises
    ------
    UserError
        If an item has no vector, or they have another width than the model read.
    """
    from dataset_tools.features import read_vectors
    from dataset_tools.features.vectors import in_order

    found, rows = read_vectors(path, ids)
    new: list[Mapping[str, Any]] = [{"item_id": item, "text": item} for item in found]
    if items is not None:
        new = list(items)
    vectors = in_order([str(item["item_id"]) for item in new], found, rows, path) if new else rows[:0]
    if vectors.shape[1] == width:
        return new, vectors
    parts = recorded.get(PARTS, [])
    outside = [part for part in parts if VECTORS in part]
    if len(outside) == 1 and outside[0].get("width") == vectors.shape[1] and items is not None:
        texts = [str(item["text"]) for item in new]
        columns = [vectors if VECTORS in part else load_one(part, fitted).encode(texts) for part in parts]
        return new, np.concatenate(columns, axis=1)
    due = str(width) if not outside else f"{outside[0].get('width')} (with the texts by --items) or {width}"
    raise UserError(
        f"{path} holds vectors of width {vectors.shape[1]}, but the model reads {due}; use the same as in training"
    )
