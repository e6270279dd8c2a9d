"""The settings of each run, and the digest that names it: the same for the same data, texts, weights and settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from recbole_unisrec import record
from recbole_unisrec.data.feature_files import feature_paths
from recbole_unisrec.leaderboard.rows import Row
from recbole_unisrec.pretrained import load_pretrained
from recbole_unisrec.setting_checks import defaults_of
from recbole_unisrec.setting_table import DataSettings
from recbole_unisrec.settings import build_config, known_settings

# settings that say where and how a run is made rather than what comes out; all others are part of a run's key
ELSEWHERE = {
    "seed", "data_path", "checkpoint_dir", "show_progress", "use_gpu", "gpu_id", "device", "worker", "state", "pretrained",
    "log_wandb", "wandb_project", "single_spec", "local_rank", "world_size", "nproc", "offset", "ip", "port", "recipe",
    "dataset_save_path", "dataloaders_save_path", "save_dataset", "save_dataloaders", "eval_batch_size", "log_dir",
}  # fmt: skip


class Keys:
    """Makes the settings of runs, and their digests.

    Parameters
    ----------
    dataset
        Name of the dataset.
    topk, overrides
        Cut-offs, and settings for all rows.
    checkpoints
        Path and digest of the pre-trained models, by name.
    data
        Digest of the splits.
    """

    def __init__(
        self,
        dataset: str,
        topk: list[int],
        overrides: dict[str, Any],
        checkpoints: dict[str, tuple[str, str]],
        data: str,
    ) -> None:
        self.dataset, self.topk, self.overrides = dataset, topk, overrides
        self.checkpoints, self.data = checkpoints, data
        self._what: dict[str, tuple[dict[str, Any], list[Any]]] = {}  # what a run depends on but seed and point, by row
        self._known: dict[str, set[str]] = {}  # names of settings by model
        self._files: dict[Path, str] = {}  # digests of feature files

    def known(self, model: str) -> set[str]:
        """Names of the settings that a model has."""
        if model not in self._known:
            self._known[model] = known_settings(model, self.dataset)
        return self._known[model]

    def config(self, row: Row, point: dict[str, Any], seed: int) -> Any:
        """The settings of one run, as RecBole has them."""
        shared = {k: v for k, v in self.overrides.items() if k in self.known(row.model)}
        settings = {**shared, **row.settings, **point, "seed": seed}
        if row.pretrained:
            settings["pretrained"] = self.checkpoints[row.pretrained][0]
        return build_config(row.model, self.dataset, [], settings)

    def key(self, row: Row, point: dict[str, Any], seed: int) -> str:
        """Digest of what a result depends on: data, text features, pre-trained weights and every setting that is set."""
        if row.name not in self._what:
            settings, parts = {}, [row.package or row.model, self.topk, self.data]
            if row.model:
                config = self.config(row, {}, seed)
                found = record.plain(config.final_config_dict)
                usual = defaults_of(row.model)  # so that a new setting leaves the runs of before as they are
                settings = {
                    k: v
                    for k, v in found.items()
                    if k not in ELSEWHERE and v is not None and (k not in usual or v != usual[k])
                }
                if settings.get("plm_suffix"):
                    folder = Path(DataSettings.from_config(config).data_path)
                    files = [
                        *feature_paths(folder, self.dataset, settings["plm_suffix"]),
                        folder / f"{self.dataset}.item2index",
                    ]
                    parts.append([self._file_digest(file) for file in files])
            if row.pretrained:
                parts.append(self.checkpoints[row.pretrained][1])
            self._what[row.name] = (settings, parts)
        settings, parts = self._what[row.name]
        text = json.dumps([*parts, {**settings, **point}, seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _file_digest(self, file: Path) -> str:
        if file not in self._files:
            if not file.is_file():
                return "missing"
            with open(file, "rb") as content:
                self._files[file] = hashlib.file_digest(content, "sha256").hexdigest()
        return self._files[file]


def weights_digest(path: str) -> str:
    """Digest of the weights of a pre-trained model, which tells two checkpoints of one name apart."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_pretrained(path)[0].items()):
        digest.update(name.encode() + tensor.float().numpy().tobytes())
    return digest.hexdigest()
