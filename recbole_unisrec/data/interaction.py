"""RecBole's ``Interaction`` over prefixes that are cut, not written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_unisrec.data.sequences import Pairs


class PairInteraction(Interaction):
    """RecBole ``Interaction`` of (prefix, next item) pairs that pads prefixes only for the rows that are asked for."""

    def __init__(self, pairs: Pairs, window: int, fields: dict[str, str]) -> None:
        self.pairs, self.window, self.list_field = pairs, window, fields["list"]
        super().__init__(
            {
                fields["user"]: pairs.user,
                fields["item"]: pairs.items[pairs.target],
                fields["length"]: pairs.target - pairs.start,
            }
        )

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            if index == self.list_field:
                return self.pairs.padded(slice(None), self.window)
            return self.interaction[index]
        if isinstance(index, list | np.ndarray):
            index = torch.as_tensor(np.asarray(index))
        rows = {name: values[index] for name, values in self.interaction.items()}
        return Interaction({**rows, self.list_field: self.pairs.padded(index, self.window)})

    def _reindex(self, index: Any) -> None:
        """Put the rows in another order, in place (RecBole's ``sort`` and ``shuffle``)."""
        index = torch.as_tensor(np.asarray(index))
        super()._reindex(index)
        pairs = self.pairs
        self.pairs = Pairs(pairs.items, pairs.user[index], pairs.start[index], pairs.target[index])

    def __contains__(self, name: object) -> bool:
        return name == self.list_field or name in self.interaction

    @property
    def columns(self) -> list[str]:
        """Names of the fields, the padded list included."""
        return [*self.interaction, self.list_field]

    def to(self, device: Any, selected_field: Any = None) -> Interaction:
        """Pad all rows and copy them to a device (large: [n, window] int64)."""
        return self[slice(None)].to(device, selected_field)
