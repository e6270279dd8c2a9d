"""Attributes for RecBole's models that read some (FDSA, S3Rec, SASRecF), where the user names none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_tools.features.items import Fields, read_item_table


def text_attributes(items: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that give a model the columns whose text the text models read, as RecBole types them.

    Parameters
    ----------
    items
        ``NAME.item``.
    settings
        RecBole's, and ``text_cols``.

    Raises
    ------
    UserError
        If the file cannot be read, or no column looks like text.
    """
    table = read_item_table(items, Fields.of(settings))
    # one attribute (S3Rec) is best one that several items share
    one = max(table.columns, key=lambda name: (table.types[name] == "token_seq", name != "title"))
    return {"selected_features": list(table.columns), "item_attribute": settings.get("item_attribute", one)}
