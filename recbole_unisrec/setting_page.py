"""The settings for people: the page in docs/, printed by ``python -m recbole_unisrec.setting_page``, and ``--help-settings``."""

from __future__ import annotations

import functools
import textwrap
from collections import Counter
from typing import Any

import yaml

from recbole_unisrec.registry import MODELS, PACKED, props_folder
from recbole_unisrec.setting_checks import defaults_of
from recbole_unisrec.setting_names import in_words, recbole_properties
from recbole_unisrec.setting_parts import IN_PROPS, RECBOLES, Setting
from recbole_unisrec.setting_table import TABLE, TEXTS

HEAD = """\
# Settings

This page is made from the table that checks the settings: `python -m recbole_unisrec.setting_page > docs/settings.md`.
The same text for a terminal: `python run_unisrec.py --help-settings`.

A setting is written as `name: value` in a property file (`--config FILE`), as `--name=value` on the command line, or as
an entry of `config_dict` in `run_recbole`. The command line comes last and wins. `~` means nothing. A value outside its
range ends the run with one sentence, before anything is read or trained. So does a name that no model knows.

A property file may serve several models. What belongs to another model is left out, and one line says so. Names of
RecBole 0.x are read as today's, and one line says so.

Where a default differs by model, the other value stands in brackets. On `ml-100k`, the demonstration, `epochs` is 6 and
`stopping_step` is 3. Models of RecBole's own take their other settings as RecBole documents them.
"""
GROUPS = {tuple(PACKED): "packed models", tuple(TEXTS): "text models", tuple(MODELS): "ours", RECBOLES: "RecBole's own"}
PACKED_WORDS = f"The packed models are {', '.join(PACKED)}. The text models are {', '.join(TEXTS)}."


def yaml_file(path: Any) -> dict[str, Any]:
    """A property file of RecBole or of the project."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = yaml.safe_load(text) or {}
    # YAML 1.1 takes 1e-3 for a text
    return {name: float(v) if isinstance(v, str) and v[:1].isdigit() and "e-" in v else v for name, v in found.items()}


@functools.cache
def defaults(model: str) -> dict[str, Any]:
    """What the property files and the table say for a model, the later one wins as in RecBole's ``Config``."""
    general = recbole_properties()
    files = [general / "overall.yaml", general / "model" / f"{model}.yaml", general / "dataset" / "sample.yaml"]
    files += [general / "quick_start_config" / "sequential.yaml"]
    found: dict[str, Any] = {}
    for file in files:
        found.update(yaml_file(file))
    found.update(defaults_of(model))
    for name in MODELS[model].props if model in MODELS else ("finetune.yaml", f"{model}.yaml"):
        found.update(yaml_file(props_folder() / name))
    return found


def written(value: Any) -> str:
    """A default as one writes it; a float without needless digits."""
    if value is None:
        return "~"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(written(v) for v in value)}]"
    if isinstance(value, str) and (not value.strip() or value != value.strip()):
        return repr(value)
    return str(value)


def default_words(setting: Setting) -> str:
    """The default, and in brackets that of the models that have another."""
    if setting.default is not IN_PROPS:
        return written(setting.default)
    asked = [model for model in (*MODELS, "SASRec", "GRU4Rec", "BERT4Rec") if setting.is_of(model)]
    found = {model: written(values[setting.name]) for model in asked if setting.name in (values := defaults(model))}
    if not found:
        return "~"
    ((common, _),) = Counter(found.values()).most_common(1)
    others: dict[str, list[str]] = {}
    for model, value in found.items():
        if value != common:
            others.setdefault(value, []).append(model)
    if not others:
        return common
    return f"{common} ({'; '.join(f'{in_words(models)}: {value}' for value, models in others.items())})"


def models_words(setting: Setting) -> str:
    """Which models take it."""
    return GROUPS.get(setting.models, ", ".join(setting.models)) if setting.models else "all"


def range_words(setting: Setting) -> str:
    """Bounds or choices, and whether nothing will do."""
    return "; ".join(part for part in (setting.kind.range, "or ~" if setting.optional else "") if part)


def markdown() -> str:
    """The page."""
    lines = [HEAD, f"{PACKED_WORDS}\n"]
    for part, settings in TABLE.items():
        lines += [f"## {part}\n", "| setting | type | values | default | models | what it does |", "|" + "---|" * 6]
        for s in settings:
            cells = (f"`{s.name}`", s.kind.type, range_words(s), default_words(s), models_words(s), s.about)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def plain_text(models: list[str] | None = None) -> str:
    """The same for a terminal, of the settings that one of `models` takes; None is all."""
    lines = []
    for part, settings in TABLE.items():
        mine = [s for s in settings if models is None or any(s.is_of(model) for model in models)]
        if mine:
            lines.append(f"\n{part}")
        for s in mine:
            values = range_words(s) or s.kind.type
            lines.append(f"  {s.name} = {default_words(s)}")
            lines += textwrap.wrap(f"{s.about} [{s.kind.type}: {values}; {models_words(s)}]", 110, initial_indent="      ",
                                   subsequent_indent="      ")  # fmt: skip
    return "\n".join(lines).lstrip("\n")


if __name__ == "__main__":
    print(markdown(), end="")
