"""The feature files that a model reads: one, or several side by side (``plm_suffix: [feat1CLS, featImage]``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dataset_tools.features import column_names
from recbole_unisrec.data.features import FeatureTable, load_features, read_meta
from recbole_unisrec.data.mapped import MappedFeatures
from recbole_unisrec.errors import UserError


def suffixes(value: object) -> tuple[str, ...]:
    """The value of ``plm_suffix``: one suffix, or a list of them.

    Raises
    ------
    UserError
        If it is anything else, empty, or names a file twice.
    """
    given = value if isinstance(value, list | tuple) else [value]
    names = tuple(str(name) for name in given if isinstance(name, str | int) and name != "")
    if not names or len(names) < len(given):
        raise UserError(f"plm_suffix must be like feat1CLS, or a list like [feat1CLS, featImage], not {value!r}")
    if len(set(names)) < len(names):
        raise UserError(f"plm_suffix names a feature file twice: {', '.join(names)}")
    return names


def feature_paths(folder: Path, name: str, value: object) -> list[Path]:
    """The files that ``plm_suffix`` stands for."""
    return [folder / f"{name}.{suffix}" for suffix in suffixes(value)]


def load_side_by_side(
    paths: Sequence[Path],
    tokens: Sequence[str],
    row_of: dict[str, int] | None,
    n_rows: int,
    widths: Sequence[int] | None = None,
    text_cols: object = None,
    on_disk: bool = False,
) -> FeatureTable:
    """Load feature files; a row holds the vectors of all of them, in the order of `paths`.

    Parameters
    ----------
    paths, tokens, row_of, n_rows
        As in `data.features.load_features`.
    widths
        ``plm_size``: of each file; None takes what the files say.
    text_cols
        The columns that the texts must be made of; None takes any.
    on_disk
        Whether rows stay in their files.

    Raises
    ------
    UserError
        As `load_features`; if widths and files are not as many, or a file was made from other columns.
    """
    known: list[int | None] = list(widths) if widths else [None] * len(paths)
    if len(known) != len(paths):
        raise UserError(
            f"plm_size is {', '.join(map(str, known))}, but plm_suffix names {len(paths)} files; drop plm_size, or list as many"
        )
    for path in paths:
        check_columns(path, text_cols)
    tables = [load_features(path, tokens, row_of, n_rows, w, on_disk) for path, w in zip(paths, known, strict=True)]
    if len(tables) == 1:
        return tables[0]
    told = all(table.encoder for table in tables)
    weights = [table.weight for table in tables]
    mapped = [weight for weight in weights if isinstance(weight, MappedFeatures)]
    return FeatureTable(
        mapped[0].beside(mapped[1:]) if mapped else torch.cat([weight[:] for weight in weights], dim=1),
        " + ".join(table.encoder for table in tables) if told else "",
        tuple(table.width for table in tables),
    )


def check_columns(path: Path, text_cols: object) -> None:
    """Refuse a feature file made from other columns than ``text_cols`` names.

    Raises
    ------
    UserError
        If it was.
    """
    wanted = column_names(text_cols)
    made = read_meta(path).get("text_cols") if wanted else None
    if wanted and isinstance(made, list) and made and made != list(wanted):
        raise UserError(
            f"{path} was made from {', '.join(map(str, made))}, but text_cols names {', '.join(wanted)}; add --encode to "
            "make it anew, or drop text_cols"
        )
