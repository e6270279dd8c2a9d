"""Reads a saved model, and trusts nothing in it: every file must be there, whole, unchanged, and fit the others."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from dataset_tools.lsa import LatentSemantics
from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.checksums import digests, is_whole
from recbole_unisrec.serving.folder import CONFIG, ENCODER, FORMAT, VERSION, Meta, Parts, stamp_of
from recbole_unisrec.serving.index import ApproximateIndex, filled_width, import_faiss
from recbole_unisrec.serving.network import Network, NetworkSettings
from recbole_unisrec.serving.snapshot import SCHEMA

TRIES = 20  # readings of a folder that is replaced again and again meanwhile
log = logging.getLogger("recbole_unisrec.serving")


def read_config(path: Path) -> dict[str, Any]:
    """Read and check ``config.json``, and the checksums of the files that it names.

    Raises
    ------
    UserError
        If it is no serving folder, is of a newer format, or a file is missing, cut or changed.
    """
    file = path / CONFIG
    if not file.is_file():
        raise UserError(
            f"{path} is no saved model (it has no {CONFIG}); give a folder that `unisrec save` made, or a checkpoint "
            "saved/....pth"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}; save the model again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{file} is not the configuration of a saved model; give a folder that `unisrec save` made")
    if config.get("version") not in (1, VERSION):
        raise UserError(f"{path} has format version {config.get('version')}, this program reads {VERSION}; update it")
    if not is_whole(config):
        raise UserError(f"{file} was changed since it was saved; copy it again or save the model again")
    files, sums = config.get("files"), config.get("sha256", {})
    if not isinstance(files, dict) or not isinstance(sums, dict) or not isinstance(config.get("n_items"), int):
        raise UserError(f"{file} is not complete; save the model again")
    for name, size in files.items():
        part = path / os.path.basename(name)
        if not part.is_file():
            raise UserError(f"{path} lacks {name}; copy the whole folder or save the model again")
        if part.stat().st_size != size:
            raise UserError(
                f"{part} has {part.stat().st_size} bytes instead of {size}; copy it or save the model again"
            )
    try:
        found = digests(path / os.path.basename(name) for name in sums)
    except OSError as error:
        raise UserError(f"cannot read the files of {path}: {error}; copy the whole folder again") from error
    for name, wanted in sums.items():
        if found[os.path.basename(name)] != wanted:
            raise UserError(
                f"{path / os.path.basename(name)} was changed since it was saved (its checksum is another); copy it "
                "again or save the model again"
            )
    return config


def _read_array(path: Path, rows: int | None, width: int | None, map_it: bool) -> np.ndarray:
    try:
        # pages of a private mapping are shared by all processes that read them; nobody writes into them
        array = np.load(path, mmap_mode="c" if map_it else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}; save the model again") from error
    fits = array.ndim == 2 and array.dtype in (np.float32, np.float16)
    if not fits or (rows is not None and len(array) != rows) or (width is not None and array.shape[1] != width):
        raise UserError(
            f"{path} holds {array.dtype} {list(array.shape)}, but {rows} rows of width {width} are due; "
            "save the model again"
        )
    return array


def read_folder(path: Path, index: str = "auto") -> Parts:
    """Read a serving folder. No code from it is run: JSON, safetensors, parquet, npy without objects.

    Parameters
    ----------
    path
        The folder.
    index
        ``exact`` leaves the approximate index out, ``auto`` also where faiss is not installed.

    Raises
    ------
    UserError
        If a file is missing, damaged, or does not fit the others.
    """
    for _ in range(TRIES):
        stamp = stamp_of(path)
        try:
            parts = _read_folder(path, index)
        except UserError:
            if stamp_of(path) == stamp:
                raise
            continue  # it was replaced in the middle, so that what was read is of two folders
        if stamp_of(path) == stamp:
            return replace(parts, stamp=stamp)
    raise UserError(f"{path} is replaced again and again while it is read; try again later")


def _read_folder(path: Path, index: str) -> Parts:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(path)
    try:
        settings = NetworkSettings(**config["network"])
        settings.check()
        meta = Meta(**{name: config[name] for name in Meta.__dataclass_fields__})
        network = Network(settings)
        network.load_state_dict(load_file(path / "model.safetensors"))
        items = pl.read_parquet(path / "items.parquet").select(*SCHEMA)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / CONFIG} is not complete ({error}); save the model again") from error
    except (RuntimeError, SafetensorError, OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"the files of {path} do not fit together ({reason}); save the model again") from error
    n, width = config["n_items"], settings.width
    if len(items) != n or dict(items.schema) != SCHEMA:
        raise UserError(f"{path / 'items.parquet'} does not hold the {n} items of {CONFIG}; save the model again")
    features = None
    if (path / "features.npy").is_file() and settings.n_exps:
        features = _read_array(path / "features.npy", n, settings.plm_size, map_it=n > 0)
    return Parts(
        meta=meta,
        settings=settings,
        network=network,
        items=items,
        table=_read_array(path / "table.npy", n, width, map_it=n > 0),
        features=features,
        queries=torch.from_numpy(_read_array(path / "queries.npy", None, width, map_it=False)),
        index=_read_index(path, config, width) if config.get("index") and index != "exact" else None,
        encoder=LatentSemantics.load(path / ENCODER) if (path / ENCODER).is_file() else None,
        norms=_read_array(path / "norms.npy", n, 1, map_it=False)[:, 0] if config["version"] > 1 else None,
        revision=int(config.get("revision", 0)),
    )


def _read_index(path: Path, config: dict[str, Any], width: int) -> ApproximateIndex | None:
    try:
        faiss = import_faiss()
    except UserError as error:
        log.warning("the approximate index is left out, every item is searched: %s", error)
        return None
    try:
        index = ApproximateIndex(faiss.read_index(str(path / "index.faiss")), **config["index"])
    except (RuntimeError, TypeError) as error:
        raise UserError(f"cannot read {path / 'index.faiss'}: {error}; save the model again") from error
    if index.faiss_index.ntotal != index.n or index.n > config["n_items"] or index.faiss_index.d != filled_width(width):
        raise UserError(f"{path / 'index.faiss'} does not fit the items; save the model again")
    return index
