"""Trained models of the ring, in both forms, made once."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_unisrec import quick_start
from recbole_unisrec.serving import Recommender, load
from recbole_unisrec.serving.checksums import digests, sealed
from recbole_unisrec.serving.folder import CONFIG
from recbole_unisrec.settings import build_config
from tests.conftest import SMALL, write_ring


def rewrite_config(folder: Path, **changes: Any) -> None:
    """Change the configuration of a saved model, with checksums as if it had been saved so."""
    config = {**json.loads((folder / CONFIG).read_text()), **changes}
    files = [folder / name for name in config["sha256"]]
    config["sha256"] = digests(files)
    if isinstance(config["files"], dict):
        config["files"] = {file.name: file.stat().st_size for file in files}
    (folder / CONFIG).write_text(json.dumps(sealed(config)))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by form; the working directory of training lies above them."""
    folder = tmp_path_factory.mktemp("trained")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small that threads only wait for each other
    found = {}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        write_ring(folder / "dataset")
        for form, recipe in (
            ("inductive", "paper"), ("transductive", "paper"), ("ours", "ours"), ("path", "ours"),
        ):  # fmt: skip
            stage = "inductive_ft" if form in ("inductive", "path") else "transductive_ft"
            settings = {**SMALL, "train_stage": stage, "epochs": 10, "recipe": recipe}
            result = quick_start.train(build_config("UniSRec", "ring", [], settings))
            found[form] = folder / result.checkpoint
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="session")
def folders(checkpoints: dict[str, Path]) -> dict[str, Path]:
    """Serving folders by form; to be left as they are."""
    return {form: load(path).save(path.parent / form) for form, path in checkpoints.items()}


@pytest.fixture(params=["inductive", "transductive", "ours", "path"])
def rec(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Recommender:
    """A recommender in each form, of the paper's model and of our recipe, which has the text's own path."""
    return load(folders[request.param])


@pytest.fixture
def inductive(folders: dict[str, Path]) -> Recommender:
    """A recommender in the inductive form."""
    return load(folders["inductive"])


@pytest.fixture
def saved(inductive: Recommender, tmp_path: Path) -> Path:
    """A serving folder."""
    return inductive.save(tmp_path / "model")
