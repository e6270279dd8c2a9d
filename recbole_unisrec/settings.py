"""From a command line to a RecBole ``Config``: property files, overrides, and a name for every misspelt setting."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from recbole.config import Config
from recbole.utils import argument_list, get_model

from dataset_tools.common import FLOAT, read_properties, write_text
from dataset_tools.features import read_texts
from recbole_unisrec.data.atomic import SPLITS, AtomicFields, find_layout, read_header
from recbole_unisrec.data.attributes import text_attributes
from recbole_unisrec.data.download import fetch_dataset
from recbole_unisrec.errors import UserError
from recbole_unisrec.record import say
from recbole_unisrec.registry import MODELS, PACKED, SEQUENCES_ONLY, props_folder
from recbole_unisrec.setting_checks import check, check_together, defaults_of, find
from recbole_unisrec.setting_names import in_words, owners, recbole_properties, translated
from recbole_unisrec.setting_parts import in_file

# settings that RecBole reads but lists in no property file
UNLISTED = {"train_neg_sample_args", "benchmark_filename", "alias_of_item_id", "load_col", "unload_col", "encoding",
            "dataloaders_save_path", "numerical_features", "nproc", "world_size", "offset", "ip", "port",
            "single_spec", "local_rank", "log_dir"}  # fmt: skip
OF_EVERY_MODEL = {"learning_rate", "train_batch_size"}  # settings of the recipe that say nothing of a model
# what decides which interactions there are, and how they are split
DATA_SETTINGS = (
    *(name for name in argument_list.dataset_arguments if name not in ("data_path", "preload_weight")), "eval_args",
    "benchmark_filename",
)  # fmt: skip


def parse_value(text: str) -> Any:
    """Read the value of ``--name=value`` as YAML (``1e-3`` is a number); nothing is evaluated."""
    if FLOAT.match(text):
        return float(text)
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text


def model_class(name: str) -> type:
    """The class that RecBole finds under a name.

    Raises
    ------
    UserError
        If there is none; names close matches.
    """
    try:
        return get_model(name)
    except (ValueError, AttributeError, ImportError) as error:
        close = difflib.get_close_matches(name, known_models(), n=3, cutoff=0.5)
        if isinstance(error, ImportError) and name in known_models():
            raise UserError(f"model {name} needs a package that is not installed: {error}") from error
        hint = f"did you mean {' or '.join(close)}?" if close else "see RecBole's list of models"
        raise UserError(f"unknown model {name!r}; {hint}") from error


def known_models() -> list[str]:
    """Names of all models: the project's and RecBole's."""
    files = (recbole_properties() / "model").glob("*.yaml")
    return [*MODELS, *sorted(file.stem for file in files)]


def build_config(
    model: str,
    dataset: str,
    files: list[str],
    overrides: dict[str, Any],
    tell: Callable[[str], None] = say,
) -> Config:
    """Build RecBole's ``Config`` for one run; every value is checked against `setting_table`.

    The order, later wins: RecBole's defaults, the project's property files for the model (``props/``) and for the
    dataset, `files`, `overrides`.

    Parameters
    ----------
    model, dataset
        Names as RecBole knows them.
    files
        Property files of the user. One file may serve several models: what belongs to another is left out and said.
    overrides
        Settings of the command line.
    tell
        Is told what was left out, or read in another way.

    Raises
    ------
    UserError
        If the model or a setting is unknown, or a value is not of the setting's kind.

    Examples
    --------
    >>> config = build_config("UniSRec", "ring", [], {"train_stage": "inductive_ft", "n_exps": 4})
    >>> config["n_exps"], config["temperature"]
    (4, 0.07)
    >>> build_config("UniSRec", "ring", [], {"n_exps": 0})
    Traceback (most recent call last):
    ...
    dataset_tools.common.UserError: n_exps must be a whole number of 1 or more, not 0
    """
    settings = _own_properties(model, dataset)
    base = _quiet_config(model, dataset, settings)
    known = _known(base)
    given: dict[str, Any] = {}
    source: dict[str, str] = {}
    for where, values in [*((str(file), read_properties(file)) for file in files), ("", overrides)]:
        given.update(values)
        source.update(dict.fromkeys(values, where))
    added = recipe(given.pop("recipe", None))
    usable = {name: value for name, value in added.items() if name in known}
    if added and not set(usable) - OF_EVERY_MODEL:  # which are of no use alone
        raise UserError(f"{model} can use nothing of the recipe ({', '.join(added)}); it goes with {', '.join(PACKED)}")
    given = {**usable, **_known_alone(model, given, source, known, tell)}
    for name, value in given.items():
        where = source.get(name, "")
        check(name, value, model, where)
        if find(name, model) is None:  # of another model of RecBole's: all that is known of it is its default
            _check_like(name, value, base.final_config_dict.get(name), where)
    settings.update(given)
    if model not in MODELS:
        for name in ("cold_items", "train_users"):
            if settings.get(name) and model not in SEQUENCES_ONLY:
                raise UserError(
                    f"{model} reads its data in RecBole's way, which leaves nothing out of training; {name} goes with "
                    f"{', '.join((*SEQUENCES_ONLY, *MODELS))}"
                )
        if not reads_our_dataset(model):
            folder = Path(str(settings.get("data_path", "dataset/"))) / dataset
            fetch_dataset(folder, dataset)
            if "selected_features" in known and find_layout(folder, dataset) == "split":
                write_attributes(folder, dataset)
            settings.update(
                _layout_settings(
                    folder, dataset, settings, model if {"selected_features", "item_attribute"} & known else ""
                )
            )
        check_together({**base.final_config_dict, **settings})
    return _quiet_config(model, dataset, settings)


def _known_alone(
    model: str, given: dict[str, Any], source: dict[str, str], known: set[str], tell: Callable[[str], None]
) -> dict[str, Any]:
    """`given` without the names that the model does not know, and with today's for those of RecBole 0.x.

    Raises
    ------
    UserError
        If nobody knows a name, or one of the command line belongs to another model.
    """
    found = {name: value for name, value in given.items() if name in known}
    left_out: dict[str, list[str]] = {}
    for name, value in given.items():
        if name in known:
            continue
        where, old, others = source[name], translated(name, value), owners(name)
        if old is not None:
            today, settings = old
            if settings is None:
                raise UserError(f"{name} is a name of RecBole 0.x{in_file(where)}; today it is {today}, so write that")
            tell(f"{name} is a name of RecBole 0.x{in_file(where)}; today it is {today}, and it is read as such")
            found = {**settings, **found}
            source.update({name: where for name in settings if name not in given})
        elif others and where:
            left_out.setdefault(where, []).append(f"{name} (of {in_words(others)})")
        elif others:
            raise UserError(f"{model} has no {name}; it goes with {in_words(others)}")
        else:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean {close[0]}?" if close else "`run_unisrec.py --help-settings` lists all"
            raise UserError(f"unknown setting {name!r}{in_file(where)}; {hint}")
    for where, names in left_out.items():
        tell(f"{where}: left out for {model}, as other models have them: {', '.join(names)}")
    return found


def _check_like(name: str, value: Any, default: Any, where: str) -> None:
    """Raise `UserError` if a value is of another type than the default."""
    if isinstance(default, int | float) and not isinstance(default, bool) and isinstance(value, str):
        raise UserError(f"{name} must be a number, not {value!r}{in_file(where)}")
    if isinstance(default, bool) and not isinstance(value, bool):
        raise UserError(f"{name} must be True or False, not {value!r}{in_file(where)}")


def reads_our_dataset(model: str) -> bool:
    """Whether one of RecBole's models gets `data.dataset.SequenceDataset`."""
    return model in SEQUENCES_ONLY


