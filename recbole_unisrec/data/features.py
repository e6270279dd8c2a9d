"""The text features that `dataset_tools.features` writes: raw rows by item index, with a JSON description beside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from recbole_unisrec.data.mapped import MappedFeatures
from recbole_unisrec.errors import UserError

DTYPES = {"float32": np.float32, "float16": np.float16}


@dataclass(frozen=True)
class FeatureTable:
    """Text features by internal item id.

    Attributes
    ----------
    weight
        float32 [n_items, d_plm]; row 0, the padding item, is zero. Either in memory, or mapped from the file.
    encoder
        Who made them (encoder, pooling, ...), as recorded beside the file; empty if nothing was recorded.
    widths
        Of the files that stand side by side in a row; empty for one file.
    """

    weight: Tensor | MappedFeatures
    encoder: str
    widths: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """d_plm."""
        return self.weight.shape[1]


Features = TypeVar("Features", Tensor, MappedFeatures)
SCALINGS = ("none", "standardize", "whiten")
ROWS_PER_BLOCK = 16_384  # read from the file at a time
FLOOR = 1e-3  # share of the mean variance added to every direction, so that those without text stay small
# With fewer items for each direction `whiten` shrinks the covariance. Whitened by their own covariance, n items in more than
# n directions are all equally far from one another
FEW_ITEMS = 5


def scale_features(weight: Features, how: str, reference: Tensor | None = None, widths: Sequence[int] = ()) -> Features:
    """Spread text features out before the adaptor sees them; those of a language model lie in a narrow cone.

    Parameters
    ----------
    weight
        float32 [n_items, d_plm], row 0 is padding and stays zero.
    how
        ``none``; ``standardize``: each coordinate to mean 0 and variance 1; ``whiten``: to covariance one (ZCA). Of n items
        the covariance is shrunk towards a multiple of one, by 1 − n / (`FEW_ITEMS`·d_plm) while that is above 0.
    reference
        float32 [n, d_plm] features whose statistics count: those that training may know of. None takes all of `weight`
        but the padding.
    widths
        See `scaling`.

    Raises
    ------
    UserError
        If `how` is unknown, or the reference does not vary.
    """
    if how == "none":
        return weight
    mean, matrix = scaling(weight[1:] if reference is None else reference, how, widths)
    if isinstance(weight, MappedFeatures):
        return weight.scaled(mean, matrix)
    rows = scaled_rows(weight[1:], mean, matrix)
    return torch.cat([torch.zeros_like(weight[:1]), rows])


def scaled_rows(rows: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """(x − mean)·matrix of float32 rows [n, d_plm], with what `scaling` gives."""
    return ((rows.double() - mean) @ matrix).to(rows.dtype)


def scaling(rows: Tensor, how: str, widths: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """The mean [d_plm] and matrix [d_plm, d_plm], float64, with which `scale_features` makes (x − mean)·matrix of x.

    Parameters
    ----------
    rows
        float32 [n, d_plm] features whose statistics count.
    how
        ``standardize`` or ``whiten``, see `scale_features`.
    widths
        Of the feature files that stand side by side in a row: each is scaled by its own statistics. Empty: all is one.

    Raises
    ------
    UserError
        If `how` is unknown, or all rows are the same.
    """
    if how not in SCALINGS[1:]:
        raise UserError(f"unknown feature_scaling {how!r}; choose one of {', '.join(SCALINGS)}")
    if len(widths) > 1:
        parts = [scaling(part, how) for part in rows.split(list(widths), dim=1)]
        return torch.cat([mean for mean, _ in parts]), torch.block_diag(*(matrix for _, matrix in parts))
    rows = rows.double()
    mean = rows.mean(dim=0)
    rows = rows - mean
    if not rows.any():
        raise UserError(
            f"feature_scaling={how} divides by how much text features vary, but those of the {len(rows)} items that "
            "count are all the same; use feature_scaling=none or make the features again"
        )
    if how == "standardize":
        variance = rows.var(dim=0, correction=0)
        return mean, torch.diag(1 / (variance + FLOOR * variance.mean()).sqrt())
    values, vectors = torch.linalg.eigh(_covariance(rows))
    return mean, (vectors / (values.clamp(min=0) + FLOOR * values.mean()).sqrt()) @ vectors.T


def _covariance(rows: Tensor) -> Tensor:
    """Covariance [d, d] of float64 rows [n, d] of mean 0, shrunk where they are few."""
    covariance = rows.T @ rows / len(rows)
    share = max(0.0, 1 - len(rows) / (FEW_ITEMS * rows.shape[1]))
    if share:
        covariance = torch.lerp(covariance, torch.eye(len(covariance)).double() * covariance.diagonal().mean(), share)
    return covariance


class UselessRows:
    """Looks at the rows of a feature file, block by block, for what no text encoder makes.

    A row of zeros alone is fine (LSA gives one to a text without a known word), and so is a column that never varies.
    """

    def __init__(self) -> None:
        self._first: np.ndarray | None = None
        self._same = self._flat = True
        self._n = self._n_zero = 0

    def add(self, rows: np.ndarray) -> None:
        """Look at float rows [n, d_plm] without NaN."""
        if not len(rows):
            return
        self._first = np.array(rows[0]) if self._first is None else self._first
        self._same = self._same and bool((rows == self._first).all())
        self._flat = self._flat and bool((rows == rows[:, :1]).all())
        self._n_zero += int((~rows.any(axis=1)).sum())
        self._n += len(rows)

    def what(self) -> str | None:
        """What is wrong with all of them, to go on after the file's name; None if nothing is."""
        if self._n_zero == self._n:
            return "holds nothing but zeros" if self._n else None
        if 2 * self._n_zero > self._n:
            return f"is torn or was made of empty texts: {self._n_zero} of {self._n} rows are zero"
        if self._n > 1 and self._same:
            return f"gives all {self._n} items the same vector"
        if self._first is not None and len(self._first) > 1 and self._flat:
            return "repeats one number along each row"
        return None


