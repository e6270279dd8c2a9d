"""Models that read attributes of items get the columns of text, where the user names none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from recbole.data import create_dataset

from recbole_unisrec.errors import UserError
from recbole_unisrec.settings import build_config


@pytest.fixture
def cases(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Datasets of RecBole's users; the working directory lies above them."""
    shutil.copytree(shared / "cases" / "recbole", tmp_path / "dataset")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dataset"


@pytest.mark.parametrize(
    ("dataset", "settings", "columns", "one"),
    [
        ("amazon_like", {}, ["categories", "title", "brand"], "categories"),
        ("amazon_like", {"text_cols": ["brand"]}, ["brand"], "brand"),
        ("named", {"config": "named.yaml"}, ["name", "maker"], "name"),
    ],
)
def test_columns_of_text(
    cases: Path,
    dataset: str,
    settings: dict[str, object],
    columns: list[str],
    one: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [str(cases / str(settings.pop("config")))] if "config" in settings else []
    config = build_config("FDSA", dataset, files, dict(settings))
    assert config["selected_features"] == columns
    assert f"FDSA reads {', '.join(columns)} of {dataset}.item as attributes" in capsys.readouterr().out
    assert set(columns) < set(create_dataset(config).item_feat.columns)
    assert build_config("S3Rec", dataset, files, dict(settings))["item_attribute"] == one


@pytest.mark.usefixtures("cases")
def test_what_the_user_names_stays() -> None:
    config = build_config("FDSA", "amazon_like", [], {"selected_features": ["brand"]})
    assert config["selected_features"] == ["brand"]
    with pytest.raises(UserError, match="no column colour"):
        build_config("FDSA", "amazon_like", [], {"text_cols": ["colour"]})
    build_config("SASRec", "amazon_like", [], {"text_cols": ["colour"]})  # reads no attributes
