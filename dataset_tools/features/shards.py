"""The finished parts of a run, so that one that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from dataset_tools.common import UserError, atomic_path, write_text
from dataset_tools.features.encoder import TextEncoder, Tokens, progress_bar
from dataset_tools.features.ranks import Ranks

SETTINGS = "settings.json"  # what the shards beside it were made with


def open_parts(parts: Path, meta: dict[str, object], model: TextEncoder, tokens: Tokens, ranks: Ranks) -> None:
    """The hidden folder of finished shards; what another run with other settings left there is removed."""
    import torch

    plan = {"device": model.device.type, "batches": tokens.batches, "torch": torch.__version__}
    plan |= {"weights": model.weights_sha256}
    key = hashlib.sha256(json.dumps(plan).encode()).hexdigest()
    settings = json.dumps({"meta": meta, "plan": key}) + "\n"
    stamp = parts / SETTINGS
    if ranks.rank == 0:
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != settings:
            shutil.rmtree(parts, ignore_errors=True)
            write_text(stamp, settings)
        for left in parts.glob(".*.tmp"):  # of a run that was killed while it wrote
            left.unlink(missing_ok=True)
    ranks.meet()


def _shard_path(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npy"


def encode_shards(model: TextEncoder, tokens: Tokens, parts: Path, ranks: Ranks, progress: bool) -> None:
    """Encode the shards of this rank that are not there yet."""
    shards = list(enumerate(tokens.shards()))[ranks.rank :: ranks.size]
    sizes = [shard[-1][1] - shard[0][0] for _, shard in shards]
    there = [_shard_path(parts, number).is_file() for number, _ in shards]
    done = sum(size for size, found in zip(sizes, there, strict=True) if found)
    with progress_bar(sum(sizes), progress and ranks.rank == 0, done) as bar:
        for (number, shard), found in zip(shards, there, strict=True):
            if found:
                continue
            rows = []
            for start, stop in shard:
                rows.append(model._embed(tokens, tokens.order[start:stop]))
                bar.update(stop - start)
            vectors = np.concatenate(rows)
            if not np.isfinite(vectors).all():
                raise UserError(f"{model.name} gives NaN or infinity in {model.precision}; use another encoder or fp32")
            with atomic_path(_shard_path(parts, number)) as temporary, open(temporary, "wb") as file:
                np.save(file, vectors, allow_pickle=False)


def assemble(path: Path, tokens: Tokens, parts: Path, width: int, dtype: type) -> None:
    """Put the shards, which are in the order of length, in the order of the index."""
    with atomic_path(path) as temporary:
        out = np.memmap(temporary, dtype=dtype, mode="w+", shape=(len(tokens.order), width))
        for number, shard in enumerate(tokens.shards()):
            vectors = np.load(_shard_path(parts, number), mmap_mode="r", allow_pickle=False)
            if np.abs(vectors).max() > np.finfo(dtype).max:
                raise UserError(f"a vector has values beyond {np.dtype(dtype)}; use --dtype float32")
            out[tokens.order[shard[0][0] : shard[-1][1]]] = vectors
        out.flush()
        del out