def describe_encoder(meta: dict[str, object]) -> str:
    """One line that is equal exactly where features are comparable."""
    if "encoder" not in meta:
        return ""
    prompt = f", prompt {meta['prompt']!r}" if meta.get("prompt") else ""
    return f"{meta['encoder']} {meta.get('pooling', 'CLS')}, max_length {meta.get('max_length', 512)}{prompt}"


def read_meta(path: Path) -> dict[str, object]:
    """The JSON description beside a feature file, or {} where there is none (the authors' files)."""
    beside = path.with_name(path.name + ".json")
    if not beside.is_file():
        return {}
    try:
        meta = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{beside} is not valid JSON ({error}); make the features again") from error
    if not isinstance(meta, dict):
        raise UserError(f"{beside} does not hold a JSON object; make the features again")
    return meta


def encode_hint(folder: Path) -> str:
    """The command that makes a feature file."""
    return f"make it with `python -m dataset_tools.features {folder} --encoder minilm` or add --encode to the command"


def others_hint(path: Path) -> str:
    """Names the feature files that lie where `path` is missing, and the setting that takes them; ends before "or"."""
    stem = path.name.rpartition(".")[0]
    there = [p for p in sorted(path.parent.glob(f"{stem}.*")) if p.with_name(p.name + ".json").is_file()]
    there += [
        p for p in sorted(path.parent.glob(f"{stem}.feat*")) if "." not in p.name[len(stem) + 1 :] and p not in there
    ]
    if not there:
        return ""
    made = [(p.name[len(stem) + 1 :], read_meta(p).get("encoder", "unknown encoder")) for p in there]
    files = ", ".join(f"{stem}.{suffix} ({encoder})" for suffix, encoder in made)
    return f"there is {files}: take it by --plm_suffix={made[0][0]} (plm_suffix in a property file), or "