def known_settings(model: str, dataset: str) -> set[str]:
    """Names of the settings that a model takes, ``recipe`` among them where it stands for some."""
    known = _known(_quiet_config(model, dataset, _own_properties(model, dataset)))
    return known | {"recipe"} if model in PACKED else known


def _known(base: Config) -> set[str]:
    known = set(base.final_config_dict) | UNLISTED
    for group in ("general", "training", "evaluation", "dataset"):
        known.update(getattr(argument_list, f"{group}_arguments"))
    return known


def _own_properties(model: str, dataset: str) -> dict[str, Any]:
    """Settings of the project's property files for RecBole's models (`registry` adds those of ours) and the dataset."""
    cls = model_class(model)
    settings = defaults_of(model)
    if model not in MODELS:
        settings.update(read_properties(props_folder() / "finetune.yaml"))
        own = props_folder() / f"{model}.yaml"
        settings.update(read_properties(own) if own.is_file() else {})
        if hasattr(cls, "input_type"):
            del settings["train_neg_sample_args"]  # the model wants RecBole's negatives
    demo = props_folder() / f"{dataset}.yaml"
    settings.update(read_properties(demo) if demo.is_file() else {})
    return settings


def recipe(name: str | None) -> dict[str, Any]:
    """The settings of ``--recipe NAME`` (``props/recipe-NAME.yaml``); the paper's are the defaults.

    Raises
    ------
    UserError
        If there is no such recipe.
    """
    if name is None or name == "paper":
        return {}
    file = props_folder() / f"recipe-{name}.yaml"
    if not file.is_file():
        found = ["paper", *sorted(f.stem.removeprefix("recipe-") for f in props_folder().glob("recipe-*.yaml"))]
        raise UserError(f"unknown recipe {name!r}; choose one of {', '.join(found)}")
    return read_properties(file)


