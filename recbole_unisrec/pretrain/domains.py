"""The domains of a mixture, as `dataset_tools.mixture` describes them in ``NAME.mixture.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_unisrec.errors import UserError


@dataclass(frozen=True)
class DomainInfo:
    """One domain of a mixture.

    Attributes
    ----------
    name, folder
        Of its dataset.
    first_item, n_items
        Its items have the global indices ``first_item`` to ``first_item + n_items - 1``.
    """

    name: str
    folder: Path
    first_item: int
    n_items: int


def read_description(folder: Path, name: str) -> tuple[dict[str, int], list[DomainInfo]]:
    """Numbers of items and users of a mixture, and its domains.

    Raises
    ------
    UserError
        If there is no description, it does not add up, or a domain is missing.
    """
    path = folder / f"{name}.mixture.json"
    if not path.is_file():
        raise UserError(
            f"{name!r} is no mixture: {path} does not exist; make it with `python -m dataset_tools.mixture DOMAIN ... "
            f"--name {name} --data {folder.parent}`"
        )
    again = "make the mixture again with `python -m dataset_tools.mixture ... --overwrite`"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        domains = [
            DomainInfo(str(d["name"]), (folder / d["folder"]).resolve(), int(d["first_item"]), int(d["n_items"]))
            for d in found["domains"]
        ]
        n_items, n_users = int(found["n_items"]), int(found["n_users"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a description of a mixture ({error!r}); {again}") from error
    ends = np.cumsum([0, *(d.n_items for d in domains)])
    if not domains or n_items != ends[-1] or [d.first_item for d in domains] != ends[:-1].tolist():
        raise UserError(f"{path} does not add up: its domains do not number its {n_items} items; {again}")
    for domain in domains:
        if not domain.folder.is_dir():
            raise UserError(
                f"the domain {domain.name} of {name} is missing: no folder {domain.folder}; put it back, or make the "
                "mixture again without it"
            )
    return {"n_items": n_items, "n_users": n_users}, domains