def open_features(path: Path, n_rows: int, width: int | None = None) -> tuple[np.ndarray, str]:
    """Memory-map a feature file.

    Parameters
    ----------
    path
        ``NAME.feat1CLS`` or alike: rows by item index, no header.
    n_rows
        Number of items that the dataset has; the file must have just as many rows.
    width
        Expected d_plm; None takes what the description beside the file says.

    Returns
    -------
    tuple
        float32 or float16 array [n_rows, d_plm], read-only, and the encoder's description.

    Raises
    ------
    UserError
        If the file is missing, its width is neither given nor described, or its size does not fit `n_rows` and the
        width.
    """
    if not path.is_file():
        raise UserError(f"no text features: {path} does not exist; {others_hint(path)}{encode_hint(path.parent)}")
    meta = read_meta(path)
    dtype = DTYPES.get(str(meta.get("dtype", "float32")))
    if dtype is None:
        raise UserError(f"{path}.json names the unknown dtype {meta.get('dtype')!r}; use float32 or float16")
    n_values, rest = divmod(path.stat().st_size, np.dtype(dtype).itemsize)
    found = meta.get("width", width)
    if found is None:  # a file that was cut to whole rows would be taken for one of narrower rows
        guess, over = divmod(n_values, max(1, n_rows))
        would = f"add --plm_size={guess} if {n_rows} rows of width {guess} are right" if guess and not over else (
            f"its {n_values} values are no whole number of them for each of the {n_rows} items"
        )  # fmt: skip
        raise UserError(
            f"how wide the rows of {path} are is not known, as {path.name}.json is not beside it; {would}, or "
            f"{encode_hint(path.parent)}"
        )
    if not isinstance(found, int) or found < 1:
        raise UserError(f"{path}.json gives the width {found!r}, which is no whole number; make the features again")
    if width is not None and found != width:
        raise UserError(f"{path} has vectors of width {found}, but plm_size is {width}; drop plm_size or encode again")
    if rest or n_values != n_rows * found:
        raise UserError(
            f"{path} holds {n_values} values, that is {n_values / found:g} rows of width {found}, but the dataset has {n_rows} "
            f"items; {encode_hint(path.parent)}"
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=(n_rows, found)), describe_encoder(meta)


def load_features(
    path: Path, tokens: Sequence[str], row_of: dict[str, int] | None, n_rows: int, width: int | None = None,
    on_disk: bool = False,
) -> FeatureTable:  # fmt: skip
    """Load the features of a dataset's items in the order of their internal ids.

    Parameters
    ----------
    path, n_rows, width
        As in `open_features`.
    tokens
        Item tokens by internal id; the first is padding.
    row_of
        Row of each token; None if a token is its own row number (the authors' layout).
    on_disk
        Whether the rows stay in the file; they are looked through either way.

    Raises
    ------
    UserError
        If an item has no row, all rows are zero or the same, or as in `open_features`.
    """
    source, encoder = open_features(path, n_rows, width)
    rows = np.empty(len(tokens) - 1, dtype=np.int64)
    for i, token in enumerate(tokens[1:]):
        row = row_of.get(token, -1) if row_of is not None else int(token) if token.isdecimal() else -1
        if not 0 <= row < n_rows:
            where = "NAME.item2index" if row_of is not None else f"0 to {n_rows - 1}"
            raise UserError(f"item {token!r} has no row in {path} (looked in {where}); {encode_hint(path.parent)}")
        rows[i] = row
    useless = UselessRows()
    weight = torch.zeros(1 if on_disk else len(tokens), source.shape[1])
    for start in range(0, len(rows), ROWS_PER_BLOCK):  # in one go there would be three copies
        block = source[rows[start : start + ROWS_PER_BLOCK]]
        useless.add(block)
        spoilt = ~np.isfinite(block).all(axis=1)
        if spoilt.any():
            bad = tokens[1 + start + int(spoilt.argmax())]
            raise UserError(f"{path} holds NaN or infinity, first for item {bad!r}; {encode_hint(path.parent)}")
        if not on_disk:
            weight[1 + start : 1 + start + len(block)] = torch.from_numpy(block)
    if what := useless.what():
        raise UserError(f"{path} {what}; {encode_hint(path.parent)}")
    if on_disk:
        return FeatureTable(MappedFeatures(source, np.concatenate([[0], rows])), encoder)
    return FeatureTable(weight, encoder)
