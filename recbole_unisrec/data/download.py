"""Datasets that RecBole publishes: fetched by name where the folder is not there, as RecBole does it."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import yaml
from recbole.data.dataset import Dataset

from dataset_tools.common import whole_folder
from recbole_unisrec.data.atomic import prepare_hint
from recbole_unisrec.errors import UserError


def published_url(name: str) -> str | None:
    """Where RecBole publishes a dataset; None for a name that it does not know."""
    lookup = SimpleNamespace(dataset_name=name, dataset_path="", config=SimpleNamespace(yaml_loader=yaml.SafeLoader))
    return Dataset._get_download_url(lookup, "url", allow_none=True)


def fetch_dataset(folder: Path, name: str) -> None:
    """Make sure that a dataset's folder is there: RecBole's own download if it knows the name.

    Parameters
    ----------
    folder
        The dataset's folder; written whole or not at all.
    name
        The dataset.

    Raises
    ------
    UserError
        If there is no such folder and none can be had.
    """
    if folder.is_dir():
        return
    address = None if name == "ml-100k" else published_url(name)  # ml-100k comes with the project
    if address is None:
        raise UserError(f"dataset {name!r} is not there: no folder {folder}; {prepare_hint(name, folder)}")
    print(f"{name} is not in {folder.parent}; downloading it from {address}", flush=True)
    with whole_folder(folder, lambda: None) as temporary:
        _download(address, temporary, name, folder)


def _download(address: str, temporary: Path, name: str, folder: Path) -> None:
    url = importlib.import_module("recbole.utils.url")
    try:
        if not url.decide_download(address):  # asks where it is more than a gigabyte
            raise UserError(f"dataset {name!r} was not downloaded; put it into {folder} by hand")
        path = Path(url.download_url(address, str(temporary)))
        url.extract_zip(str(path), str(temporary))
        path.unlink()
        url.rename_atomic_files(str(temporary), path.stem, name)
    except (OSError, RuntimeError, TypeError, zipfile.BadZipFile) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"dataset {name!r} is not in {folder}, and {address} could not be downloaded ({reason}); connect to the "
            f"network, or download it elsewhere and unpack it into {folder}"
        ) from error
