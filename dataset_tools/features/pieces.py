"""Whether a language model knows the language of the texts: the share of unknown and of one-character pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

UNKNOWN, SINGLE = 0.1, 0.5  # shares from which something is said


@dataclass(frozen=True)
class Pieces:
    """Shares of a tokenizer's pieces, the special ones aside.

    Attributes
    ----------
    unknown
        That stand for what the vocabulary does not have.
    single
        Of one letter.
    """

    unknown: float
    single: float

    @classmethod
    def of(cls, tokenizer: Any, ids: np.ndarray) -> Pieces:
        """Count the pieces `ids`, int [n]."""
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        counts = np.bincount(ids, minlength=max([*vocabulary.values(), -1]) + 1).astype(np.int64)
        unknown = tokenizer.unk_token_id
        special = [i for i in tokenizer.all_special_ids if i != unknown]
        counts[special] = 0
        total = max(1, int(counts.sum()))
        single = [i for piece, i in vocabulary.items() if i != unknown and _is_letter(piece)]
        return cls(float(counts[unknown]) / total if unknown is not None else 0.0, float(counts[single].sum()) / total)

    def warning(self, encoder: str) -> str:
        """What to say about it; empty if nothing is remarkable."""
        if self.unknown < UNKNOWN and self.single < SINGLE:
            return ""
        return (
            f"{encoder} may not know the language of these texts: {self.unknown:.0%} of the pieces are unknown to it and "
            f"{self.single:.0%} are single letters; use a multilingual encoder (--encoder with a hub name or a folder), or "
            "--encoder lsa, which learns from the texts alone"
        )


def _is_letter(piece: str) -> bool:
    bare = piece.removeprefix("##").lstrip("▁Ġ")
    return len(bare) == 1 and bare.isalpha()