def _layout_settings(folder: Path, dataset: str, settings: dict[str, Any], attributes: str = "") -> dict[str, Any]:
    """What RecBole's own datasets must be told about the files in the folder, where the user does not say it.

    `attributes` is the name of a model that reads attributes of items; empty for any other.
    """
    user, item = settings.get("USER_ID_FIELD", "user_id"), settings.get("ITEM_ID_FIELD", "item_id")
    suffix = settings.get("LIST_SUFFIX", "_list")
    found: dict[str, Any] = {}
    if settings.get("benchmark_filename") is None and find_layout(folder, dataset) == "split":
        found["benchmark_filename"] = list(SPLITS)
    if found or settings.get("benchmark_filename") is not None:
        found["alias_of_item_id"] = settings.get("alias_of_item_id") or [f"{item}{suffix}"]
        columns = [user, f"{item}{suffix}", item]
    else:
        columns = [user, item, settings.get("TIME_FIELD", "timestamp")]
    items = folder / f"{dataset}.item"
    loaded = settings.get("load_col")
    if loaded is not None:  # as in RecBole, but for its defaults, which name columns of MovieLens
        there = loaded.get("item", []) if isinstance(loaded, dict) else []
    else:
        found["load_col"] = {"inter": columns}
        there = []
        if items.is_file():
            separator = settings.get("field_separator", "\t")
            there = read_header(items, AtomicFields(separator=separator, encoding=settings.get("encoding")))
            # models that read item attributes (FDSA, S3Rec, SASRecF, ...) get what they are told, else the words of the text
            named = {*(settings.get("selected_features") or []), settings.get("item_attribute", "text"), "text"}
            found["load_col"]["item"] = [item, *(name for name in there if name in named and name != item)]
    silent = loaded is None or (isinstance(loaded, dict) and "item" not in loaded)
    if attributes and silent and items.is_file() and "text" not in there and settings.get("selected_features") is None:
        found.update(text_attributes(items, settings))
        found["load_col"] = {**(loaded or found["load_col"]), "item": [item, *found["selected_features"]]}
        say(
            f"{attributes} reads {', '.join(found['selected_features'])} of {items.name} as attributes "
            "(selected_features, or text_cols, names others)"
        )
    if "text" in there:
        found.update(selected_features=settings.get("selected_features", ["text"]))
        found["item_attribute"] = settings.get("item_attribute", "text")
    return found


def write_attributes(folder: Path, dataset: str) -> None:
    """Write ``NAME.item``, if it is missing: the texts by item index, for models that read attributes of items.

    The authors' layout has the texts under the raw ids only (``NAME.text``), but indices in the interactions.

    Raises
    ------
    UserError
        If there are no texts, or the folder cannot be written.
    """
    path = folder / f"{dataset}.item"
    if not path.is_file():
        _, texts = read_texts(folder, dataset)
        write_text(path, "item_id:token\ttext:token_seq\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)))


def _quiet_config(model: str, dataset: str, settings: dict[str, Any]) -> Config:
    """``Config`` without its own look at the command line, which takes in unknown settings silently."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        return Config(model=model, dataset=dataset, config_dict=dict(settings))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"the settings do not fit {model}: {error}") from error
    finally:
        sys.argv = arguments
