"""What an encoder's own files, in the layout of sentence-transformers, say about how to use it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_tools.common import UserError

MODULES, PROMPTS, POOLING = "modules.json", "config_sentence_transformers.json", "1_Pooling"
FOR_ITEMS = ("document", "passage", "corpus")  # names of prompts for what is searched, not for what is asked


@dataclass(frozen=True)
class OwnSettings:
    """How an encoder wants to be used; None where it does not say."""

    pooling: str | None = None
    prompt: str | None = None


def read_own(encoder: str) -> OwnSettings:
    """Read pooling and prompt of a folder or of a name on the hub.

    Raises
    ------
    UserError
        If a file there is no JSON, or asks for a pooling that is not known here.
    """
    modules = _read(encoder, MODULES)
    folder = POOLING
    for module in modules if isinstance(modules, list) else []:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            folder = str(module.get("path") or POOLING)
        elif kind not in ("Transformer", "Normalize"):
            print(f"{encoder}: its layer {kind} is left out; the vectors are those before it", file=sys.stderr)
    pooling = _read(encoder, f"{folder}/config.json")
    return OwnSettings(
        _pooling(encoder, pooling) if isinstance(pooling, dict) else None, _prompt(_read(encoder, PROMPTS))
    )


def _pooling(encoder: str, config: dict[str, Any]) -> str:
    modes = [name.removeprefix("pooling_mode_") for name, value in config.items() if value is True and "_mode_" in name]
    modes = [str(config["pooling_mode"])] if isinstance(config.get("pooling_mode"), str) else modes
    known = {"cls_token": "CLS", "cls": "CLS", "mean_tokens": "MeanAll", "mean": "MeanAll"}
    if len(modes) != 1 or modes[0] not in known:
        raise UserError(
            f"the encoder {encoder} asks for the pooling {' and '.join(modes) or 'of no kind'}, which is not known here; "
            "choose one by --pooling"
        )
    return known[modes[0]]


def _prompt(config: object) -> str | None:
    if not isinstance(config, dict) or not isinstance(config.get("prompts"), dict):
        return None
    prompts = {str(name): str(text) for name, text in config["prompts"].items() if text}
    wanted = [*FOR_ITEMS, str(config.get("default_prompt_name"))]
    return next((prompts[name] for name in wanted if name in prompts), None)


def _read(encoder: str, file: str) -> Any:
    """A JSON file of the encoder, or None where it has none."""
    path = Path(encoder) / file
    if not Path(encoder).is_dir():
        found = _from_hub(encoder, file)
        if found is None:
            return None
        path = Path(found)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); give --pooling and --prompt, or mend it") from error


def _from_hub(encoder: str, file: str) -> str | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return str(hf_hub_download(encoder, file))
    except (OSError, ValueError, HFValidationError):  # it has no such file, or cannot be reached: loading it says so
        return None
