"""What a saved model is: a folder with everything that recommending needs, in files of data only, written whole or not at all.

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
checksums; they are read as well (`reading`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dataset_tools.common import whole_folder
from dataset_tools.lsa import LatentSemantics
from recbole_unisrec.errors import UserError
from recbole_unisrec.serving.checksums import digest, digests, sealed
from recbole_unisrec.serving.index import ApproximateIndex, import_faiss
from recbole_unisrec.serving.network import Network, NetworkSettings
from recbole_unisrec.serving.snapshot import Snapshot

FORMAT = "recbole_unisrec serving folder"
VERSION = 2
CONFIG = "config.json"
ENCODER = "encoder.npz"
BLOCK = 1 << 16  # rows copied at a time


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
