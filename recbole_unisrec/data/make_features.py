"""Makes the feature files that a dataset lacks, by the same settings that read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_unisrec.data.feature_files import feature_paths
from recbole_unisrec.errors import UserError


def make_features(
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    encoder: str | None,
    pooling: str | None,
    progress: bool = True,
    otherwise: str | None = None,
) -> None:
    """Encode the item texts, or take in the vectors that the settings of RecBole name.

    Parameters
    ----------
    folder, name
        The dataset's folder and the prefix of its files.
    settings
        RecBole's, and ``plm_suffix`` and ``text_cols``. With ``additional_feat_suffix`` and ``preload_weight`` the items'
        vectors are those, where there is no feature file and no `encoder`.
    encoder
        None makes nothing from texts.
    pooling, progress
        Of `dataset_tools.features.encode_dataset`.
    otherwise
        The encoder where none is named and the file is missing; None makes nothing then.

    Raises
    ------
    UserError
        If the encoder cannot be loaded, the dataset has no texts, or several feature files are asked for and not there.
    """
    paths = feature_paths(folder, name, settings["plm_suffix"])
    lacking = [path for path in paths if not path.is_file()]
    if not folder.is_dir() or (not lacking and encoder is None):
        return
    from dataset_tools import features
    from dataset_tools.features.vectors import recbole_file

    if len(paths) > 1:
        if lacking and encoder is not None:
            raise UserError(
                f"--encode makes one feature file, but plm_suffix names {len(paths)}; make each with `python -m "
                f"dataset_tools.features {folder} --suffix {lacking[0].name.rpartition('.')[2]}` and its encoder or --vectors"
            )
        return
    encoder = encoder or otherwise
    fields = features.Fields.of(settings)
    suffix = paths[0].name[len(name) + 1 :]
    vectors = recbole_file(folder, name, settings)
    if encoder is not None:
        features.encode_dataset(
            folder, name, encoder=encoder, pooling=pooling, suffix=suffix, progress=progress, fields=fields
        )
    elif vectors is not None:
        columns = features.Columns.of(settings)
        features.import_vectors(folder, name, vectors, suffix=suffix, fields=fields, columns=columns)
        print(f"{paths[0]}: the item vectors are those of {vectors.name} (preload_weight)", flush=True)
