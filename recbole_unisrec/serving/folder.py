"""The serving folder: everything that recommending needs, in files that hold data only.

| file | content |
|---|---|
| ``config.json`` | sizes of the network, form of the model, how texts were encoded, size and SHA-256 of each file |
| ``model.safetensors`` | weights of adaptor and encoder |
| ``items.parquet`` | ``item_id``, ``title``, ``text``, ``popularity``; row i is row i of the tables |
| ``table.npy`` | float32 [n, d] item vectors (in the transductive form with their ID embeddings), divided by their norms, and the columns of a text path |
| ``norms.npy`` | float32 [n, 1] what the item vectors were divided by (1 where similarity is not the cosine) |
| ``features.npy`` | float32 or float16 [n, d_plm] text features (models that read text) |
| ``queries.npy`` | float32 [q, d] outputs of the encoder for real histories, to measure an index with |
| ``index.faiss`` | the approximate index (large catalogues) |
| ``encoder.npz`` | the text encoder, where it was fitted to the texts (`dataset_tools.lsa`) |

Folders of format 1 have no ``norms.npy``, their vectors were not divided, and no
checksums; they are read as well.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dataset_tools.common import whole_folder
from dataset_tools.lsa import LatentSemantics
from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.catalogue import SCHEMA, Snapshot
from recbole_unisrec.serving.checksums import digest, digests, is_whole, sealed
from recbole_unisrec.serving.index import ApproximateIndex, filled_width, import_faiss
from recbole_unisrec.serving.network import Network, NetworkSettings

FORMAT = "recbole_unisrec serving folder"
VERSION = 2
CONFIG = "config.json"
ENCODER = "encoder.npz"
BLOCK = 1 << 16  # rows copied at a time
TRIES = 20  # readings of a folder that is replaced again and again meanwhile
log = logging.getLogger("recbole_unisrec.serving")


@dataclass(frozen=True)
class Meta:
    """What is known of a model beside its numbers.

    Attributes
    ----------
    model, form, dataset
        Name of the model; inductive, transductive or ids; name of the dataset it was trained on.
    encoder
        How item texts became features: ``encoder``, ``pooling``, ``max_length``, ``prompt``; empty if unknown.
    versions
        Of the libraries at the time of saving.
    """

    model: str
    form: str
    dataset: str
    encoder: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """What lies in a serving folder."""

    meta: Meta
    settings: NetworkSettings
    network: Network
    items: pl.DataFrame
    table: np.ndarray
    features: np.ndarray | None
    queries: Tensor
    index: ApproximateIndex | None
    encoder: LatentSemantics | None = None
    norms: np.ndarray | None = None  # what `table` was divided by; None where it was not
    revision: int = 0  # rises with each saving of the folder
    stamp: str = ""  # `stamp_of` the folder


def is_serving_folder(path: Path) -> bool:
    """Whether a folder was written by `write_folder`."""
    try:
        return json.loads((path / CONFIG).read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def check_target(path: Path) -> None:
    """Refuse a target that holds something else than a serving folder.

    Raises
    ------
    UserError
        If so.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; give the name of a folder")
    if path.is_dir() and any(path.iterdir()) and not is_serving_folder(path):
        raise UserError(f"{path} holds something else than a saved model and is left alone; give another folder")


def _save_rows(path: Path, blocks: Iterator[np.ndarray], shape: tuple[int, int], dtype: Any) -> None:
    """Write an .npy file block by block."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape) if shape[0] else None
    if out is None:
        np.save(path, np.zeros(shape, dtype=dtype), allow_pickle=False)
        return
    start = 0
    for block in blocks:
        out[start : start + len(block)] = block
        start += len(block)
    out.flush()


@contextmanager
def _saving() -> Iterator[None]:
    """safetensors and faiss have errors of their own for a full disk."""
    try:
        yield
    except (UserError, OSError, pl.exceptions.PolarsError):
        raise
    except Exception as error:  # SafetensorError, RuntimeError of faiss
        raise OSError(0, " ".join(str(error).split())) from error


def write_folder(
    path: Path,
    meta: Meta,
    settings: NetworkSettings,
    network: Network,
    snapshot: Snapshot,
    index: ApproximateIndex | None,
    queries: Tensor,
    encoder: LatentSemantics | None = None,
    revision: int = 0,
) -> None:
    """Write a serving folder, whole or not at all; removed items are left out, also of the rows that `index` counts.

    Raises
    ------
    UserError
        If the folder cannot be written, or `path` holds something else.
    """
    from safetensors.torch import save_file

    rows = torch.from_numpy(np.flatnonzero(snapshot.alive))
    blocks = list(rows.split(BLOCK))
    with whole_folder(path, lambda: check_target(path)) as folder, _saving():
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
        frame = snapshot.items if not len(snapshot.dead) else snapshot.items.filter(pl.Series(snapshot.alive))
        frame.write_parquet(folder / "items.parquet")
        # the library makes the weights readable for their owner alone, but a service may run as another user
        (folder / "model.safetensors").chmod((folder / "items.parquet").stat().st_mode & 0o777)
        width = snapshot.candidates.shape[1]
        _save_rows(
            folder / "table.npy", (snapshot.candidates[b].numpy() for b in blocks), (len(rows), width), np.float32
        )
        np.save(folder / "norms.npy", snapshot.norms[rows].unsqueeze(1).numpy(), allow_pickle=False)
        if snapshot.features:
            first = snapshot.features[0]
            kept = (_feature_block(snapshot, block) for block in blocks)
            _save_rows(folder / "features.npy", kept, (len(rows), first.shape[1]), first.dtype)
        np.save(folder / "queries.npy", queries.numpy(), allow_pickle=False)
        if encoder is not None:
            encoder.save(folder / ENCODER)
        found: dict[str, Any] = {}
        if index is not None:
            import_faiss().write_index(index.faiss_index, str(folder / "index.faiss"))
            found = {n: getattr(index, n) for n in ("n", "n_probe", "recall", "n_queries")}
        written = sorted(folder.iterdir())
        config = {
            "format": FORMAT,
            "version": VERSION,
            "revision": revision,
            **asdict(meta),
            "network": asdict(settings),
            "n_items": len(rows),
            "index": found or None,
            "files": {file.name: file.stat().st_size for file in written},
            "sha256": digests(written),
        }
        (folder / CONFIG).write_text(json.dumps(sealed(config), indent=1) + "\n", encoding="utf-8")


def _feature_block(snapshot: Snapshot, rows: Tensor) -> np.ndarray:
    """Features of ascending rows, a block at a time."""
    first = len(snapshot.features[0])
    wanted = rows.numpy()
    parts = [np.asarray(snapshot.features[0][wanted[wanted < first]])]
    if len(snapshot.features) > 1:
        parts.append(snapshot.features[1][wanted[wanted >= first] - first].astype(parts[0].dtype))
    return np.concatenate(parts)


def stamp_of(path: Path) -> str:
    """What names the state of a serving folder: no two states have the same; "" where there is none."""
    try:
        return digest(path / CONFIG)
    except OSError:
        return ""


def revision_of(path: Path) -> int:
    """How often a serving folder was saved; 0 where there is none."""
    try:
        return int(json.loads((path / CONFIG).read_text(encoding="utf-8")).get("revision", 0))
    except (OSError, ValueError, AttributeError, TypeError):
        return 0


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
