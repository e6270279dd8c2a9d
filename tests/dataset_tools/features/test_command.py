import subprocess
import sys
from pathlib import Path

import pytest

from dataset_tools.common import run_cli
from dataset_tools.features.command import main
from tests.dataset_tools.features.conftest import make_dataset

pytestmark = pytest.mark.hardware

ROOT = Path(__file__).resolve().parents[3]


def test_command(bert: str, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dataset(tmp_path / "toy", texts)
    assert run_cli(main, [str(folder), "--encoder", bert, "--word_drop", "0.15", "--precision", "bf16"]) == 0
    said = capsys.readouterr()
    assert f"{len(texts)} items, width 32" in said.out
    assert "texts/s" in said.err
    assert (folder / "toy.feat2CLS").stat().st_size == len(texts) * 32 * 4
    assert run_cli(main, [str(tmp_path / "none"), "--encoder", bert]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


def test_start_is_quick() -> None:
    code = (
        "import sys; import dataset_tools.features, dataset_tools.mixture, dataset_tools.movielens; "
        "print([m for m in ('torch', 'transformers', 'polars', 'recbole', 'recbole_unisrec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
