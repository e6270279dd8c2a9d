"""What a name stands for that a model does not know: a setting of another model, a name of RecBole 0.x, or nothing."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from recbole_unisrec.registry import MODELS, props_folder
from recbole_unisrec.setting_table import SETTINGS

NAMED = 3  # models that a sentence names


def recbole_properties() -> Path:
    """RecBole's folder of property files, found without importing RecBole."""
    spec = importlib.util.find_spec("recbole")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "properties"


@functools.cache
def _owners() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in sorted((recbole_properties() / "model").glob("*.yaml")):
        for name in yaml.safe_load(file.read_text(encoding="utf-8")) or {}:
            found.setdefault(name, []).append(file.stem)
    for model, entry in MODELS.items():
        own = {name for file in entry.props for name in yaml.safe_load((props_folder() / file).read_text("utf-8"))}
        own |= {name for name, settings in SETTINGS.items() if any(model in setting.models for setting in settings)}
        for name in sorted(own):
            found.setdefault(name, []).append(model)
    return found


def owners(name: str) -> list[str]:
    """The models that have a setting of this name, RecBole's and ours."""
    return _owners().get(name, [])


def in_words(models: list[str]) -> str:
    """``SASRec, GRU4Rec, BERT4Rec and 4 more``."""
    more = f" and {len(models) - NAMED} more" if len(models) > NAMED else ""
    return ", ".join(models[:NAMED]) + more


# --- RecBole 0.x

Translation = Callable[[Any], dict[str, Any] | None]


def _split(text: Any) -> dict[str, Any] | None:
    """``TO_LS,full``, ``RO_RS,uni100``: order, split, and what is ranked."""
    match = re.fullmatch(r"(RO|TO)_(RS|LS),\s*(full|(?:uni|pop)\d+)", str(text).strip())
    if match is None:
        return None
    order, split, mode = match.groups()
    how = {"LS": "valid_and_test"} if split == "LS" else {"RS": [0.8, 0.1, 0.1]}
    return {"eval_args": {"split": how, "order": order, "group_by": "user", "mode": mode}}


def _negatives(value: Any) -> dict[str, Any] | None:
    """``{uniform: 1}``, ``~`` or 0."""
    if not value:
        return {"train_neg_sample_args": None}
    if isinstance(value, int):
        return {"train_neg_sample_args": {"distribution": "uniform", "sample_num": value}}
    if isinstance(value, dict) and len(value) == 1:
        ((kind, number),) = value.items()
        if kind in ("uniform", "popularity"):
            return {"train_neg_sample_args": {"distribution": kind, "sample_num": number}}
    return None


def _number(today: str, low: bool) -> Translation:
    """The least or the largest number of interactions."""
    return lambda value: {today: f"[{value},inf)" if low else f"[0,{value}]"} if isinstance(value, int) else None


def _bound(form: str) -> Translation:
    """Bounds of values, by column."""

    def translate(value: Any) -> dict[str, Any] | None:
        if value is None:
            return {"val_interval": None}
        if not isinstance(value, dict):
            return None
        return {"val_interval": {column: form.format(bound) for column, bound in value.items()}}

    return translate


def _never(value: Any) -> dict[str, Any] | None:
    return {} if value is None else None


# name in RecBole 0.x: (today's name, how to read its value; None where it cannot be read)
OLD: dict[str, tuple[str, Translation]] = {
    "eval_setting": ("eval_args", _split),
    "group_by_user": ("eval_args: {group_by: user}", lambda value: {} if value is True else _never(value)),
    "split_ratio": ("eval_args: {split: {RS: [0.8, 0.1, 0.1]}}", _never),
    "leave_one_num": ("eval_args: {split: {LS: valid_and_test}}", lambda value: {} if value == 2 else _never(value)),
    "real_time_process": ("nothing (RecBole reads batches as they come)", lambda value: {}),
    "neg_sampling": ("train_neg_sample_args", _negatives),
    "training_neg_sample_num": ("train_neg_sample_args", _negatives),
    "training_neg_sample_distribution": ("train_neg_sample_args", _never),
    "min_user_inter_num": ("user_inter_num_interval", _number("user_inter_num_interval", low=True)),
    "max_user_inter_num": ("user_inter_num_interval", _number("user_inter_num_interval", low=False)),
    "min_item_inter_num": ("item_inter_num_interval", _number("item_inter_num_interval", low=True)),
    "max_item_inter_num": ("item_inter_num_interval", _number("item_inter_num_interval", low=False)),
    "lowest_val": ("val_interval", _bound("[{},inf)")),
    "highest_val": ("val_interval", _bound("(-inf,{}]")),
    "equal_val": ("val_interval", _bound("[{0},{0}]")),
    "not_equal_val": ("val_interval", _never),
    "fields_in_same_space": ("alias_of_user_id and alias_of_item_id", _never),
    "drop_filter_field": ("unused_col", _never),
    "drop_preload_weight": ("unused_col", _never),
}


def translated(name: str, value: Any) -> tuple[str, dict[str, Any] | None] | None:
    """Today's name of a setting of RecBole 0.x, and what it says in today's settings.

    Returns
    -------
    tuple or None
        None: there was no such name. A second part of None: the value cannot be read.
    """
    if name not in OLD:
        return None
    today, read = OLD[name]
    return today, read(value)
