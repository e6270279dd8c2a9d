"""Weights of a pre-trained model: read from any layout in which they come, and written in the one of UniSRec's authors."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import Tensor

from recbole_unisrec.checkpoint import (
    BEST,
    CONFIG,
    MODEL,
    PROGRESS,
    latest_checkpoint,
    read_checkpoint,
    read_json,
    read_tensors,
)
from recbole_unisrec.errors import UserError
from recbole_unisrec.safe_load import safe_torch_load
from recbole_unisrec.whole_save import whole_torch_save


def load_pretrained(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a pre-trained model, from any of the layouts; no code of the file is run.

    Parameters
    ----------
    path
        A ``.safetensors`` file with or without its ``config.json``, a checkpoint folder, the folder of a run (its
        ``best`` checkpoint, else the newest sound one), or a ``.pth`` file of RecBole or of the authors.

    Returns
    -------
    tuple
        Tensors by the authors' names, on the CPU, and a description: ``encoder`` names the text encoder ("" if it is
        not known), ``config`` the settings, if known, ``passed`` has a sentence for each torn checkpoint of a run that
        was passed over.

    Raises
    ------
    UserError
        If nothing is there, or it is torn, holds no weights, or needs more than weights to be loaded.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}; give a checkpoint folder, a .safetensors file or a .pth file")
    if path.suffix == ".safetensors":
        beside = path.with_name(CONFIG) if path.name == MODEL else path.with_suffix(".json")
        return _named(read_tensors(path), path), _described(read_json(beside) if beside.is_file() else {})
    found = safe_torch_load(str(path), map_location="cpu")
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not a checkpoint with a state_dict")
    state = found.get("state_dict", found)
    config = found.get("config")
    settings = getattr(config, "final_config_dict", config)
    meta = {"config": settings if isinstance(settings, dict) else {}, "encoder": found.get("encoder")}
    return _named(state, path), _described(meta)


def _load_folder(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if (path / MODEL).is_file() and not (path / PROGRESS).is_file():
        return _named(read_tensors(path / MODEL), path), _described(read_json(path / CONFIG))
    if (path / PROGRESS).is_file():
        weights, meta, _ = read_checkpoint(path)
        return weights, _described(meta)
    torn = []
    if (path / BEST).is_dir():
        try:
            return _load_folder(path / BEST)
        except UserError as error:
            torn.append(str(error))
    found = latest_checkpoint(path)
    if found is None:
        raise UserError(torn[0] if torn else f"{path} holds no checkpoint (neither {MODEL} nor step-* folders)")
    return found[1], _described({**found[2], "passed": [*torn, *found[4]]})


def _named(state: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"{path} holds no weights by name; is it a checkpoint of UniSRec?")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def _described(meta: dict[str, Any]) -> dict[str, Any]:
    return {**meta, "encoder": str(meta.get("encoder") or "")}


def export_authors(path: str | Path, target: str | Path) -> dict[str, Any]:
    """Write a checkpoint in the authors' layout: a ``.pth`` that their ``finetune.py -p`` reads.

    It holds ``state_dict`` under their names, ``config`` as a plain dictionary and ``epoch``; ``torch.load`` reads it
    with ``weights_only=True``.

    Parameters
    ----------
    path
        Anything that `load_pretrained` reads.
    target
        The new file.

    Returns
    -------
    dict
        What was written.
    """
    state, meta = load_pretrained(path)
    config = json.loads(json.dumps(meta.get("config") or {}, default=str))
    config.setdefault("dataset", str(meta.get("dataset") or ""))  # finetune.py prints it
    content = {
        "config": config,
        "epoch": int(meta.get("epoch") or 0),
        "encoder": meta["encoder"],
        "state_dict": OrderedDict((name, tensor.cpu()) for name, tensor in state.items()),
        "optimizer": {},
    }
    whole_torch_save(content, target)
    return content
