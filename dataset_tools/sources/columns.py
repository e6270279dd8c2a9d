"""Find the wanted columns in a header, without regard to case, blanks and underscores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dataset_tools.common import UserError
from dataset_tools.sources.lines import Source


def plain_name(name: str) -> str:
    """A column's name without what people write differently.

    >>> plain_name(" Customer ID") == plain_name("customer_id") == plain_name("CustomerID")
    True
    """
    return re.sub(r"[\W_]+", "", name).casefold()


def unique_names(header: Iterable[str]) -> list[str]:
    """Names of all columns: a blank one becomes ``column_3``, and of equal ones the second ``name_2``."""
    names: list[str] = []
    for place, raw in enumerate(header, start=1):
        name = raw.strip().strip("\ufeff") or f"column_{place}"
        copies = 2
        unique = name
        while unique in names:
            unique, copies = f"{name}_{copies}", copies + 1
        names.append(unique)
    return names


def find_column(name: str, found: Sequence[str]) -> str | None:
    """The column of that name: as it is written, or else the only one that reads the same."""
    if name in found:
        return name
    alike = [other for other in found if plain_name(other) == plain_name(name)]
    return alike[0] if len(alike) == 1 and plain_name(name) else None


def refuse_missing(source: Source, missing: Sequence[str], found: Sequence[str], what: str = "column") -> None:
    """Raise `UserError` if any column is missing; it names those that are there."""
    if missing:
        raise UserError(f"{source.path.name} has no {what} {', '.join(missing)}; its {what}s are {', '.join(found)}")


def match_columns(source: Source, wanted: Sequence[str], found: Sequence[str], what: str = "column") -> dict[str, str]:
    """Each wanted column to its name in the file; says it where the two differ.

    Raises
    ------
    UserError
        If one is missing. It names those that are there.
    """
    matches = {name: match for name in wanted if (match := find_column(name, found)) is not None}
    refuse_missing(source, [name for name in wanted if name not in matches], found, what)
    differ = [f"{name} is its {what} {match!r}" for name, match in matches.items() if name != match]
    if differ:
        source.note(", ".join(differ))
    return matches
